package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"mft/consumer"
	"mft/internal/command"
	"mft/internal/config"
	"mft/internal/kafka"
	"mft/internal/terminal"
	"mft/protocol"
)

// runner does what one command line asks for.
type runner struct {
	*options
	out, err io.Writer
	file     *config.Config

	view command.View // of the brokers
}

// logger makes the log and tells the notes of the configuration.
func (r *runner) logger(w io.Writer) zerolog.Logger {
	log := r.Logger(w)
	for _, note := range r.file.Notes {
		log.Warn().Str("file", r.Config).Msg(note)
	}
	return log
}

// receive runs destinations side by side, with the broker inside if asked for.
func (r *runner) receive(ctx context.Context, destinations []config.Transfer) error {
	if err := distinct(destinations); err != nil {
		return err
	}
	arrivals := make([]consumer.FilesConfig, len(destinations))
	for i, t := range destinations {
		var err error
		if arrivals[i], err = r.arrival(t.Destination); err != nil {
			return err
		}
	}
	if r.dryRun {
		return r.plan(ctx, destinations, arrivals)
	}
	shown := terminal.Options{Err: r.err, Mode: r.Progress, Verb: "received"}
	if r.JSON {
		shown.JSON = r.out
	}
	progress := terminal.New(shown)
	defer command.Show(ctx, true, func() string { return progress.State(r.view.Lines()...) })()
	log := r.logger(progress.Writer())
	limitMemory(destinations, r.streamsOf, r.embedded)
	var total consumer.Summary
	work := func(ctx context.Context) (err error) {
		total, err = r.receiveAll(ctx, destinations, arrivals, progress, log)
		return err
	}
	var err error
	if r.embedded {
		err = r.withBroker(ctx, log, work)
	} else {
		err = work(ctx)
	}
	progress.Close()
	if total.Repeated > 0 && !r.JSON && r.Progress != terminal.Never {
		fmt.Fprintf(r.err, "left alone: %s that this group has placed before; another group (-g) receives all\n", terminal.Count(total.Repeated, "file"))
	}
	switch {
	case err != nil:
		return err
	case r.once && ctx.Err() != nil:
		return ctx.Err()
	case total.Hooks > 0 && total.Refused+total.Failed+total.Unfinished > 0:
		return command.Partlyf("%d not placed, and the commands of %d that were failed: the reasons are above", total.Refused+total.Failed+total.Unfinished, total.Hooks)
	case total.Hooks > 0:
		return command.Partlyf("the commands of %s failed, which are in place: the reasons are above", terminal.Count(total.Hooks, "file"))
	case total.Partly():
		return command.Partlyf("%d not placed: the reasons are above", total.Refused+total.Failed+total.Unfinished)
	}
	return nil
}

// limitMemory has the garbage collected more eagerly when there is more memory
// than the buffers of so many receivers need. GOMEMLIMIT comes first.
func limitMemory(receivers []config.Transfer, streams func(config.Transfer) int, embedded bool) {
	limit := int64(64+96*len(receivers)) << 20
	for _, t := range receivers {
		if streams(t) > 1 {
			limit += 64 << 20
		}
	}
	if embedded {
		limit += 64 << 20
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit)
	}
}

// streamsOf is how many connections fetch for a transfer at a time.
func (r *runner) streamsOf(t config.Transfer) int {
	if t.Streams != 0 && !r.flags.Changed("streams") {
		return t.Streams
	}
	return r.streams
}

// distinct refuses two transfers into one directory: only one receiver works there.
func distinct(destinations []config.Transfer) error {
	by := make(map[string]string)
	for _, t := range destinations {
		dir, err := filepath.Abs(t.Destination.Path)
		if err != nil {
			return fmt.Errorf("directory %s: %w", t.Destination.Path, err)
		}
		if other, ok := by[dir]; ok {
			return command.Usagef("transfers %s and %s both receive into %s: give each a directory of its own", other, t.Name, dir)
		}
		by[dir] = t.Name
	}
	return nil
}

// receiveAll receives until ctx ends, with --once until all are received, or
// until one fails.
func (r *runner) receiveAll(ctx context.Context, destinations []config.Transfer, arrivals []consumer.FilesConfig, progress *terminal.Progress, log zerolog.Logger) (total consumer.Summary, err error) {
	rings, err := r.keyrings(destinations, log)
	if err != nil {
		return total, err
	}
	group, ctx := errgroup.WithContext(ctx)
	sums := make([]consumer.Summary, len(destinations))
	for i, t := range destinations {
		cfg := consumer.FilesConfig{
			OnConflict:   arrivals[i].OnConflict,
			Route:        arrivals[i].Route,
			Hook:         arrivals[i].Hook,
			Metadata:     arrivals[i].Metadata,
			Config:       r.consumerConfig(t.Topic, t.Group, t.Limit),
			Dir:          t.Destination.Path,
			Once:         r.once,
			AbandonAfter: r.abandon,
			NoReceipts:   r.noReceipts || t.Destination.NoReceipts,
			NoSync:       r.noFsync || t.Destination.NoSync && !r.flags.Changed("no-fsync"),
			Streams:      r.streamsOf(t),
			Keys:         rings[i],
			AcceptPlain:  r.acceptPlain || t.Encryption != nil && t.Encryption.AcceptPlain,
			Events: consumer.Events{
				Begin:   progress.Begin,
				Resumed: func(id, _ string, bytes int64) { progress.Resume(id, bytes) },
				Advance: progress.Advance,
				Done:    progress.Done,
				Failed:  progress.Fail,
				Renamed: func(_, name, as string) { progress.Warn(name, "placed as "+as) },
				Skipped: progress.Skip,
				Noted:   progress.Warn,
				Hook:    func(_, name string, why *consumer.HookError) { progress.Warn(name, why.Error()) },
				Dropped: func(_, _ string, why error) { log.Info().Err(why).Msg("dropped") },
			},
		}
		if cfg.AbandonAfter == 0 {
			cfg.AbandonAfter = -1
		}
		cfg.Logger, cfg.Watch = log, kafka.NewWatch(log)
		r.view.Add("from topic "+t.Topic, cfg.Brokers, cfg.Watch, cfg.Limiter)
		group.Go(func() (err error) {
			sums[i], err = consumer.ReceiveFiles(ctx, cfg)
			if err != nil && len(destinations) > 1 {
				err = fmt.Errorf("transfer %s: %w", t.Name, err)
			}
			return hinted(err)
		})
	}
	err = group.Wait()
	for _, s := range sums {
		total.Files, total.Dirs, total.Bytes = total.Files+s.Files, total.Dirs+s.Dirs, total.Bytes+s.Bytes
		total.Hooks += s.Hooks
		total.Repeated += s.Repeated
		total.Refused, total.Failed, total.Unfinished = total.Refused+s.Refused, total.Failed+s.Failed, total.Unfinished+s.Unfinished
	}
	return total, err
}

// keyrings makes the keys of every destination: those of the flags, else its own.
func (r *runner) keyrings(destinations []config.Transfer, log zerolog.Logger) ([]*protocol.Keyring, error) {
	load := func(from command.Keys) (*protocol.Keyring, error) {
		if from.None() {
			return nil, nil
		}
		keys, passphrases, notes, err := from.Load(os.Stdin, r.err, false)
		if err != nil {
			return nil, err
		}
		for _, note := range notes {
			log.Warn().Msg(note)
		}
		return protocol.NewKeyring(keys, passphrases)
	}
	given, err := load(command.Keys{Files: r.decryptKeys, PassphraseFiles: r.decryptPassphrases, Ask: r.decryptAsk})
	if err != nil {
		return nil, err
	}
	rings := make([]*protocol.Keyring, len(destinations))
	for i, t := range destinations {
		if rings[i] = given; given == nil && t.Encryption != nil {
			if rings[i], err = load(command.Keys{Files: t.Encryption.Keys, PassphraseFiles: t.Encryption.PassphraseFiles}); err != nil {
				return nil, fmt.Errorf("transfer %s: %w", t.Name, err)
			}
		}
	}
	return rings, nil
}

// hinted adds what to do.
func hinted(err error) error {
	if _, ok := errors.AsType[*kafka.UnreachableError](err); ok {
		return command.Hintf(err, "start mft-broker there, or name the broker with -b HOST:PORT")
	}
	return err
}
