package producer

import (
	"container/heap"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"mft/protocol"
)

// dirEvent tells that something happened to an entry of a watched directory.
type dirEvent struct {
	path  string
	moved bool // it was renamed to this
	lost  bool // some events were lost; there is no path
}

// event looks at what an event is about.
func (w *watcher) event(e dirEvent) {
	if e.lost {
		w.p.log.Info().Msg("the system lost some change events: looking at everything")
		w.scanAt = time.Time{}
		return
	}
	d, name := w.dirOf(e.path)
	if d == nil || w.hidden(e.path, name) {
		return
	}
	info, err := os.Lstat(e.path)
	if err != nil { // gone, or the scan tells
		return
	}
	if info.IsDir() {
		if err := w.scanDir(w.job.run.ctx, d, name); err != nil {
			w.scanAt = time.Time{}
		}
		return
	}
	w.entry(d, name, info, e.moved)
}

// dirOf is the watched directory that a path is in, and its name there.
func (w *watcher) dirOf(p string) (*watchedDir, string) {
	for _, d := range w.dirs {
		if rel, ok := strings.CutPrefix(p, strings.TrimSuffix(d.abs, string(filepath.Separator))+string(filepath.Separator)); ok {
			return d, filepath.ToSlash(rel)
		}
	}
	return nil, ""
}

// hidden tells whether an entry, or a directory that it is in, is left out.
func (w *watcher) hidden(p, name string) bool {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if w.filter.excluded(dir) {
			return true
		}
	}
	return w.filter.excluded(name) || w.after.owns(p)
}

// scan looks at everything in the watched directories.
func (w *watcher) scan(ctx context.Context) error {
	w.full = false
	failed := false
	for _, d := range w.dirs {
		info, err := os.Stat(d.abs)
		if err == nil && !info.IsDir() {
			err = &fs.PathError{Op: "watch", Path: d.abs, Err: errors.New("it is no directory any more")}
		}
		if err != nil {
			if !d.lost {
				w.p.log.Warn().Err(err).Str("dir", d.path).Msg("the watched directory is not there, waiting for it")
			}
			d.lost = true
			continue
		}
		if d.lost {
			w.p.log.Warn().Str("dir", d.path).Msg("the watched directory is back")
			d.lost = false
		}
		now := time.Now()
		if err := d.ledger.begin(stampOf(info), now); err != nil {
			return err
		}
		err = w.scanDir(ctx, d, "")
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			if failed = true; !w.failedOnce {
				w.p.log.Warn().Err(err).Msg("not everything that is watched can be looked at")
			}
		case !w.full:
			if err := d.ledger.end(now); err != nil {
				return err
			}
			continue
		}
		if err := d.ledger.sync(); err != nil {
			return err
		}
	}
	w.failedOnce = failed
	return nil
}

// scanDir looks at a directory and what is below it. It watches it first, so
// that what comes after the look is told.
func (w *watcher) scanDir(ctx context.Context, d *watchedDir, name string) error {
	dir := filepath.Join(d.abs, filepath.FromSlash(name))
	if w.events != nil {
		if err := w.events.add(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			w.noEvents(err)
		}
	}
	file, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) && name != "" {
		return nil // gone meanwhile
	}
	if err != nil {
		return err
	}
	var failed error
	for ctx.Err() == nil {
		entries, err := file.ReadDir(1024) // however many there are, these are in memory
		for _, entry := range entries {
			child := path.Join(name, entry.Name())
			full := filepath.Join(dir, entry.Name())
			if w.filter.excluded(child) || w.after.owns(full) {
				continue
			}
			if entry.IsDir() {
				failed = errors.Join(failed, w.scanDir(ctx, d, child))
				continue
			}
			info, err := entry.Info()
			if err != nil {
				if !errors.Is(err, fs.ErrNotExist) {
					failed = errors.Join(failed, err)
				}
				continue
			}
			w.entry(d, child, info, false)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			failed = errors.Join(failed, err)
			break
		}
	}
	return errors.Join(failed, file.Close())
}

// noEvents goes on without change events for some directories.
func (w *watcher) noEvents(err error) {
	if !w.told[""] {
		w.told[""] = true
		w.p.log.Warn().Err(err).Stringer("every", w.o.ScanEvery).Msg("changes are not told for some directories: they are looked at now and then")
	}
}

// entry considers one entry that is no directory, as it was just seen.
func (w *watcher) entry(d *watchedDir, name string, info fs.FileInfo, moved bool) {
	p := filepath.Join(d.abs, filepath.FromSlash(name))
	if marker := w.o.DoneMarker; marker != "" && strings.HasSuffix(name, marker) {
		if of := strings.TrimSuffix(name, marker); path.Base(name) != marker && !w.filter.excluded(of) {
			w.candidate(d, of, false)
		}
		return
	}
	if !w.filter.included(name) {
		return
	}
	if reason := irregular(info.Mode()); reason != "" {
		w.skipped(p, joinName(d.root.name, name), reason)
		return
	}
	now := stampOf(info)
	if c := w.candidates[p]; c != nil {
		w.seen(c, now, moved)
		return
	}
	known, sent := d.ledger.look(name)
	if sent && known.stamp == now {
		if w.o.After.Kind != AfterKeep { // what was to be done then is still to be
			if c := w.newCandidate(d, name, now); c != nil {
				w.leave(c)
			}
		}
		return
	}
	if failed, ok := w.givenUp[p]; ok && failed == now {
		return
	}
	if c := w.newCandidate(d, name, now); c != nil {
		c.moved = moved
		w.await(c)
	}
}

// candidate considers a file, if it is there.
func (w *watcher) candidate(d *watchedDir, name string, moved bool) {
	info, err := os.Lstat(filepath.Join(d.abs, filepath.FromSlash(name)))
	if err == nil && !info.IsDir() {
		w.entry(d, name, info, moved)
	}
}

// newCandidate takes note of a file, unless there are too many already.
func (w *watcher) newCandidate(d *watchedDir, name string, look stamp) *candidate {
	if len(w.candidates) >= maxCandidates {
		w.full = true
		return nil
	}
	c := &candidate{dir: d, name: name, look: look}
	w.candidates[c.path()] = c
	return c
}

// seen compares a file with what it was.
func (w *watcher) seen(c *candidate, now stamp, moved bool) {
	if c.state != settling && c.state != waiting {
		return // its reader notices
	}
	if now == c.look && !moved {
		w.ready(c, false)
		return
	}
	c.moved = moved
	c.look, c.state = now, settling
	w.await(c)
}

// await looks at a file again in time, or takes it at once.
func (w *watcher) await(c *candidate) {
	c.state = settling
	if !w.ready(c, false) && w.o.DoneMarker == "" {
		w.again(c, w.o.Settle)
	}
}

// again looks at a file after some time.
func (w *watcher) again(c *candidate, after time.Duration) {
	c.state, c.due = settling, time.Now().Add(after)
	heap.Push(&w.looks, look{c.due, c.path()})
}

// lookAgain looks at the files whose time has come.
func (w *watcher) lookAgain(now time.Time) {
	for len(w.looks) > 0 && !w.looks[0].due.After(now) {
		l := heap.Pop(&w.looks).(look)
		c := w.candidates[l.path]
		if c == nil || c.state != settling || !c.due.Equal(l.due) {
			continue
		}
		info, err := os.Lstat(l.path)
		switch {
		case err != nil && errors.Is(err, fs.ErrNotExist), err == nil && info.IsDir():
			w.drop(c)
		case err != nil:
			w.notSent(c, "", err)
		case irregular(info.Mode()) != "":
			w.drop(c)
			w.entry(c.dir, c.name, info, false)
		case stampOf(info) != c.look:
			c.look, c.moved = stampOf(info), false
			w.await(c)
		default:
			w.ready(c, true)
		}
	}
}

// ready puts a file that is complete in the queue, and tells whether it did.
// still says that it has not changed for as long as it takes.
func (w *watcher) ready(c *candidate, still bool) bool {
	if c.state != settling {
		return true
	}
	known, sent := c.dir.ledger.look(c.name)
	switch {
	case w.o.DoneMarker != "":
		marker := w.marker(c)
		if marker == 0 || sent && marker == known.marker && known.stamp != c.look {
			w.drop(c) // its marker is an event of its own
			return true
		}
		if c.due.After(time.Now()) { // it failed, and is to wait
			return true
		}
	case !still && !c.moved || !still && c.due.After(time.Now()) && c.tries > 0:
		return false
	}
	if err := protocol.CheckName(c.sentName()); err != nil {
		w.giveUp(c, "", err)
		return true
	}
	if sent && known.sameContent(c.look) && known.stamp != c.look && w.unchanged(c, known) {
		return true
	}
	c.state = waiting
	w.queue = append(w.queue, c)
	w.job.run.tell(func(_ *Summary, events *Events) {
		if events.Found != nil && c.tries == 0 {
			events.Found(1, c.look.size)
		}
	})
	return true
}

// marker is when the done-marker of a file was made; 0: there is none.
func (w *watcher) marker(c *candidate) int64 {
	if w.o.DoneMarker == "" {
		return 0
	}
	info, err := os.Lstat(c.path() + w.o.DoneMarker)
	if err != nil {
		return 0
	}
	s := stampOf(info)
	return max(s.ctime, s.mtime, 1)
}

// unchanged compares the content of a file, of which only inode and the time of
// that tell that something happened, with what was sent. It takes note of a
// file that was only moved about, or whose mode was changed.
func (w *watcher) unchanged(c *candidate, known ledgerEntry) bool {
	digest, err := w.digestOf(c)
	if err != nil || keyOf(digest) != known.digest {
		return false // if it cannot be read, sending it tells
	}
	known.stamp = c.look
	if err := c.dir.ledger.sent(c.name, known); err != nil {
		w.p.log.Warn().Err(err).Msg("a file whose content was sent already is looked at again next time")
	}
	w.leave(c)
	return true
}

func (w *watcher) digestOf(c *candidate) (_ string, err error) {
	file, err := openFile(c.path())
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	digest, err := protocol.NewDigest(w.p.cfg.Digest)
	if err != nil {
		return "", err
	}
	if _, err := io.Copy(digest, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(digest.Sum(nil)), nil
}
