package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"mft/benchmarks/report"
	"mft/benchmarks/system"
	"mft/internal/measure"
)

// files moves every set of files in every way.
func (r *runner) files(ctx context.Context) error {
	var movers []system.Mover
	var names []string
	for _, m := range system.Movers() {
		if slices.Contains(r.systems, m.System) && r.tools.Has(m.System) {
			r.res.Settings["files, "+m.Name] = m.Settings
			movers, names = append(movers, m), append(names, m.Name)
		}
	}
	help, err := system.Command{Path: r.tools.Command("mft-produce"), Args: []string{"--help"}}.Output(ctx)
	if err != nil {
		return err
	}
	for _, set := range r.form.sets {
		if set.streams > 0 && !strings.Contains(string(help), "--streams") {
			r.res.Skip(report.Skip{System: "mft", Work: report.Files, Reason: set.String() + ": mft-produce has no --streams"})
			continue
		}
		source, err := r.newDir("source")
		if err != nil {
			return err
		}
		files, bytes, err := set.make(ctx, source)
		if err != nil {
			return fmt.Errorf("make %s: %w", set, err)
		}
		if err := system.Sync(source); err != nil {
			return err
		}
		reps := r.form.reps
		if set.streams > 0 || set.text {
			reps = r.form.fewReps
		}
		err = r.turns(ctx, report.Files, reps, names, func(i, rep int) error {
			m := movers[i]
			if why := r.unfit(m, set, files, rep); why != "" {
				r.res.Skip(report.Skip{System: m.Name, Work: report.Files, Reason: set.String() + ": " + why})
				return nil
			}
			return r.move(ctx, m, set, source, files, bytes, rep)
		})
		if err != nil {
			return err
		}
		if err := r.retire(source); err != nil {
			return err
		}
	}
	return nil
}

// unfit says why a mover does not move a set, or returns nothing.
func (r *runner) unfit(m system.Mover, set fileSet, files, rep int) string {
	switch {
	case m.OneFile && files != 1:
		return "it moves one file only; see tar-nc"
	case set.streams > 0 && m.System != "mft" && m.System != "kafka":
		return "it has no streams to choose"
	case m.Slow && rep > 1 && !r.form.slow:
		return "more than one repetition takes too long for this form"
	case m.Slow && files > 1000 && !r.form.slow:
		return "it takes too long for this form"
	}
	return ""
}

// move moves a set once, checks what arrived, and notes how long it took.
func (r *runner) move(ctx context.Context, m system.Mover, set fileSet, source string, files int, bytes int64, rep int) error {
	dir, err := r.newDir(m.Name)
	if err != nil {
		return err
	}
	to := filepath.Join(dir, "to")
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	if err := r.afterDeleting(ctx); err != nil {
		return err
	}
	moved, err := m.Move(ctx, r.tools, system.Move{Dir: dir, From: source, To: to, Files: files, Streams: set.streams})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		err = system.Same(source, to)
	}
	if err != nil {
		r.failed(report.Files, set.String(), m.Name, rep, err)
		return r.retire(dir)
	}
	gb := float64(bytes) / 1e9
	values := map[report.Metric]float64{
		report.Seconds: moved.Wall.Seconds(), report.MBPerS: gb * 1000 / moved.Wall.Seconds(), report.ClientCPU: moved.ClientCPU / gb,
	}
	if moved.BrokerCPU > 0 {
		values[report.BrokerCPU] = moved.BrokerCPU / gb
	}
	if moved.Peak > 0 {
		values[report.RSSLoaded] = float64(moved.Peak) / (1 << 20)
	}
	r.add(report.Files, set.String(), m.Name, rep, values)
	return r.retire(dir)
}

// make makes the files in dir, and returns how many and how large they are in all.
func (s fileSet) make(ctx context.Context, dir string) (files int, bytes int64, err error) {
	if s.tree {
		return sourceTree(ctx, dir)
	}
	const inDir, piece = 100, 1 << 20
	for i := range s.files {
		sub := dir
		if s.files > 1 {
			sub = filepath.Join(dir, fmt.Sprintf("d%03d", i/inDir))
			if err := os.MkdirAll(sub, 0o755); err != nil {
				return 0, 0, err
			}
		}
		f, err := os.Create(filepath.Join(sub, fmt.Sprintf("f%05d", i)))
		if err != nil {
			return 0, 0, err
		}
		for left, k := s.size, uint64(i)<<8; left > 0 && err == nil; k++ {
			n := min(left, piece)
			_, err = f.Write(measure.Payload(int(n), !s.text, k))
			left -= n
		}
		if closed := f.Close(); err == nil {
			err = closed
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return 0, 0, err
		}
	}
	return s.files, int64(s.files) * s.size, nil
}

// sourceTree copies the sources of Go's own library, which whoever runs this has.
func sourceTree(ctx context.Context, dir string) (files int, bytes int64, err error) {
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return 0, 0, err
	}
	from := filepath.Join(strings.TrimSpace(string(root)), "src")
	err = filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		to := filepath.Join(dir, name)
		if d.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files, bytes = files+1, bytes+int64(len(text))
		return os.WriteFile(to, text, 0o644)
	})
	return files, bytes, err
}
