package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"mft/internal/command"
	"mft/internal/config"
	"mft/internal/terminal"
	"mft/producer"
)

// watchOptions are the flags of watched directories.
type watchOptions struct {
	watch      bool
	doneMarker string
	settle     time.Duration
	scanEvery  time.Duration
	after      string
}

// watchFlags say something about watched directories only.
var watchFlags = []string{"done-marker", "settle", "scan-every", "after"}

func (w *watchOptions) add(flags *pflag.FlagSet) {
	flags.BoolVar(&w.watch, "watch", false, "stay, and send files of the directories as they become complete")
	flags.StringVar(&w.doneMarker, "done-marker", "", "with --watch: a file is complete when there is one of its name with `SUFFIX` beside it, as .done")
	flags.DurationVar(&w.settle, "settle", producer.DefaultSettle, "with --watch: a file is complete when it has not changed for this `TIME`")
	flags.DurationVar(&w.scanEvery, "scan-every", producer.DefaultScanEvery, "with --watch: look at everything after this `TIME`, for what the system did not tell")
	flags.StringVar(&w.after, "after", "keep", "with --watch: `WHAT` becomes of a file that is sent: keep, delete or move=DIR")
}

// options are what the flags say, then the source (nil: the command line's).
func (w *watchOptions) options(flags *pflag.FlagSet, files producer.FileOptions, t *config.Watch) (producer.WatchOptions, error) {
	o := producer.WatchOptions{FileOptions: files, Settle: w.settle, DoneMarker: w.doneMarker, ScanEvery: w.scanEvery}
	after := w.after
	if t != nil {
		if t.DoneMarker != "" && !flags.Changed("done-marker") {
			o.DoneMarker = t.DoneMarker
		}
		if t.Settle > 0 && !flags.Changed("settle") {
			o.Settle = t.Settle
		}
		if t.ScanEvery > 0 && !flags.Changed("scan-every") {
			o.ScanEvery = t.ScanEvery
		}
		if t.After != "" && !flags.Changed("after") {
			after = t.After
		}
	}
	for name, d := range map[string]time.Duration{"settle": o.Settle, "scan-every": o.ScanEvery} {
		if d <= 0 {
			return o, command.Usagef("--%s %s: give more than nothing", name, d)
		}
	}
	var err error
	if o.After, err = producer.ParseAfter(after); err != nil {
		return o, command.Usagef("--after: %w", err)
	}
	return o, nil
}

// watched makes cfg that of something that stays: a broker that is not there
// yet is waited for.
func (r *runner) watched(cfg producer.Config) producer.Config {
	if r.timeout == 0 {
		cfg.ConnectTimeout = -1
	}
	return cfg
}

// watchDirs sends the files of directories until ctx ends.
func (r *runner) watchDirs(ctx context.Context, dirs []string) error {
	o, err := r.watching.options(r.flags, producer.FileOptions{Include: r.include, Exclude: r.exclude}, nil)
	if err != nil {
		return err
	}
	cfg := r.watched(r.producerConfig(config.Transfer{}))
	if err := r.encrypt(&cfg, config.Transfer{}, r.Logger(r.err)); err != nil {
		return err
	}
	progress := r.progress(ctx)
	cfg.Logger = r.logger(progress.Writer())
	sum, err := r.watchOnce(ctx, cfg, progress, dirs, o)
	r.closeProgress(progress, sum)
	if err != nil {
		return err
	}
	return filesError(sum)
}

func (r *runner) watchOnce(ctx context.Context, cfg producer.Config, progress *terminal.Progress, dirs []string, o producer.WatchOptions) (producer.Summary, error) {
	cfg.Events = fileEvents(progress)
	r.viewed(&cfg)
	return with(cfg, func(p *producer.Producer) (producer.Summary, error) { return p.Watch(ctx, dirs, o) })
}

// listFailed prints the files that could finally not be sent.
func (r *runner) listFailed() error {
	failed, err := r.failedFiles()
	if err != nil {
		return err
	}
	for _, f := range failed {
		if r.JSON {
			err = json.NewEncoder(r.out).Encode(f)
		} else {
			_, err = fmt.Fprintf(r.out, "%s\t%s\t%s\t%s\n", f.At.Local().Format(time.DateTime), f.Topic, f.Path, f.Reason)
		}
		if err != nil {
			return err
		}
	}
	if len(failed) == 0 && !r.JSON {
		fmt.Fprintln(r.err, "no file has failed")
	}
	return nil
}

func (r *runner) failedFiles() ([]producer.FailedFile, error) {
	if r.state == command.NoState || r.state == "" {
		return nil, command.Usagef("without a state directory nothing is known of files that failed: name one with --state DIR")
	}
	return producer.Failed(r.state, r.topic)
}

// retryFailed sends the files that could not be sent to the topic.
func (r *runner) retryFailed(ctx context.Context) error {
	failed, err := r.failedFiles()
	if err != nil {
		return err
	}
	if len(failed) == 0 {
		fmt.Fprintf(r.err, "no file has failed for topic %s\n", r.topic)
		return nil
	}
	cfg := r.producerConfig(config.Transfer{})
	if err := r.encrypt(&cfg, config.Transfer{}, r.Logger(r.err)); err != nil {
		return err
	}
	progress := r.progress(ctx)
	cfg.Logger = r.logger(progress.Writer())
	cfg.Events = fileEvents(progress)
	r.viewed(&cfg)
	sum, err := with(cfg, func(p *producer.Producer) (producer.Summary, error) { return p.SendFailed(ctx, failed) })
	r.closeProgress(progress, sum)
	return errors.Join(err, filesError(sum))
}
