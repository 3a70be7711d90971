package producer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// AfterKind is what becomes of a file that was sent.
type AfterKind string

// The values of AfterKind.
const (
	AfterKeep   AfterKind = ""       // it stays
	AfterDelete AfterKind = "delete" // it is removed
	AfterMove   AfterKind = "move"   // it is moved
)

// After is what becomes of a file when all of it is acknowledged.
type After struct {
	Kind AfterKind
	Dir  string // that it is moved to, under its name below the watched directory; made when missing
}

// ParseAfter reads "keep", "delete" or "move=DIR".
func ParseAfter(text string) (After, error) {
	kind, dir, has := strings.Cut(text, "=")
	switch {
	case text == "keep", text == "":
		return After{}, nil
	case text == "delete":
		return After{Kind: AfterDelete}, nil
	case kind == "move" && has && dir != "":
		return After{Kind: AfterMove, Dir: dir}, nil
	}
	return After{}, &ArgumentError{fmt.Sprintf("after %q: use keep, delete or move=DIR", text)}
}

// String is the text that ParseAfter reads.
func (a After) String() string {
	switch a.Kind {
	case AfterDelete:
		return "delete"
	case AfterMove:
		return "move=" + a.Dir
	}
	return "keep"
}

// errReplaced tells that a file was replaced after it was sent.
var errReplaced = errors.New("it was replaced meanwhile")

// afterwards does with files that are sent what is to be done, one after
// another, and tells the watcher.
type afterwards struct {
	After
	abs  string // of Dir, absolute
	mail *mailbox
	told bool // that it does not work; the watcher's

	mu     sync.Mutex
	todo   []sentFile
	wake   chan struct{} // capacity 1
	closed bool
	done   sync.WaitGroup
}

// sentFile is a file that was sent.
type sentFile struct {
	path   string
	name   string // below the watched directory, slash separated
	look   stamp  // as it was sent
	marker string // path of its done-marker, "": it has none
}

// newAfterwards checks that it can be done at all.
func newAfterwards(a After, dirs []*watchedDir, mail *mailbox) (*afterwards, error) {
	w := &afterwards{After: a, mail: mail, wake: make(chan struct{}, 1)}
	switch a.Kind {
	case AfterKeep:
		w.closed = true
		return w, nil
	case AfterDelete:
	case AfterMove:
		abs, err := filepath.Abs(a.Dir)
		if err != nil {
			return nil, err
		}
		w.abs = abs
		if err := os.MkdirAll(abs, 0o777); err != nil {
			return nil, fmt.Errorf("making the directory that files are moved to: %w", err)
		}
		probe, err := os.CreateTemp(abs, ".mft-*")
		if err == nil {
			err = errors.Join(probe.Close(), os.Remove(probe.Name()))
		}
		if err != nil {
			return nil, fmt.Errorf("files cannot be moved to %s: %w", a.Dir, err)
		}
		for _, d := range dirs {
			one, err1 := os.Stat(d.abs)
			two, err2 := os.Stat(abs)
			if err1 == nil && err2 == nil && os.SameFile(one, two) {
				return nil, &ArgumentError{fmt.Sprintf("files of %s cannot be moved to where they are: name another directory", d.path)}
			}
		}
	default:
		return nil, &ArgumentError{fmt.Sprintf("after %q: use keep, delete or move", a.Kind)}
	}
	w.done.Go(w.run)
	return w, nil
}

// owns tells whether a path is in the directory that files are moved to, which
// may be in a watched one.
func (w *afterwards) owns(path string) bool { return w.Kind == AfterMove && within(path, w.abs) }

// within tells whether a path is dir, or below it. Both are absolute and clean.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, string(filepath.Separator))+string(filepath.Separator))
}

// start has done with a file what is to be done.
func (w *afterwards) start(c *candidate, doneMarker string) {
	f := sentFile{path: c.path(), name: c.name, look: c.look}
	if doneMarker != "" {
		f.marker = f.path + doneMarker
	}
	w.mu.Lock()
	w.todo = append(w.todo, f)
	w.mu.Unlock()
	w.kick()
}

func (w *afterwards) kick() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// close waits until all is done that was started. Closing twice does nothing.
func (w *afterwards) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.kick()
	w.done.Wait()
}

func (w *afterwards) run() {
	for {
		w.mu.Lock()
		todo, closed := w.todo, w.closed
		w.todo = nil
		w.mu.Unlock()
		for _, f := range todo {
			w.mail.put(letter{path: f.path, kind: letterLeft, err: w.do(f)})
		}
		if closed && len(todo) == 0 {
			return
		}
		if len(todo) == 0 {
			<-w.wake
		}
	}
}

// do takes a file away, unless it is not the one any more that was sent. A file
// that is gone already is as it should be.
func (w *afterwards) do(f sentFile) error {
	info, err := os.Lstat(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return w.removeMarker(f)
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || stampOf(info) != f.look {
		return errReplaced
	}
	if w.Kind == AfterDelete {
		err = os.Remove(f.path)
	} else {
		err = w.move(f)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return w.removeMarker(f)
}

func (w *afterwards) removeMarker(f sentFile) error {
	if f.marker == "" {
		return nil
	}
	if err := os.Remove(f.marker); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

const maxMoveNames = 10_000 // tried for one file

// move gives a file its name in the directory: NAME, or NAME.1, NAME.2 where
// there is one of that name already. The name is taken by an empty file first,
// so that nobody's file is overwritten.
func (w *afterwards) move(f sentFile) error {
	to := filepath.Join(w.abs, filepath.FromSlash(f.name))
	if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
		return err
	}
	place, err := takeName(to)
	if err != nil {
		return err
	}
	err = os.Rename(f.path, place)
	if isOtherDevice(err) {
		err = moveCopy(f, place)
	}
	if err != nil {
		return errors.Join(err, os.Remove(place))
	}
	// Between the look and the renaming another file may have taken its name.
	if info, err := os.Lstat(place); err == nil && !stampOf(info).sameContent(f.look) {
		if _, err := os.Lstat(f.path); errors.Is(err, fs.ErrNotExist) {
			return errors.Join(errReplaced, os.Rename(place, f.path))
		}
		return errReplaced // twice: this one stays where it is, too
	}
	return nil
}

// takeName makes an empty file under the first name that is free.
func takeName(path string) (string, error) {
	for i := range maxMoveNames {
		name := path
		if i > 0 {
			name = fmt.Sprintf("%s.%d", path, i)
		}
		file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		return name, file.Close()
	}
	return "", fmt.Errorf("%s and %d names like it are taken", path, maxMoveNames)
}

// moveCopy moves a file to another file system: the copy is whole, with its
// mode and times, and durable, before it has its name and the file goes.
func moveCopy(f sentFile, place string) (err error) {
	from, err := openFile(f.path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	info, err := from.Stat()
	if err != nil {
		return err
	}
	if stampOf(info) != f.look {
		return errReplaced
	}
	to, err := os.CreateTemp(filepath.Dir(place), ".mft-*")
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	err = errors.Join(err, to.Chmod(info.Mode().Perm()), to.Sync(), to.Close())
	if err == nil {
		err = os.Chtimes(to.Name(), info.ModTime(), info.ModTime())
	}
	if err == nil {
		err = os.Rename(to.Name(), place)
	}
	if err != nil {
		return errors.Join(err, os.Remove(to.Name()))
	}
	if err := syncDirectory(filepath.Dir(place)); err != nil {
		return err
	}
	if now, err := os.Lstat(f.path); err != nil || stampOf(now) != f.look {
		return errReplaced
	}
	return os.Remove(f.path)
}
