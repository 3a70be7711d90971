// Package kafka is what mft's producers and consumers have in common as
// clients of a broker: what they say when it is away, and back, and where the
// Kafka client's own log goes.
package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"
)

// UnreachableError tells that no broker answered in time. The commands add
// what to do.
type UnreachableError struct {
	Brokers []string
	Waited  time.Duration
	Err     error // of the last attempt; may be nil
}

func (e *UnreachableError) Error() string {
	text := fmt.Sprintf("no broker at %s answered within %s", strings.Join(e.Brokers, ", "), e.Waited.Round(time.Millisecond))
	if e.Err != nil {
		text += " (" + e.Err.Error() + ")"
	}
	return text
}

// Unwrap returns the error of the last attempt.
func (e *UnreachableError) Unwrap() error { return e.Err }

// Watch is a hook of the client that tells, once each, that a broker is
// away and that it is back.
type Watch struct {
	log zerolog.Logger

	mu        sync.Mutex
	connected bool                 // some broker has answered
	away      map[string]time.Time // since when, by address; zero: never seen
	last      error                // of the last failed connection
	full      bool                 // a broker cannot store what it is sent

	suspicious atomic.Bool // see Suspect
}

// NewWatch returns a Watch that tells log.
func NewWatch(log zerolog.Logger) *Watch {
	return &Watch{log: log, away: make(map[string]time.Time)}
}

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (w *Watch) OnBrokerConnect(meta kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if errors.Is(err, context.Canceled) || errors.Is(err, kgo.ErrClientClosed) {
		return
	}
	addr := net.JoinHostPort(meta.Host, strconv.Itoa(int(meta.Port)))
	w.mu.Lock()
	defer w.mu.Unlock()
	since, wasAway := w.away[addr]
	if err == nil {
		w.connected = true
		delete(w.away, addr)
		if !since.IsZero() {
			w.log.Warn().Str("broker", addr).Stringer("away", time.Since(since).Round(time.Millisecond)).Msg("the broker is back")
		}
		return
	}
	w.last = err
	switch {
	case wasAway:
	case !w.connected: // the first connection has a message of its own
		w.away[addr] = time.Time{}
	default:
		w.away[addr] = time.Now()
		w.log.Warn().Str("broker", addr).Err(err).Msg("the broker is away, waiting for it")
	}
}

// State says in a sentence how it is with the brokers.
func (w *Watch) State() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.connected {
		text := "no broker has answered yet"
		if w.last != nil {
			text += " (" + w.last.Error() + ")"
		}
		return text
	}
	var away []string
	for addr, since := range w.away {
		if !since.IsZero() {
			away = append(away, fmt.Sprintf("%s is away for %s", addr, time.Since(since).Round(time.Second)))
		}
	}
	if w.full {
		away = append(away, "cannot store what it is sent, its disk is full or fails")
	}
	if len(away) == 0 {
		return "connected"
	}
	slices.Sort(away)
	return strings.Join(away, ", ")
}

// EverConnected reports whether any broker was ever reached.
func (w *Watch) EverConnected() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.connected
}

// LastError is why the last failed connection failed; nil when none did.
func (w *Watch) LastError() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}
