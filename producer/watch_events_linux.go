package producer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// dirWatcher tells what happens in directories. On Linux it speaks inotify
// itself rather than through fsnotify, because that does not tell a file that
// was renamed into a directory, which is whole, from one that was created
// there, which is not.
type dirWatcher struct {
	events chan dirEvent // closed when the watcher is

	file *os.File
	quit chan struct{}
	done chan struct{}

	mu   sync.Mutex
	dirs map[int32]string // by watch descriptor
}

// What is listened to. Not each write: whether a file is still written to is
// found by looking at it.
const watchMask = unix.IN_CREATE | unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_ONLYDIR

func newDirWatcher() (*dirWatcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	w := &dirWatcher{
		events: make(chan dirEvent, 1024), file: os.NewFile(uintptr(fd), "inotify"),
		quit: make(chan struct{}), done: make(chan struct{}), dirs: make(map[int32]string),
	}
	go w.read()
	return w, nil
}

// add watches a directory; one that is watched already goes by this name from now on.
func (w *dirWatcher) add(dir string) error {
	raw, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	w.mu.Lock() // no event of it is looked up before its name is known
	defer w.mu.Unlock()
	var id int
	if e := raw.Control(func(fd uintptr) { id, err = unix.InotifyAddWatch(int(fd), dir, watchMask) }); e != nil {
		return e
	}
	if errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("watch %s: there are too many watches (raise fs.inotify.max_user_watches): %w", dir, err)
	}
	if err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	w.dirs[int32(id)] = dir
	return nil
}

func (w *dirWatcher) close() error {
	close(w.quit)
	err := w.file.Close()
	<-w.done
	return err
}

func (w *dirWatcher) read() {
	defer close(w.done)
	defer close(w.events)
	buf := make([]byte, 64<<10)
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			return // closed; nothing else makes it fail
		}
		for rest := buf[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			id := int32(binary.NativeEndian.Uint32(rest))
			mask := binary.NativeEndian.Uint32(rest[4:])
			end := min(unix.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(rest[12:])), len(rest))
			name := string(bytes.TrimRight(rest[unix.SizeofInotifyEvent:end], "\x00"))
			rest = rest[end:]
			if !w.pass(id, mask, name) {
				return
			}
		}
	}
}

// pass hands an event on; it returns false when the watcher is closed.
func (w *dirWatcher) pass(id int32, mask uint32, name string) bool {
	e := dirEvent{lost: mask&unix.IN_Q_OVERFLOW != 0, moved: mask&unix.IN_MOVED_TO != 0}
	if !e.lost {
		w.mu.Lock()
		dir, ok := w.dirs[id]
		if mask&unix.IN_IGNORED != 0 {
			delete(w.dirs, id)
		}
		w.mu.Unlock()
		if !ok || name == "" {
			return true
		}
		e.path = filepath.Join(dir, name)
	}
	select {
	case w.events <- e:
		return true
	case <-w.quit:
		return false
	}
}
