package kafka

import (
	"strings"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Log passes what the Kafka client has to say on to the log, at debug
// level: what matters to a user is told by Watch and by the callers.
//
// With a Watch it also finds in what the client says that a broker cannot store
// what it is sent, which the client tries again without telling. The client
// says that only at a level that costs time for each request, so it is asked to
// when the Watch thinks that something is wrong.
type Log struct {
	Logger zerolog.Logger
	Watch  *Watch // nil: only the log
}

// Level implements kgo.Logger.
func (l Log) Level() kgo.LogLevel {
	if l.Watch != nil && l.Watch.suspicious.Load() {
		return kgo.LogLevelDebug
	}
	return l.level()
}

func (l Log) level() kgo.LogLevel {
	switch {
	case l.Logger.GetLevel() <= zerolog.TraceLevel:
		return kgo.LogLevelDebug
	case l.Logger.GetLevel() <= zerolog.DebugLevel:
		return kgo.LogLevelInfo
	}
	return kgo.LogLevelNone
}

// Log implements kgo.Logger.
func (l Log) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	if l.Watch != nil && msg == "produced" {
		for _, v := range keyvals {
			if text, ok := v.(string); ok && strings.Contains(text, kerr.KafkaStorageError.Message) {
				l.Watch.cannotStore()
			}
		}
	}
	if level <= l.level() {
		l.Logger.Debug().Fields(keyvals).Msg("kafka client: " + msg)
	}
}

// Suspect tells whether something seems to be wrong: records are on the way and
// none is acknowledged.
func (w *Watch) Suspect(on bool) { w.suspicious.Store(on) }

// cannotStore is told that a broker could not store what it was sent.
func (w *Watch) cannotStore() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.full {
		w.full = true
		w.log.Warn().Msg("the broker cannot store what it is sent: its disk is full, or fails. Waiting until there is room; nothing is lost, sending goes on by itself")
	}
}

// Stored tells that a broker has acknowledged a record.
func (w *Watch) Stored() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.full {
		w.full = false
		w.log.Warn().Msg("the broker stores again: sending goes on")
	}
}
