package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/rs/zerolog"

	"mft/internal/command"
	"mft/internal/config"
	"mft/internal/kafka"
	"mft/internal/terminal"
	"mft/producer"
	"mft/protocol"
)

// runner does what one command line asks for.
type runner struct {
	*options
	in       io.Reader
	out, err io.Writer
	notes    []string // of the configuration, to be told
	keys     map[string]*sourceKey

	view   command.View // of the brokers
	unshow func()       // ends showing the state
}

// logger makes the log and tells the notes.
func (r *runner) logger(w io.Writer) zerolog.Logger {
	log := r.Logger(w)
	for _, note := range r.notes {
		log.Warn().Str("file", r.Config).Msg(note)
	}
	return log
}

func (r *runner) progress(ctx context.Context) *terminal.Progress {
	o := terminal.Options{Err: r.err, Mode: r.Progress, Verb: "sent"}
	if r.JSON {
		o.JSON = r.out
	}
	progress := terminal.New(o)
	r.unshow = command.Show(ctx, true, func() string { return progress.State(r.view.Lines()...) })
	return progress
}

// viewed has the state tell of the brokers that cfg names.
func (r *runner) viewed(cfg *producer.Config) {
	cfg.Watch = kafka.NewWatch(cfg.Logger)
	r.view.Add("to topic "+cfg.Topic, cfg.Brokers, cfg.Watch, cfg.Limiter)
}

// with makes a Producer for the time that send runs.
func with(cfg producer.Config, send func(p *producer.Producer) (producer.Summary, error)) (producer.Summary, error) {
	p, err := producer.New(cfg)
	if err != nil {
		return producer.Summary{}, command.Usagef("%w", err)
	}
	sum, err := send(p)
	err = errors.Join(err, p.Close())
	if _, ok := errors.AsType[*kafka.UnreachableError](err); ok {
		err = command.Hintf(err, "start mft-broker there, or name the broker with -b HOST:PORT")
	}
	if _, ok := errors.AsType[*producer.ArgumentError](err); ok {
		err = command.Usagef("%w", err)
	}
	return sum, err
}

// sendFiles sends the paths of the command line.
func (r *runner) sendFiles(ctx context.Context, paths []string) error {
	cfg := r.producerConfig(config.Transfer{})
	if err := r.encrypt(&cfg, config.Transfer{}, r.Logger(r.err)); err != nil {
		return err
	}
	progress := r.progress(ctx)
	cfg.Logger = r.logger(progress.Writer())
	sum, err := r.filesOnce(ctx, cfg, progress, paths, producer.FileOptions{Include: r.include, Exclude: r.exclude})
	r.closeProgress(progress, sum)
	if err != nil {
		return err
	}
	return filesError(sum)
}

// closeProgress prints the summary, and what is not part of it.
func (r *runner) closeProgress(progress *terminal.Progress, sum producer.Summary) {
	r.unshow()
	progress.Close()
	if r.JSON {
		return
	}
	if sum.Skipped > 0 {
		fmt.Fprintf(r.err, "skipped %s: only files, directories and links are sent\n", entries(sum.Skipped))
	}
	if sum.Unended > 0 {
		fmt.Fprintf(r.err, "sent %s in part: the same command goes on with it\n", terminal.Count(sum.Unended, "file"))
	}
}

func entries(n int) string {
	if n == 1 {
		return "1 entry"
	}
	return fmt.Sprintf("%d entries", n)
}

// filesOnce sends files and shows how it goes.
func (r *runner) filesOnce(ctx context.Context, cfg producer.Config, progress *terminal.Progress, paths []string, o producer.FileOptions) (producer.Summary, error) {
	cfg.Events = fileEvents(progress)
	r.viewed(&cfg)
	return with(cfg, func(p *producer.Producer) (producer.Summary, error) { return p.SendFiles(ctx, paths, o) })
}

// fileEvents shows what happens to files.
func fileEvents(progress *terminal.Progress) producer.Events {
	return producer.Events{
		Confirmed: func(id, name string, r protocol.Receipt) {
			progress.Confirm(id, name, terminal.Receiver{Group: r.Group, Host: r.Host, Path: r.Path, Digest: r.Digest})
		},
		Unconfirmed: progress.Unconfirmed,
		Waiting:     progress.Waiting,

		Found:   progress.Expect,
		Begin:   progress.Begin,
		Advance: progress.Advance,
		Done:    progress.Done,
		Failed:  progress.Fail,
		Skipped: func(name, reason string) { progress.Warn(name, "skipped: "+reason) },
		Resumed: func(id, _ string, bytes int64) { progress.Resume(id, bytes) },
		Retried: func(id, name string, why error) { progress.Drop(id, name, fmt.Errorf("%w: sending it anew", why)) },
	}
}

// filesError is the error of files that could not be sent, or are not
// confirmed; nil when there are none.
func filesError(sum producer.Summary) error {
	switch {
	case sum.Unconfirmed > 0 && sum.Failed == 0:
		return command.Partlyf("%d of %d files and directories are sent and not confirmed: they are listed above", sum.Unconfirmed, sum.Unconfirmed+sum.Confirmed)
	case sum.Unconfirmed > 0:
		return command.Partlyf("%d files and directories could not be sent, %d are sent and not confirmed: they are listed above", sum.Failed, sum.Unconfirmed)
	case sum.Failed == 0:
		return nil
	case sum.Files+sum.Dirs == 0:
		return command.Hintf(errors.New("nothing could be sent"), "the reasons are above")
	}
	return command.Partlyf("%d of %d files and directories could not be sent: the reasons are above", sum.Failed, sum.Failed+sum.Files+sum.Dirs)
}

// sendInput sends the lines of the standard input.
func (r *runner) sendInput(ctx context.Context) error {
	lines, err := r.lineOptions()
	if err != nil {
		return err
	}
	if terminal.Is(r.err) && isTerminalInput(r.in) {
		fmt.Fprintf(r.err, "type lines for topic %s; Ctrl-D ends\n", r.topic)
	}
	cfg := r.producerConfig(config.Transfer{})
	cfg.Logger = r.logger(r.err)
	if err := r.encrypt(&cfg, config.Transfer{}, cfg.Logger); err != nil {
		return err
	}
	return r.lines(cfg, func(p *producer.Producer) (producer.Summary, error) { return p.SendLines(ctx, r.in, lines) })
}

func isTerminalInput(in io.Reader) bool {
	w, ok := in.(io.Writer) // *os.File is both
	return ok && terminal.Is(w)
}

// sendFollowed sends the lines of a growing file.
func (r *runner) sendGrowing(ctx context.Context) error {
	lines, err := r.lineOptions()
	if err != nil {
		return err
	}
	fromEnd, err := r.fromEnd()
	if err != nil {
		return err
	}
	cfg := r.producerConfig(config.Transfer{})
	cfg.Logger = r.logger(r.err)
	if err := r.encrypt(&cfg, config.Transfer{}, cfg.Logger); err != nil {
		return err
	}
	return r.followFile(ctx, cfg, r.follow, producer.FollowOptions{LineOptions: lines, FromEnd: fromEnd})
}

func (r *runner) followFile(ctx context.Context, cfg producer.Config, path string, o producer.FollowOptions) error {
	return r.lines(cfg, func(p *producer.Producer) (producer.Summary, error) { return p.Follow(ctx, path, o) })
}

// lines sends lines, tells of those that were left out, and sums up.
func (r *runner) lines(cfg producer.Config, send func(p *producer.Producer) (producer.Summary, error)) error {
	cfg.Events.Failed = func(_, name string, why error) {
		if r.JSON {
			r.emit(lineEvent{Event: "failed", Name: name, Message: why.Error()})
		}
		fmt.Fprintf(r.err, "failed: %v\n", why)
	}
	cfg.Streams = 0 // lines go in order
	sum, err := with(cfg, send)
	if r.JSON {
		r.emit(lineEvent{Event: "summary", Topic: cfg.Topic, Records: &sum.Records, Bytes: &sum.Bytes, Failed: &sum.Failed, Seconds: sum.Elapsed.Seconds()})
	} else if err == nil || sum.Records > 0 {
		text := fmt.Sprintf("sent %s, %s in %s (%s)", terminal.Count(int(sum.Records), "line"), terminal.Size(sum.Bytes),
			terminal.Seconds(sum.Elapsed), terminal.Rate(sum.Bytes, sum.Elapsed))
		if sum.Failed > 0 {
			text += fmt.Sprintf(", %d failed", sum.Failed)
		}
		fmt.Fprintln(r.err, text)
	}
	switch {
	case err != nil:
		return err
	case sum.Failed > 0 && sum.Records == 0:
		return command.Hintf(errors.New("no line could be sent"), "the reasons are above")
	case sum.Failed > 0:
		return command.Partlyf("%d of %d lines could not be sent: raise max.message.bytes of the topic for longer ones", sum.Failed, int64(sum.Failed)+sum.Records)
	}
	return nil
}

// lineEvent is one JSON event about lines.
type lineEvent struct {
	Event   string  `json:"event"` // failed, summary
	Topic   string  `json:"topic,omitempty"`
	Name    string  `json:"name,omitempty"`
	Message string  `json:"message,omitempty"`
	Records *int64  `json:"records,omitempty"`
	Bytes   *int64  `json:"bytes,omitempty"`
	Failed  *int    `json:"failed,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
}

// emit writes an event. A reader that went away takes the process with it
// (SIGPIPE); there is nobody left to tell of another failure.
func (r *runner) emit(e lineEvent) { _ = json.NewEncoder(r.out).Encode(e) }

// sendSources runs sources of transfer.yml: files one after another, growing
// files and watched directories beside them until ctx ends.
func (r *runner) sendSources(ctx context.Context, sources []config.Transfer) error {
	var files, growing, watched []config.Transfer
	for _, t := range sources {
		switch {
		case t.Source.Follow, t.Source.Realtime:
			growing = append(growing, t)
		case t.Source.Watch != nil:
			watched = append(watched, t)
		default:
			files = append(files, t)
		}
	}
	// A passphrase is asked for before there is a progress bar.
	if err := r.encrypt(&producer.Config{}, config.Transfer{}, r.Logger(r.err)); err != nil {
		return err
	}
	logTo := r.err
	var progress *terminal.Progress
	if len(files)+len(watched) > 0 {
		progress = r.progress(ctx)
		logTo = progress.Writer()
	}
	log := r.logger(logTo)

	var (
		followers sync.WaitGroup
		mu        sync.Mutex
		errs      []error
	)
	failed := func(t config.Transfer, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", t.Name, err))
		}
	}
	for _, t := range growing {
		cfg := r.producerConfig(t)
		cfg.Logger = log.With().Str("transfer", t.Name).Logger()
		if err := r.encrypt(&cfg, t, cfg.Logger); err != nil {
			failed(t, err)
			continue
		}
		followers.Go(func() {
			if t.Source.Realtime {
				failed(t, r.mirror(ctx, cfg, t.Source.Paths, producer.FileOptions{Include: t.Source.Include, Exclude: t.Source.Exclude}))
			} else {
				failed(t, r.followFile(ctx, cfg, t.Source.Paths[0], producer.FollowOptions{}))
			}
		})
	}
	var total producer.Summary
	add := func(sum producer.Summary) {
		mu.Lock()
		defer mu.Unlock()
		total.Files += sum.Files
		total.Dirs += sum.Dirs
		total.Failed += sum.Failed
		total.Skipped += sum.Skipped
		total.Unended += sum.Unended
		total.Confirmed += sum.Confirmed
		total.Unconfirmed += sum.Unconfirmed
	}
	for _, t := range watched {
		cfg := r.watched(r.producerConfig(t))
		cfg.Logger = log.With().Str("transfer", t.Name).Logger()
		o, err := r.watching.options(r.flags, producer.FileOptions{Include: t.Source.Include, Exclude: t.Source.Exclude}, t.Source.Watch)
		if err = errors.Join(err, r.encrypt(&cfg, t, cfg.Logger)); err != nil {
			failed(t, err)
			continue
		}
		followers.Go(func() {
			sum, err := r.watchOnce(ctx, cfg, progress, t.Source.Paths, o)
			add(sum)
			failed(t, err)
		})
	}
	for _, t := range files {
		cfg := r.producerConfig(t)
		cfg.Logger = log.With().Str("transfer", t.Name).Logger()
		if err := r.encrypt(&cfg, t, cfg.Logger); err != nil {
			failed(t, err)
			continue
		}
		sum, err := r.filesOnce(ctx, cfg, progress, t.Source.Paths, producer.FileOptions{Include: t.Source.Include, Exclude: t.Source.Exclude})
		add(sum)
		failed(t, err)
		if ctx.Err() != nil {
			break
		}
	}
	if len(watched) > 0 {
		followers.Wait()
	}
	if progress != nil {
		r.closeProgress(progress, total)
	}
	followers.Wait()
	switch {
	case len(errs) == 0:
		return filesError(total)
	case len(errs) < len(sources) && ctx.Err() == nil:
		return command.Partlyf("%w", errors.Join(errs...))
	}
	return errors.Join(errs...)
}
