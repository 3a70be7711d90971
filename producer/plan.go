package producer

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// Planned is one entry that Plan found.
type Planned struct {
	Path string
	Name string // that it is sent under
	Dir  bool
	Size int64  // bytes of a file
	Left string // why it is left out; "": it is sent
}

// Plan tells each what SendFiles would send with these arguments and what it
// would leave out, asking no broker and changing nothing. Files are opened, to
// see whether they can be read. The Summary counts what would be sent.
func (p *Producer) Plan(ctx context.Context, paths []string, o FileOptions, each func(Planned)) (Summary, error) {
	filter, err := newFilter(o.Include, o.Exclude)
	if err != nil {
		return Summary{}, err
	}
	roots, err := newRoots(paths)
	if err != nil {
		return Summary{}, err
	}
	return p.plan(ctx, roots, filter, true, each)
}

// PlanWatch is Plan for Watch: files that were sent before are left out, and
// directories are not sent.
func (p *Producer) PlanWatch(ctx context.Context, dirs []string, o WatchOptions, each func(Planned)) (Summary, error) {
	filter, err := newFilter(o.Include, o.Exclude)
	if err != nil {
		return Summary{}, err
	}
	w := &watcher{p: p, o: o}
	if err := w.checkDirs(dirs); err != nil {
		return Summary{}, err
	}
	var roots []root
	ledgers := make(map[string]*watchLedger)
	for _, d := range w.dirs {
		stateDir := ""
		if p.cfg.StateDir != "" {
			stateDir = filepath.Join(p.cfg.StateDir, watchKind)
		}
		if ledgers[d.path], err = readLedger(stateDir, d.abs, p.cfg.Topic); err != nil {
			return Summary{}, err
		}
		roots = append(roots, d.root)
	}
	var moved string
	if o.After.Kind == AfterMove {
		if moved, err = filepath.Abs(o.After.Dir); err != nil {
			return Summary{}, err
		}
	}
	var sum Summary
	all, err := p.plan(ctx, roots, filter, false, func(f Planned) {
		if f.Left == "" {
			f.Left = w.leaves(f, ledgers, moved)
		}
		if f.Left == "" {
			sum.Files++
			sum.Bytes += f.Size
		}
		each(f)
	})
	sum.Failed, sum.Skipped, sum.Elapsed = all.Failed, all.Skipped, all.Elapsed
	return sum, err
}

// leaves says why a watcher would not send a file now.
func (w *watcher) leaves(f Planned, ledgers map[string]*watchLedger, moved string) string {
	abs, err := filepath.Abs(f.Path)
	if err != nil {
		return err.Error()
	}
	if moved != "" && within(abs, moved) {
		return "it is where files are moved to"
	}
	d, name := w.dirOf(abs)
	if d == nil {
		return ""
	}
	if marker := w.o.DoneMarker; marker != "" {
		if base := filepath.Base(f.Path); len(base) > len(marker) && base[len(base)-len(marker):] == marker {
			return "it is a done-marker"
		}
		if _, err := os.Lstat(f.Path + marker); err != nil {
			return "it has no done-marker"
		}
	}
	info, err := os.Lstat(f.Path)
	if err != nil {
		return err.Error()
	}
	if reason := irregular(info.Mode()); reason != "" {
		return reason
	}
	if known, ok := ledgers[d.path].look(name); ok && known.sameContent(stampOf(info)) {
		return "it was sent before"
	}
	return ""
}

// plan walks and tells each what it finds.
func (p *Producer) plan(ctx context.Context, roots []root, filter filter, dirs bool, each func(Planned)) (Summary, error) {
	r := p.newRun(ctx)
	r.letters = &deadLetters{}
	found := make(chan source, walkAhead)
	left := func(path, name string, size int64, why string) { // in order with what is sent
		found <- source{path: path, name: name, size: size, left: why}
	}
	w := &walker{run: r, filter: filter, found: found, leftOut: left}
	var walk sync.WaitGroup
	walk.Go(func() {
		defer close(found)
		for _, root := range roots {
			w.walkRoot(r.ctx, root)
		}
	})
	sent := func(f Planned) {
		r.tell(func(sum *Summary, _ *Events) {
			if f.Dir {
				sum.Dirs++
			} else {
				sum.Files++
				sum.Bytes += f.Size
			}
		})
		each(f)
	}
	for f := range found {
		if f.left != "" {
			each(Planned{Path: f.path, Name: f.name, Size: f.size, Left: f.left})
			continue
		}
		var size int64
		var err error
		if !f.link {
			size, err = readable(f.path)
		}
		if err != nil {
			r.failed("", f.name, err)
			each(Planned{Path: f.path, Name: f.name, Left: err.Error()})
			continue
		}
		sent(Planned{Path: f.path, Name: f.name, Size: size})
	}
	walk.Wait()
	if dirs {
		for _, d := range w.dirs {
			sent(Planned{Path: d.path, Name: d.name, Dir: true})
		}
	}
	return r.end()
}

// readable tells whether a file can be opened, and its size.
func readable(path string) (size int64, err error) {
	file, err := openFile(path)
	if err != nil {
		return 0, err
	}
	info, err := file.Stat()
	if err != nil {
		return 0, errors.Join(err, file.Close())
	}
	return info.Size(), file.Close()
}

// readLedger reads a ledger without taking it: another process may have it.
func readLedger(stateDir, dir, topic string) (*watchLedger, error) {
	l := &watchLedger{entries: make(map[ledgerKey]ledgerEntry)}
	if stateDir == "" {
		return l, nil
	}
	l.path = ledgerPath(stateDir, dir, topic)
	file, err := os.Open(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, err
	}
	_, err = l.read(io.Reader(file))
	return l, errors.Join(err, file.Close())
}
