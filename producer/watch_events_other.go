//go:build !linux

package producer

import (
	"fmt"

	"github.com/fsnotify/fsnotify"
)

// dirWatcher tells what happens in directories.
type dirWatcher struct {
	events  chan dirEvent // closed when the watcher is
	watcher *fsnotify.Watcher
	quit    chan struct{}
	done    chan struct{}
}

func newDirWatcher() (*dirWatcher, error) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	w := &dirWatcher{events: make(chan dirEvent, 1024), watcher: watcher, quit: make(chan struct{}), done: make(chan struct{})}
	go w.read()
	return w, nil
}

// add watches a directory.
func (w *dirWatcher) add(dir string) error {
	if err := w.watcher.Add(dir); err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	return nil
}

func (w *dirWatcher) close() error {
	close(w.quit)
	err := w.watcher.Close()
	<-w.done
	return err
}

func (w *dirWatcher) read() {
	defer close(w.done)
	defer close(w.events)
	for {
		var e dirEvent
		select {
		case event, ok := <-w.watcher.Events:
			if !ok {
				return
			}
			if !event.Has(fsnotify.Create) && !event.Has(fsnotify.Write) {
				continue
			}
			e.path = event.Name
		case _, ok := <-w.watcher.Errors: // some are lost: a look at everything finds what they told
			if !ok {
				return
			}
			e.lost = true
		}
		select {
		case w.events <- e:
		case <-w.quit:
			return
		}
	}
}
