package producer

import (
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/rs/zerolog"
)

// notifier tells of changes to many files, by one watcher of the system on
// their directories. Where there is none, nothing is told: who uses it looks
// now and then anyway, for a network file system tells nothing either.
type notifier struct {
	log     zerolog.Logger
	watcher *fsnotify.Watcher // nil: none
	done    chan struct{}

	mu    sync.Mutex
	files map[string]chan struct{} // absolute path to who waits for it
	trees []chan struct{}          // who waits for new entries of directories
	told  bool
}

func newNotifier(log zerolog.Logger, every time.Duration) *notifier {
	n := &notifier{log: log, files: make(map[string]chan struct{}), done: make(chan struct{})}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn().Err(err).Stringer("every", every).Msg("no change events to be had, looking at files now and then")
		return n
	}
	n.watcher = watcher
	go n.run()
	return n
}

func (n *notifier) close() {
	if n.watcher == nil {
		return
	}
	if err := n.watcher.Close(); err != nil {
		n.log.Warn().Err(err).Msg("end watching files")
	}
	<-n.done
}

func wakeUp(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (n *notifier) run() {
	defer close(n.done)
	for {
		select {
		case event, ok := <-n.watcher.Events:
			if !ok {
				return
			}
			n.mu.Lock()
			if c := n.files[event.Name]; c != nil {
				wakeUp(c)
			}
			if event.Has(fsnotify.Create) || event.Has(fsnotify.Rename) {
				for _, c := range n.trees {
					wakeUp(c)
				}
			}
			n.mu.Unlock()
		case err, ok := <-n.watcher.Errors: // some events are lost: all look
			if !ok {
				return
			}
			n.log.Debug().Err(err).Msg("watching files")
			n.mu.Lock()
			for _, c := range n.files {
				wakeUp(c)
			}
			for _, c := range n.trees {
				wakeUp(c)
			}
			n.mu.Unlock()
		}
	}
}

// wakeFile returns a channel that tells of changes to the file of that absolute
// path, or its name.
func (n *notifier) wakeFile(path string) <-chan struct{} {
	c := make(chan struct{}, 1)
	n.mu.Lock()
	n.files[path] = c
	n.mu.Unlock()
	n.add(filepath.Dir(path))
	return c
}

// leaveFile is the reverse of wakeFile.
func (n *notifier) leaveFile(path string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.files, path)
}

// addLink watches the file itself, for a name that is a link into another
// directory.
func (n *notifier) addLink(path string) {
	if n.watcher == nil {
		return
	}
	if err := n.watcher.Add(path); err != nil {
		n.log.Debug().Err(err).Str("file", path).Msg("watch the file itself")
	}
}

// wakeTree returns a channel that tells of new entries of directories.
func (n *notifier) wakeTree() <-chan struct{} {
	c := make(chan struct{}, 1)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.trees = append(n.trees, c)
	return c
}

func (n *notifier) addTree(dir string) { n.add(dir) }

func (n *notifier) add(dir string) {
	if n.watcher == nil {
		return
	}
	err := n.watcher.Add(dir) // again is harmless
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil && !n.told {
		n.told = true
		n.log.Warn().Err(err).Str("dir", dir).Msg("no change events to be had, looking at files now and then")
	}
}
