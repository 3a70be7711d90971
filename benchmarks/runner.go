package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mft/benchmarks/machine"
	"mft/benchmarks/report"
	"mft/benchmarks/system"
)

// work is a kind of work.
type work struct {
	name string
	do   func(*runner, context.Context) error
}

// works are the kinds of work, in the order in which they are done: what targets are about first.
var works = []work{
	{"start", (*runner).start},
	{"throughput", (*runner).throughput},
	{"latency", (*runner).latency},
	{"files", (*runner).files},
	{"fanout", (*runner).fanOut},
	{"catchup", (*runner).catchUp},
	{"tools", (*runner).kafkaTools},
	{"scale", (*runner).scale},
}

func workNames() []string {
	var all []string
	for _, w := range works {
		all = append(all, w.name)
	}
	return all
}

// runner measures.
type runner struct {
	options
	tools    *system.Tools
	dir      string
	deadline time.Time
	res      *report.Results
	space    space
	memory   *machine.Memory // nil: not to be filled
}

func newRunner(o options, tools *system.Tools, dir, network string) (*runner, error) {
	free, err := system.Free(dir)
	if err != nil {
		return nil, err
	}
	r := &runner{options: o, tools: tools, dir: dir, deadline: time.Now().Add(o.form.limit), space: space{budget: min(o.form.disk, free/2)}}
	r.res = &report.Results{
		Started: time.Now(), Form: o.form.name, Command: "go run ./benchmarks " + strings.Join(os.Args[1:], " "),
		Hardware: machine.Look(dir), Network: network, Versions: tools.Versions, Installed: tools.Installed, Settings: make(map[string]string),
	}
	for s, why := range tools.Missing {
		r.res.Skip(report.Skip{System: s, Reason: why})
	}
	return r, nil
}

// all does all the work that was asked for.
func (r *runner) all(ctx context.Context) (err error) {
	defer func() { r.res.Ended = time.Now() }()
	if r.form.memory {
		if r.memory, err = machine.NewMemory(r.dir); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, r.memory.Close()) }()
	}
	var asked []work
	for _, w := range works {
		if slices.Contains(r.works, w.name) {
			asked = append(asked, w)
		} else {
			r.res.Skip(report.Skip{System: "all", Work: report.Work(w.name), Reason: "not asked for"})
		}
	}
	for i, w := range asked {
		err := r.limits(ctx)
		if err == nil {
			say("%s", w.name)
			err = w.do(r, ctx)
		}
		if err != nil {
			for _, left := range asked[i:] {
				r.res.Skip(report.Skip{System: "all", Work: report.Work(left.name), Reason: "the run ended before this was done"})
			}
			return err
		}
	}
	return r.limits(ctx)
}

// fill has the page cache full, see machine.Memory.
func (r *runner) fill() error {
	if r.memory == nil {
		return nil
	}
	return r.memory.Fill()
}

// limits measures what the machine can do at this moment.
func (r *runner) limits(ctx context.Context) error {
	dir, err := r.newDir("limits")
	if err != nil {
		return err
	}
	if err := r.fill(); err != nil {
		return err
	}
	load, _ := machine.Load()
	found, err := machine.Limits(ctx, dir, r.form.limits)
	if err != nil {
		return err
	}
	r.res.Limits = append(r.res.Limits, report.LimitSample{At: time.Now(), Load: load, Limits: found})
	return r.retire(dir)
}

// brokers are those that can be run, of those that were asked for, and that some work is for.
func (r *runner) brokers(fit func(system.Broker) bool) []system.Broker {
	var all []system.Broker
	for _, b := range system.Brokers {
		if slices.Contains(r.systems, b.System) && r.tools.Has(b.System) && (fit == nil || fit(b)) {
			r.res.Settings[b.Name] = b.Settings()
			all = append(all, b)
		}
	}
	return all
}

// turns lets systems take turns: A B A B. do returns an error only when all has to end.
func (r *runner) turns(ctx context.Context, w report.Work, reps int, names []string, do func(i, rep int) error) error {
	for rep := 1; rep <= reps; rep++ {
		for i, name := range names {
			if err := ctx.Err(); err != nil {
				return err
			}
			if time.Now().After(r.deadline) {
				r.res.Skip(report.Skip{System: name, Work: w, Reason: fmt.Sprintf("from repetition %d on: the time of %v is over", rep, r.form.limit)})
				continue
			}
			if err := r.fill(); err != nil {
				return err
			}
			if err := do(i, rep); err != nil {
				return err
			}
		}
	}
	return nil
}

// session is one turn of a broker: started for it, and stopped after it.
type session struct {
	*runner
	*system.Server
	dir         string
	rep         int
	toolRecords int64 // that ProducerPerformance has produced
}

// sessions lets brokers take turns in sessions. What fails in one is noted, and the next one begins.
func (r *runner) sessions(ctx context.Context, w report.Work, reps int, brokers []system.Broker, do func(*session, context.Context) error) error {
	var names []string
	for _, b := range brokers {
		names = append(names, b.Name)
	}
	return r.turns(ctx, w, reps, names, func(i, rep int) error {
		dir, err := r.newDir(brokers[i].Name)
		if err != nil {
			return err
		}
		if err := r.session(ctx, brokers[i], dir, rep, do); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.failed(w, "session", brokers[i].Name, rep, err)
		}
		return r.retire(dir)
	})
}

func (r *runner) session(ctx context.Context, b system.Broker, dir string, rep int, do func(*session, context.Context) error) (err error) {
	server, err := r.tools.Start(ctx, b, dir)
	if err != nil {
		return err
	}
	s := &session{runner: r, Server: server, dir: dir, rep: rep}
	// The process may be another one by then: some work starts it again.
	defer func() { err = errors.Join(err, s.Stop()) }()
	return do(s, ctx)
}

// warm does a little of the same work, not measured: a virtual machine compiles what it runs often.
func (s *session) warm(ctx context.Context) error {
	l := system.Load{Topic: "warm-up", Size: 1 << 10, Duration: s.form.warmUp}
	for _, what := range []string{"produce", "consume"} {
		if _, err := s.tools.Client(s.Broker, s.Addr, what, l).Run(ctx); err != nil {
			return fmt.Errorf("warm up: %w", err)
		}
	}
	return s.settle()
}

// settle writes what is to be written, so that it is not written at the cost of what is measured next.
func (s *session) settle() error { return system.Sync(s.dir) }

// client runs a client to its end, fills found from what it prints, and returns how the broker used the machine meanwhile.
func (s *session) client(ctx context.Context, what string, l system.Load, found any) (use, error) {
	return s.watch(func() error { return s.measured(ctx, what, l, found) })
}

// measured runs a client to its end, and fills found from what it prints.
func (s *session) measured(ctx context.Context, what string, l system.Load, found any) error {
	out, err := s.tools.Client(s.Broker, s.Addr, what, l).Output(ctx)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, found); err != nil {
		return fmt.Errorf("%s printed %q: %w", what, out, err)
	}
	return nil
}

// use is how a broker used the machine during some work.
type use struct {
	cpu  float64 // seconds
	peak int64   // bytes of memory
	told bool
}

func (s *session) watch(do func() error) (use, error) {
	stop := s.Peak()
	before, ok1 := s.CPU()
	err := do()
	after, ok2 := s.CPU()
	peak, ok3 := stop()
	return use{after - before, peak, ok1 && ok2 && ok3}, err
}

// add adds what was used to values, for so many bytes of work.
func (u use) add(values map[report.Metric]float64, bytes int64) {
	if !u.told {
		return
	}
	values[report.RSSLoaded] = float64(u.peak) / (1 << 20)
	if bytes > 0 {
		values[report.BrokerCPU] = u.cpu / (float64(bytes) / 1e9)
	}
}

func (r *runner) add(w report.Work, c, name string, rep int, values map[report.Metric]float64) {
	var shown []string
	for _, m := range []report.Metric{report.MBPerS, report.RecordsPerS, report.Seconds, report.P50, report.P99, report.P999, report.FirstAck, report.RSSIdle} {
		if v, ok := values[m]; ok {
			shown = append(shown, fmt.Sprintf("%s %.4g", m, v))
		}
	}
	say("  %-11s %-9s %-28s #%d  %s", name, w, c, rep, strings.Join(shown, "  "))
	r.res.Add(report.Sample{Work: w, Case: c, System: name, Rep: rep, Values: values})
}

func (r *runner) failed(w report.Work, c, name string, rep int, err error) {
	say("  %-11s %-9s %-28s #%d  FAILED: %v", name, w, c, rep, err)
	r.res.Add(report.Sample{Work: w, Case: c, System: name, Rep: rep, Error: err.Error()})
}

// space bounds the disk that is used. What was measured stays until there is no room: deleting makes a file system slow
// for what comes next, and ext4 is slow to make many files soon after as many were removed.
type space struct {
	budget, used int64
	retired      []retired
	manyDeleted  time.Time // when many files were, last
	n            int
}

type retired struct {
	dir string
	system.Disk
}

// newDir makes a directory for something to be measured.
func (r *runner) newDir(name string) (string, error) {
	r.space.n++
	dir := filepath.Join(r.dir, fmt.Sprintf("%03d-%s", r.space.n, name))
	return dir, os.Mkdir(dir, 0o755)
}

// manyFiles is more than what a broker has. Directories with so many files are the last to be deleted.
const manyFiles = 5000

// deletedMatter is how long ext4 does not use a deleted file's inode again (recently_deleted in fs/ext4/ialloc.c: 60 s). Looking for another one
// between many of these takes up to 0.2 ms for each new file.
const deletedMatter = 65 * time.Second

// retire is for a directory that is not needed any more.
func (r *runner) retire(dir string) error {
	disk, err := system.DiskUse(dir)
	if err != nil {
		return err
	}
	r.space.retired = append(r.space.retired, retired{dir, disk})
	r.space.used += disk.Allocated
	// The next one needs room, too: a half is kept for it.
	for _, most := range []int{manyFiles, math.MaxInt} {
		if r.space.used > r.space.budget/2 {
			if err := r.remove(most); err != nil {
				return err
			}
		}
	}
	return system.Sync(r.dir)
}

// afterDeleting waits, where making many files is to be measured, until those that were deleted do not matter any more.
func (r *runner) afterDeleting(ctx context.Context) error {
	left := time.Until(r.space.manyDeleted.Add(deletedMatter))
	if left <= 0 {
		return nil
	}
	say("waiting for %v, since many files were deleted", left.Round(time.Second))
	select {
	case <-time.After(left):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// remove deletes what is not needed any more and has at most so many files.
func (r *runner) remove(most int) error {
	say("deleting what was measured: %d GB are in use", r.space.used/1e9)
	var kept []retired
	for _, old := range r.space.retired {
		if old.Files > most {
			kept = append(kept, old)
			continue
		}
		if err := os.RemoveAll(old.dir); err != nil {
			return err
		}
		if old.Files > manyFiles {
			r.space.manyDeleted = time.Now()
		}
		r.space.used -= old.Allocated
	}
	r.space.retired = kept
	return nil
}

// room is how many bytes one thing may take.
func (r *runner) room() int64 { return r.space.budget / 2 }
