package producer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"mft/protocol"
)

// source is a file or directory to be sent.
type source struct {
	path  string // to open it
	name  string // of its transfer: slash separated, relative to the target directory
	dir   bool
	link  bool
	tries int // that failed so far

	taken *taken // for a watcher; nil: for nobody

	left string // for Plan: why it is left out; "": it is sent
	size int64  // of what is left out
}

// root is one argument of SendFiles. As with cp and rsync, "dir" stands for
// the directory with its name, "dir/" for what is in it.
type root struct {
	path string
	name string // "" for the contents of path
}

func newRoot(arg string) (root, error) {
	if arg == "" {
		return root{}, &ArgumentError{"a path is empty"}
	}
	base := filepath.Base(filepath.Clean(arg))
	if os.IsPathSeparator(arg[len(arg)-1]) || base == "." || base == ".." || os.IsPathSeparator(base[0]) {
		return root{path: arg}, nil
	}
	return root{path: arg, name: base}, nil
}

// filter chooses files by globs. A pattern without a slash is matched against
// the last part of the name, one with a slash against the whole name below
// the source root, where ** stands for any number of parts.
type filter struct{ include, exclude []string }

func newFilter(include, exclude []string) (filter, error) {
	for _, patterns := range [][]string{include, exclude} {
		for _, pattern := range patterns {
			if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
				return filter{}, &ArgumentError{fmt.Sprintf("%q is not a glob: use *, ?, [a-z] and, between slashes, **", pattern)}
			}
		}
	}
	return filter{include, exclude}, nil
}

func (f filter) excluded(name string) bool { return matchAny(f.exclude, name) }

func (f filter) included(name string) bool { return len(f.include) == 0 || matchAny(f.include, name) }

func matchAny(patterns []string, name string) bool {
	for _, pattern := range patterns {
		if !strings.Contains(strings.Trim(pattern, "/"), "/") {
			if ok, _ := path.Match(strings.Trim(pattern, "/"), path.Base(name)); ok {
				return true
			}
		} else if matchParts(strings.Split(strings.Trim(pattern, "/"), "/"), strings.Split(name, "/")) {
			return true
		}
	}
	return false
}

func matchParts(pattern, name []string) bool {
	if len(pattern) == 0 {
		return len(name) == 0
	}
	if pattern[0] == "**" {
		for skip := 0; skip <= len(name); skip++ {
			if matchParts(pattern[1:], name[skip:]) {
				return true
			}
		}
		return false
	}
	if len(name) == 0 {
		return false
	}
	ok, _ := path.Match(pattern[0], name[0])
	return ok && matchParts(pattern[1:], name[1:])
}

// walker finds what there is to send: files go to found at once, directories
// are kept, each after what is in it, to be sent when the files are.
type walker struct {
	run    *run
	filter filter
	found  chan<- source
	dirs   []source

	leftOut func(path, name string, size int64, why string) // told of what is not sent; nil: nobody is
}

// walkRoot walks one argument.
func (w *walker) walkRoot(ctx context.Context, r root) {
	if r.name == "" {
		w.walkDir(ctx, r.path, "", "")
		return
	}
	info, err := os.Lstat(r.path)
	if err != nil {
		w.run.failed("", r.name, err)
		return
	}
	w.take(ctx, r.path, protocol.OriginalName(r.name, runtime.GOOS), "", info.Mode(), info.Size())
}

// take handles one entry and reports whether anything of it is sent. rel is
// its name below the source root, which the globs are matched with; for the
// root itself it is empty, and its name serves.
func (w *walker) take(ctx context.Context, file, name, rel string, mode fs.FileMode, size int64) bool {
	match := rel
	if match == "" {
		match = name
	}
	leave := func(why string) {
		if w.leftOut != nil {
			w.leftOut(file, name, size, why)
		}
	}
	if w.filter.excluded(match) || !mode.IsDir() && !w.filter.included(match) {
		leave("it is excluded")
		return false
	}
	if reason := irregular(mode); reason != "" && mode&fs.ModeSymlink == 0 {
		w.run.skipped(name, reason)
		leave(reason)
		return false
	}
	if err := protocol.CheckName(name); err != nil {
		w.run.failed("", name, err)
		leave(err.Error())
		return false
	}
	if mode.IsDir() {
		return w.walkDir(ctx, file, name, rel)
	}
	select {
	case w.found <- source{path: file, name: name, link: mode&fs.ModeSymlink != 0}:
	case <-ctx.Done():
		return false
	}
	w.run.tell(func(_ *Summary, events *Events) {
		if events.Found != nil {
			events.Found(1, size)
		}
	})
	return true
}

// walkDir handles what is in a directory, then the directory itself. With an
// empty name, which is that of a root whose contents are sent, the directory
// is not sent. With --include only those are that something is sent of.
func (w *walker) walkDir(ctx context.Context, dir, name, rel string) bool {
	any := len(w.filter.include) == 0
	err := eachEntry(dir, func(entry fs.DirEntry) bool {
		if ctx.Err() != nil {
			return false
		}
		childRel := path.Join(rel, entry.Name())
		var size int64
		if entry.Type().IsRegular() && (w.run.p.cfg.Events.Found != nil || w.leftOut != nil) {
			if info, err := entry.Info(); err == nil {
				size = info.Size()
			}
		}
		taken := w.take(ctx, filepath.Join(dir, entry.Name()), path.Join(name, protocol.OriginalName(entry.Name(), runtime.GOOS)), childRel, entry.Type(), size)
		any = any || taken
		return true
	})
	if err != nil {
		label := name
		if label == "" {
			label = dir
		}
		w.run.failed("", label, err)
		any = false
	}
	if any && ctx.Err() == nil && name != "" {
		w.dirs = append(w.dirs, source{path: dir, name: name, dir: true})
	}
	return any
}

// dirBatch is how many entries of a directory are read at a time, so that one
// with very many takes no more memory than others.
const dirBatch = 1024

// eachEntry calls do for the entries of a directory, batch by batch sorted,
// until that returns false. The directory is closed by then if it has one batch
// only: a deep tree does not take a file descriptor for each level.
func eachEntry(path string, do func(fs.DirEntry) bool) (err error) {
	dir, err := openDir(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ignoreClosed(dir.Close())) }()
	for {
		entries, err := dir.ReadDir(dirBatch)
		if err == nil && len(entries) < dirBatch {
			err = cmp.Or(dir.Close(), io.EOF)
		}
		slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
		for _, entry := range entries {
			if !do(entry) {
				return nil
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return err
		}
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, fs.ErrClosed) {
		return nil
	}
	return err
}

// irregular says what an entry is that is neither a file nor a directory.
func irregular(mode fs.FileMode) string {
	switch {
	case mode.IsRegular(), mode.IsDir():
		return ""
	case mode&fs.ModeSymlink != 0:
		return "symbolic link, not followed"
	case mode&fs.ModeSocket != 0:
		return "socket"
	case mode&fs.ModeNamedPipe != 0:
		return "named pipe"
	case mode&fs.ModeDevice != 0:
		return "device"
	}
	return "not a regular file"
}
