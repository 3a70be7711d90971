package consumer

import (
	"errors"
	"os"
	"path"
)

// maxHandles is how many directories of the target are open at the same time.
const maxHandles = 128

// handle is an open directory of the target. What is done with what is in it
// takes one step, however deep it lies.
type handle struct {
	root *os.Root
	file *os.File // the same directory, to be renamed into; nil: not opened yet
	fd   int      // of file
}

// dir is the file descriptor of the directory.
func (h *handle) dir() (fd int, err error) {
	if h.file == nil {
		if h.file, err = h.root.Open("."); err != nil {
			return -1, err
		}
		h.fd = int(h.file.Fd())
	}
	return h.fd, nil
}

func (h *handle) close() error {
	err := h.root.Close()
	if h.file != nil {
		err = errors.Join(err, h.file.Close())
	}
	return err
}

// handle opens a directory, or has it open. It may be used until the next call
// of a method of the target. Handles live no longer than until the next settle,
// since others may move directories.
func (t *target) handle(name string) (*handle, error) {
	if name == "." {
		return &t.top, nil
	}
	if h := t.handles[name]; h != nil {
		return h, nil
	}
	parent, base, err := t.in(name)
	if err != nil {
		return nil, err
	}
	root, err := parent.OpenRoot(base)
	if escapes(err) { // a link that leads elsewhere within the target
		root, err = t.root.OpenRoot(name)
	}
	if err != nil {
		return nil, err
	}
	for len(t.handleOrder) >= maxHandles {
		oldest := t.handleOrder[0]
		t.handleOrder = t.handleOrder[1:]
		if h := t.handles[oldest]; h != nil {
			delete(t.handles, oldest)
			if err := h.close(); err != nil {
				return nil, errors.Join(err, root.Close())
			}
		}
	}
	h := &handle{root: root}
	if t.handles == nil {
		t.handles = make(map[string]*handle)
	}
	t.handles[name] = h
	t.handleOrder = append(t.handleOrder, name)
	return h, nil
}

// in is the directory that name is in, open, and what it is called there.
func (t *target) in(name string) (*os.Root, string, error) {
	h, err := t.handle(path.Dir(name))
	if err != nil {
		return nil, "", err
	}
	return h.root, path.Base(name), nil
}

// closeHandles closes all but the top.
func (t *target) closeHandles() (err error) {
	for name, h := range t.handles {
		delete(t.handles, name)
		err = errors.Join(err, h.close())
	}
	t.handleOrder = t.handleOrder[:0]
	return err
}

// lost forgets what is known of directories, one of which was removed by
// somebody else.
func (t *target) lost() error {
	t.there = make(map[string]bool)
	return t.closeHandles()
}

// syncDir makes the entries of a directory durable.
func syncDir(root *os.Root, name string) error {
	if !canSyncDirs {
		return nil
	}
	d, err := root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
