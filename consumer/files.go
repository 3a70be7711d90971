package consumer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"mft/internal/kafka"
	"mft/protocol"
)

// DefaultAbandonAfter is how long a transfer without its end is waited for.
const DefaultAbandonAfter = 24 * time.Hour

// FilesConfig says which files to receive, and where. Dir is required.
type FilesConfig struct {
	// Group is shared by receivers that divide the files among them. "": one
	// of its own for host, directory and topic, so that every directory gets
	// all files and a restart goes on where the last run stopped.
	Config

	Dir string // made when missing

	// Once ends the call when everything that was in the topic at its start is
	// received. Without it the call ends with its context only.
	Once bool

	// Streams is how many connections fetch at a time, up to MaxStreams, also of
	// one partition; 0: one. Stream i begins with broker i of Brokers, counted
	// round.
	Streams int

	pieceBytes int64 // of one fetch of many, at least; 0: minPiece

	// AbandonAfter is how long after its last record a transfer without an end
	// is given up: its sender is gone, and until then its records hold back the
	// group's offset. 0: DefaultAbandonAfter, negative: never.
	AbandonAfter time.Duration

	// Keys decrypt files. With none, an encrypted file ends the call with a
	// *protocol.KeyError before the group's offset passes it. With some, a file
	// of another key fails, is passed over, and the offset does not pass it
	// before AbandonAfter, so that a run with its key receives it.
	Keys *protocol.Keyring
	// AcceptPlain receives files that are not encrypted also when there are
	// Keys. Otherwise they are refused: anyone who may write to the topic could
	// have made them.
	AcceptPlain bool

	OnConflict Conflict // "": ConflictOverwrite
	Route      *Route   // where files go by their names; nil: names stay as they are
	Metadata   Metadata // what is taken over of files; mode and mtime always
	Hook       *Hook    // what is run after each file; nil: nothing

	// NoReceipts writes no receipts, and reads none: the group then remembers
	// what it has placed only as far as this receiver does.
	NoReceipts bool

	// NoSync leaves it to the system when files reach the disk. That is faster,
	// and after a power cut, or a crash of the system, files that count as placed may
	// be missing, empty or damaged. A receiver that dies alone loses nothing.
	NoSync bool

	Events Events
}

// ReceiveFiles receives the files of a topic into a directory until ctx ends
// or, with Once, the topic's end is reached. What it counts as placed is
// durable under its name (but see NoSync); the group's offset is committed after that, never
// before.
//
// One receiver works in a directory at a time; a second one gets a *BusyError.
// A broker that is away is waited for. A topic that is missing is waited for,
// with Once it is a *TopicError. A topic that is deleted is waited for, too,
// and received from its beginning when it is made again.
//
// Files that cannot be placed are counted, told by Events.Failed and passed
// over. A full disk, a missing permission and the like stop the receiving
// until they are put right. The error is nil when ctx ended the call.
func ReceiveFiles(ctx context.Context, cfg FilesConfig) (Summary, error) {
	began := time.Now()
	if err := cfg.check(); err != nil {
		return Summary{}, err
	}
	if cfg.Streams < 0 || cfg.Streams > MaxStreams {
		return Summary{}, fmt.Errorf("%d streams: use 1 to %d", cfg.Streams, MaxStreams)
	}
	if err := errors.Join(cfg.OnConflict.check(), cfg.Hook.Check()); err != nil {
		return Summary{}, err
	}
	target, err := openTarget(cfg.Dir)
	if err != nil {
		return Summary{}, err
	}
	if cfg.Group == "" {
		if cfg.Group, err = DefaultGroup(target.dir, cfg.Topic); err != nil {
			return Summary{}, errors.Join(err, target.close())
		}
	}
	if cfg.AbandonAfter == 0 {
		cfg.AbandonAfter = DefaultAbandonAfter
	}
	target.noSync, target.work.intents.noSync = cfg.NoSync, cfg.NoSync
	report := &reporter{events: cfg.Events}
	target.keep = metadataSetter{Metadata: cfg.Metadata, note: report.noted}
	receipts, err := newReceipts(&cfg, target, cfg.Watch)
	if err != nil {
		return Summary{}, errors.Join(err, target.close())
	}
	placer := newPlacer(ctx, &cfg, target, report, receipts)
	r := &receiver{cfg: &cfg, target: target, placer: placer, receipts: receipts, report: report, watch: cfg.Watch}
	r.keeper = newKeeper(target.work, cfg.Logger, placer.fail)
	r.recover()
	err = r.run(ctx)
	receipts.stop() // what is not acknowledged by now is for the next run
	placer.close()
	receipts.close()
	stay, keepErr := r.keeper.close()
	target.work.stay, err = stay, errors.Join(err, keepErr)
	err = errors.Join(err, target.close())
	return report.total(began), err
}

// DefaultGroup is the consumer group of a receiver whose FilesConfig names
// none: one for each directory of each host, and topic.
func DefaultGroup(dir, topic string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("directory %s: %w", dir, err)
	}
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("a consumer group needs the host's name: %w: name a group yourself", err)
	}
	sum := sha256.Sum256([]byte(dir + "\x00" + topic))
	return "mft-" + host + "-" + hex.EncodeToString(sum[:4]), nil
}

// receiver runs sessions, one after another: a session ends when its topic is
// gone, and the next one waits for it.
type receiver struct {
	cfg      *FilesConfig
	target   *target
	placer   *placer
	receipts *receipts
	report   *reporter
	watch    *kafka.Watch
	keeper   *keeper
}

var (
	errTopicGone = errors.New("the topic was deleted")
	errTopicNew  = errors.New("the topic was deleted and made again")
	errReached   = errors.New("the end of the topic is reached")
)

func (r *receiver) run(ctx context.Context) error {
	for {
		err := r.session(ctx)
		switch {
		case errors.Is(err, errReached):
			return nil
		case errors.Is(err, errSpoiled):
			r.cfg.Logger.Warn().Str("dir", r.cfg.Dir).Err(err).Msg("what was received in part is received again from its beginning")
			r.keeper.discard(err.Error())
		case errors.Is(err, errTopicGone), errors.Is(err, errTopicNew):
			r.keeper.discard(err.Error())
			if r.cfg.Once {
				return &TopicError{r.cfg.Topic, err.Error() + " while it was read", nil}
			}
			r.cfg.Logger.Warn().Str("topic", r.cfg.Topic).Err(err).Msg("receiving starts over with the new topic, once it is there")
		case ctx.Err() != nil:
			return nil
		default:
			return err
		}
	}
}

// connectTimeout is how long to wait for the first broker; 0: for ever.
func (r *receiver) connectTimeout() time.Duration {
	switch {
	case r.cfg.ConnectTimeout > 0:
		return r.cfg.ConnectTimeout
	case r.cfg.ConnectTimeout == 0 && r.cfg.Once:
		return DefaultConnectTimeout
	}
	return 0
}
