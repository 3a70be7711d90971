package producer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/rs/zerolog"
)

const (
	defaultPoll = time.Second
	settleTime  = 200 * time.Millisecond // without a new byte, until a file that was moved away counts as finished
	headBytes   = 256                    // of a file's beginning, to notice that it was replaced in place
)

// tail reads a file as it grows, under whatever file has its name.
//
// It looks when the system tells of a change, and every poll, because a
// network file system tells nothing.
type tail struct {
	path    string
	fromEnd bool
	poll    time.Duration
	split   *splitter
	log     zerolog.Logger

	watcher *fsnotify.Watcher // nil where there is none: poll only
	file    *os.File          // nil while there is none
	offset  int64             // bytes of file that were read
	head    []byte            // its first bytes, up to headBytes, as they were read
	told    bool              // that the file cannot be read
}

// run reads until ctx ends, which is no error.
func (t *tail) run(ctx context.Context) (err error) {
	if t.poll <= 0 {
		t.poll = defaultPoll
	}
	defer func() { err = errors.Join(err, t.closeFile()) }()
	events, closeWatcher := t.watch()
	defer closeWatcher()

	poll := time.NewTicker(t.poll)
	defer poll.Stop()
	if err := t.open(t.fromEnd); err != nil {
		return err
	}
	if t.file == nil {
		t.log.Warn().Str("file", t.path).Msg("the file does not exist yet, waiting for it")
	}
	for {
		if err := t.look(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-poll.C:
		case <-events:
		}
	}
}

// watch returns a channel that tells of changes to the file or its name.
func (t *tail) watch() (changed <-chan struct{}, stop func()) {
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		if err = watcher.Add(filepath.Dir(t.path)); err != nil {
			err = errors.Join(err, watcher.Close())
		}
	}
	if err != nil {
		t.log.Warn().Err(err).Str("file", t.path).Stringer("every", t.poll).Msg("no change events to be had, looking at the file now and then")
		return nil, func() {}
	}
	t.watcher = watcher
	wake := make(chan struct{}, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case event, ok := <-watcher.Events:
				if !ok {
					return
				}
				if filepath.Base(event.Name) != filepath.Base(t.path) {
					continue
				}
			case err, ok := <-watcher.Errors: // some events are lost: look
				if !ok {
					return
				}
				t.log.Debug().Err(err).Str("file", t.path).Msg("watching the file")
			}
			select {
			case wake <- struct{}{}:
			default:
			}
		}
	}()
	return wake, func() {
		if err := watcher.Close(); err != nil {
			t.log.Warn().Err(err).Str("file", t.path).Msg("end watching the file")
		}
		<-done
	}
}

// open opens the file if it is there, at its end if so wanted.
func (t *tail) open(atEnd bool) error {
	info, err := os.Stat(t.path)
	if err == nil && !info.Mode().IsRegular() { // opening a pipe would wait for its writer
		return fmt.Errorf("%s is not a regular file and cannot be followed", t.path)
	}
	var f *os.File
	if err == nil {
		f, err = os.Open(t.path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	t.file, t.offset, t.head = f, 0, nil
	if atEnd {
		if err := t.toEnd(); err != nil {
			return errors.Join(err, t.closeFile())
		}
	}
	if t.watcher != nil { // for a name that is a link into another directory
		if err := t.watcher.Add(t.path); err != nil {
			t.log.Debug().Err(err).Str("file", t.path).Msg("watch the file itself")
		}
	}
	return nil
}

// reopen opens the file that has the name now. One that cannot be read may be
// about to become readable, as a fresh log file often is: that is told once.
func (t *tail) reopen() {
	err := t.open(false)
	if err != nil && !t.told {
		t.log.Warn().Err(err).Msg("the file cannot be read, trying again until it can")
	}
	t.told = err != nil
}

// toEnd goes to the end of the file, or to the beginning of its last line
// when that is not finished, so that no half line is sent.
func (t *tail) toEnd() error {
	end, err := t.file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	t.head = make([]byte, min(end, headBytes))
	if _, err := t.file.ReadAt(t.head, 0); err != nil && err != io.EOF {
		return err
	}
	block := make([]byte, 4096)
	for end > 0 {
		n := min(end, int64(len(block)))
		if _, err := t.file.ReadAt(block[:n], end-n); err != nil && err != io.EOF {
			return err
		}
		if i := bytes.LastIndexByte(block[:n], '\n'); i >= 0 {
			end += int64(i) + 1 - n
			break
		}
		end -= n
	}
	t.offset, err = t.file.Seek(end, io.SeekStart)
	return err
}

func (t *tail) closeFile() error {
	if t.file == nil {
		return nil
	}
	err := t.file.Close()
	t.file = nil
	return err
}

// look reads what there is to read, and moves on to the file that has the
// name now if that is another.
func (t *tail) look(ctx context.Context) error {
	for ctx.Err() == nil {
		if t.file == nil {
			t.reopen()
			if t.file == nil {
				return nil
			}
		}
		if err := t.readAll(ctx); err != nil {
			return err
		}
		moved, err := t.moved()
		if err != nil || !moved {
			return err
		}
		// Its writer may not have noticed yet: read until it is quiet.
		if err := t.settle(ctx); err != nil || ctx.Err() != nil {
			return err
		}
		t.split.flush()
		if err := t.closeFile(); err != nil {
			return err
		}
	}
	return nil
}

// readAll reads to the end of the file. A file that was cut or rewritten is
// read again from its beginning.
func (t *tail) readAll(ctx context.Context) error {
	for ctx.Err() == nil {
		cut, err := t.cut()
		if err != nil {
			return err
		}
		if cut {
			t.split.flush()
			t.offset, t.head = 0, nil
			if _, err := t.file.Seek(0, io.SeekStart); err != nil {
				return err
			}
		}
		n, err := t.split.read(t.file)
		t.noteHead(n)
		t.offset += int64(n)
		t.split.cut()
		if err == io.EOF || err == nil && n == 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// noteHead keeps the beginning of the file as it was read: the last n bytes
// of the slab are those at offset.
func (t *tail) noteHead(n int) {
	if want := headBytes - len(t.head); want > 0 && int64(len(t.head)) == t.offset {
		fresh := t.split.slab[len(t.split.slab)-n:]
		t.head = append(t.head, fresh[:min(n, want)]...)
	}
}

// cut reports whether the file is not the one any more of which offset bytes
// were read: it is shorter, or it begins differently.
func (t *tail) cut() (bool, error) {
	info, err := t.file.Stat()
	if err != nil {
		return false, err
	}
	if info.Size() < t.offset {
		return true, nil
	}
	var now [headBytes]byte
	n, err := t.file.ReadAt(now[:len(t.head)], 0)
	if err != nil && err != io.EOF {
		return false, err
	}
	return !bytes.Equal(now[:n], t.head), nil
}

// moved reports whether the name belongs to another file now. While it
// belongs to none, the old file is kept: it may still grow.
func (t *tail) moved() (bool, error) {
	now, err := os.Stat(t.path)
	if err != nil {
		return false, nil // it comes back, or another look tells more
	}
	mine, err := t.file.Stat()
	if err != nil {
		return false, err
	}
	return !os.SameFile(now, mine), nil
}

// settle reads the file until nothing was appended for settleTime.
func (t *tail) settle(ctx context.Context) error {
	for {
		before := t.offset
		timer := time.NewTimer(settleTime)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		if err := t.readAll(ctx); err != nil {
			return err
		}
		if t.offset == before {
			return nil
		}
	}
}
