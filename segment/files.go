package segment

import (
	"container/list"
	"os"
	"sync"
	"sync/atomic"
)

// openFiles is how many files of closed segments a store keeps open for the next reader.
const openFiles = 128

// handle is an open file that several share. It is open as long as refs > 0; whoever holds a reference may make another.
type handle struct {
	file *os.File
	refs atomic.Int32
}

func newHandle(f *os.File) *handle {
	h := &handle{file: f}
	h.refs.Store(1)
	return h
}

func (h *handle) acquire() *handle {
	h.refs.Add(1)
	return h
}

// release gives a reference back; the last one closes the file.
func (h *handle) release() error {
	if h.refs.Add(-1) > 0 {
		return nil
	}
	return h.file.Close()
}

// fileCache keeps the files of the closed segments that were read last open, a bounded number over all logs.
type fileCache struct {
	mu    sync.Mutex
	limit int
	byUse *list.List // of *cachedFile, the latest first
	index map[*segment]*list.Element
}

type cachedFile struct {
	seg *segment
	h   *handle
}

func newFileCache(limit int) *fileCache {
	return &fileCache{limit: limit, byUse: list.New(), index: map[*segment]*list.Element{}}
}

// get returns a reference to the segment's file, opening it when needed.
func (c *fileCache) get(seg *segment, path string) (*handle, error) {
	c.mu.Lock()
	if e := c.index[seg]; e != nil {
		c.byUse.MoveToFront(e)
		h := e.Value.(*cachedFile).h.acquire()
		c.mu.Unlock()
		return h, nil
	}
	c.mu.Unlock()
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	h := newHandle(f)
	return h, c.put(seg, h.acquire())
}

// put hands the caller's reference over to the cache. The error is from closing a file that had to make room, or this one if
// another reader was faster; the reference that get returns is good nevertheless.
func (c *fileCache) put(seg *segment, h *handle) error {
	c.mu.Lock()
	if c.index[seg] != nil {
		c.mu.Unlock()
		return h.release()
	}
	c.index[seg] = c.byUse.PushFront(&cachedFile{seg, h})
	var evicted *handle
	if c.byUse.Len() > c.limit {
		evicted = c.remove(c.byUse.Back())
	}
	c.mu.Unlock()
	if evicted != nil {
		return evicted.release()
	}
	return nil
}

// drop closes the segment's file as soon as its readers are done.
func (c *fileCache) drop(seg *segment) error {
	c.mu.Lock()
	e := c.index[seg]
	if e == nil {
		c.mu.Unlock()
		return nil
	}
	h := c.remove(e)
	c.mu.Unlock()
	return h.release()
}

func (c *fileCache) remove(e *list.Element) *handle {
	cached := c.byUse.Remove(e).(*cachedFile)
	delete(c.index, cached.seg)
	return cached.h
}
