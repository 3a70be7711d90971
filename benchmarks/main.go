// Command benchmarks compares mft with Apache Kafka, NATS JetStream, and what else moves files. It fetches and starts the
// real systems on the loopback interface, one at a time, in a temporary directory, stops them, and writes what it found as
// raw data, tables and charts.
//
//	go run ./benchmarks          the short form
//	go run ./benchmarks -long    the long one
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"mft/benchmarks/report"
	"mft/benchmarks/system"
)

// Exit codes, as of mft's commands.
const (
	exitFailed = 1
	exitUsage  = 2
	exitPartly = 3
)

func main() { os.Exit(run(os.Args[1:])) }

// inside is the variable that tells the program that it is the one that measures, and where its tools are.
const inside = "MFT_BENCHMARKS_INSIDE"

// usageError is about the command line.
type usageError struct{ error }

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		<-ctx.Done()
		stop() // a second signal ends at once
	}()
	o, err := parse(args)
	if err == nil {
		switch {
		case o.render != "":
			err = render(o)
		case os.Getenv(inside) != "":
			err = measureInside(ctx, o)
		default:
			err = prepareAndMeasure(ctx, o, args)
		}
	}
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0: // it has said why
		return exit.ExitCode()
	case errors.As(err, new(usageError)):
		fmt.Fprintln(os.Stderr, "benchmarks:", err)
		return exitUsage
	case errors.Is(err, errPartly):
		fmt.Fprintln(os.Stderr, "benchmarks:", err)
		return exitPartly
	}
	fmt.Fprintln(os.Stderr, "benchmarks:", err)
	return exitFailed
}

// options are the flags.
type options struct {
	form       form
	systems    []string
	works      []string
	out        string
	work       string // directory to work in
	congestion string
	noInstall  bool
	render     string
}

func parse(args []string) (options, error) {
	var (
		o             options
		long, tiny    bool
		systems, work string
		reps          int
		limit         time.Duration
		disk          int64
	)
	flags := flag.NewFlagSet("benchmarks", flag.ContinueOnError)
	flags.BoolVar(&long, "long", false, "everything, at length: hours, and more disk")
	flags.BoolVar(&tiny, "tiny", false, "a little of everything, to see that it works: the figures mean nothing")
	flags.StringVar(&systems, "systems", strings.Join(system.Systems, ","), "`LIST` of what to compare; mft is always there")
	flags.StringVar(&work, "work", strings.Join(workNames(), ","), "`LIST` of what to measure")
	flags.IntVar(&reps, "reps", 0, "repeat each measurement `N` times (default: by the form)")
	flags.DurationVar(&limit, "limit", 0, "begin nothing new after this `TIME` (default: by the form)")
	flags.Int64Var(&disk, "disk", 0, "use at most so many `GB` of disk (default: by the form, and half of what is free)")
	flags.StringVar(&o.out, "out", "benchmark-results", "write results into `DIR`")
	flags.StringVar(&o.work, "dir", os.TempDir(), "work in a directory made in `DIR`, which tells what disk is measured")
	flags.StringVar(&o.congestion, "congestion", "reno", "TCP congestion `CONTROL` of every connection (Linux, as root; keep: the system's)")
	flags.BoolVar(&o.noInstall, "no-install", false, "install no packages of Debian, as root, for systems that are missing")
	flags.StringVar(&o.render, "render", "", "measure nothing: make the tables and charts from the raw data in `FILE`")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, err
		}
		return o, usageError{errors.New("see benchmarks -h")}
	}
	if flags.NArg() > 0 || long && tiny || reps < 0 || limit < 0 || disk < 0 {
		return o, usageError{errors.New("what is that? see benchmarks -h")}
	}
	o.form = shortForm()
	if long {
		o.form = longForm()
	} else if tiny {
		o.form = tinyForm()
	}
	if reps > 0 {
		o.form.reps, o.form.fewReps = reps, reps
	}
	if limit > 0 {
		o.form.limit = limit
	}
	if disk > 0 {
		o.form.disk = disk * 1e9
	}
	var err error
	if o.systems, err = list("systems", systems, system.Systems); err != nil {
		return o, err
	}
	if !slices.Contains(o.systems, "mft") {
		o.systems = append([]string{"mft"}, o.systems...)
	}
	if o.works, err = list("work", work, workNames()); err != nil {
		return o, err
	}
	o.out, err = filepath.Abs(o.out)
	return o, err
}

func list(name, text string, known []string) ([]string, error) {
	var all []string
	for s := range strings.SplitSeq(text, ",") {
		if s = strings.TrimSpace(s); !slices.Contains(known, s) {
			return nil, usageError{fmt.Errorf("-%s %q: use some of %s", name, s, strings.Join(known, ","))}
		}
		all = append(all, s)
	}
	return all, nil
}

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// prepareAndMeasure fetches and builds, which needs a network, and then measures in a process that has one of its own, if
// that is possible.
func prepareAndMeasure(ctx context.Context, o options, args []string) (err error) {
	dir, err := os.MkdirTemp(o.work, "mft-benchmarks-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	say("fetching and building %s", strings.Join(o.systems, ", "))
	tools, err := system.Prepare(ctx, dir, o.systems, !o.noInstall, say)
	if err != nil {
		return err
	}
	text, err := json.Marshal(tools)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "tools.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// The signals of a terminal reach the child, too, and it cleans up; others are passed on.
	child := exec.CommandContext(ctx, self, args...)
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	child.Env = append(os.Environ(), inside+"="+file)
	child.Cancel = func() error { return child.Process.Signal(syscall.SIGTERM) }
	if !system.Isolated(child) {
		return measureAll(ctx, o, tools, dir, "loopback, of the machine, with congestion control "+system.Congestion()+
			", which cannot be chosen here; mft chooses reno for itself where that is bbr")
	}
	return child.Run()
}

// measureInside is the child's part.
func measureInside(ctx context.Context, o options) error {
	if err := system.Inside(); err != nil {
		return err
	}
	if o.congestion != "keep" {
		if err := system.SetCongestion(o.congestion); err != nil {
			return fmt.Errorf("congestion control %s: %w; choose another with -congestion", o.congestion, err)
		}
	}
	file := os.Getenv(inside)
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var tools system.Tools
	if err := json.Unmarshal(text, &tools); err != nil {
		return err
	}
	return measureAll(ctx, o, &tools, filepath.Dir(file), "loopback, in a network namespace of its own, with congestion control "+system.Congestion()+" for every connection")
}

// errPartly says that something could not be measured.
var errPartly = errors.New("some measurements failed; the results name them")

// measureAll measures what was asked for, and writes what it found, also when it was interrupted.
func measureAll(ctx context.Context, o options, tools *system.Tools, dir, network string) error {
	r, err := newRunner(o, tools, dir, network)
	if err != nil {
		return err
	}
	err = r.all(ctx)
	if len(r.res.Samples) > 0 {
		if err := write(r.res, o.out); err != nil {
			return err
		}
		say("written: %s", filepath.Join(o.out, "RESULTS.md"))
	}
	if err != nil {
		return err
	}
	for _, v := range r.res.Verdicts() {
		if v.Ratio.N > 0 {
			fmt.Printf("%-6s %s, %s : %s: %s, aim %s\n", v.State, v.What, v.Of, v.To, v.Ratio, v.Aim)
		}
	}
	if slices.ContainsFunc(r.res.Samples, func(s report.Sample) bool { return s.Error != "" }) {
		return errPartly
	}
	return nil
}

// write writes the raw data, the tables and the charts.
func write(res *report.Results, dir string) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(res, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "results.json"), append(raw, '\n'), 0o644); err != nil {
		return err
	}
	for name, svg := range res.Charts() {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(svg), 0o644); err != nil {
			return err
		}
	}
	f, err := os.Create(filepath.Join(dir, "RESULTS.md"))
	if err != nil {
		return err
	}
	return errors.Join(res.Write(f), f.Close())
}

func render(o options) error {
	res, err := report.Load(o.render)
	if err != nil {
		return err
	}
	return write(res, o.out)
}
