package segment

import (
	"errors"
	"path/filepath"
	"sync"
	"time"
)

const (
	// committers is how many fdatasyncs run at a time. Disks gain little from more.
	committers = 8
	// cachedCommitters is how many of them may be busy with logs that have write caching, whose writes are large and in no hurry.
	cachedCommitters = 2
)

// queueState says where a log is in the committer's work. A log is there at most once.
type queueState uint8

const (
	idle         queueState = iota
	queued                  // waits for a worker
	queuedCached            // waits for a worker, nobody waits for it
	committing              // a worker is at it
	again                   // a worker is at it, and there is more since it began
)

// committer makes what was appended durable: its workers take the logs with something new, one each, in the order in which they came.
// All that was appended to a log by the time a worker gets to it shares one fdatasync; what comes meanwhile, the next.
type committer struct {
	mu     sync.Mutex
	wake   sync.Cond // on mu: there may be work, or closed is set
	urgent []*Log    // someone may wait for these
	cached []*Log    // with write caching, due
	busy   int       // workers at logs from cached
	closed bool

	lazy     []*Log        // with write caching, dirty, not due yet
	lazyWake chan struct{} // cap 1: lazy got a log
	quit     chan struct{}
	workers  sync.WaitGroup
}

func newCommitter() *committer {
	c := &committer{lazyWake: make(chan struct{}, 1), quit: make(chan struct{})}
	c.wake.L = &c.mu
	for range committers {
		c.workers.Go(c.work)
	}
	c.workers.Go(c.flushInTime)
	return c
}

// close ends the workers; logs that still wait are left as they are.
func (c *committer) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	close(c.quit)
	c.wake.Broadcast()
	c.workers.Wait()
}

// add lets a worker make the log durable. urgent says that someone may wait for it.
func (c *committer) add(l *Log, urgent bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case l.queued == idle:
		c.push(l, urgent)
	case l.queued == committing:
		l.queued = again
	case l.queued == queuedCached && urgent:
		for i, other := range c.cached {
			if other == l {
				c.cached = append(c.cached[:i], c.cached[i+1:]...)
				break
			}
		}
		c.push(l, true)
	}
}

func (c *committer) push(l *Log, urgent bool) {
	if urgent {
		l.queued = queued
		c.urgent = append(c.urgent, l)
	} else {
		l.queued = queuedCached
		c.cached = append(c.cached, l)
	}
	c.wake.Signal()
}

// pop takes the first log off a queue.
func pop(queue *[]*Log) *Log {
	l := (*queue)[0]
	(*queue)[0] = nil
	if *queue = (*queue)[1:]; len(*queue) == 0 {
		*queue = nil
	}
	return l
}

func (c *committer) work() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		var l *Log
		cached := false
		switch {
		case c.closed:
			return
		case len(c.urgent) > 0:
			l = pop(&c.urgent)
		case len(c.cached) > 0 && c.busy < cachedCommitters:
			l, cached = pop(&c.cached), true
			c.busy++
		default:
			c.wake.Wait()
			continue
		}
		l.queued = committing
		c.mu.Unlock()
		commit(l)
		c.mu.Lock()
		more := l.queued == again
		l.queued = idle
		if cached {
			c.busy--
		}
		if dirty, caching := l.dirty(); dirty && l.store.Err() == nil {
			if more || !caching {
				c.push(l, !caching)
			} else {
				c.wait(l)
			}
		}
		if cached && len(c.cached) > 0 {
			c.wake.Signal()
		}
	}
}

// commit makes a log durable. It is the place to choose another way when there is one: many logs with little each, in one entry of the
// journal.
func commit(l *Log) {
	if err := l.sync(); err != nil { // everyone knows already, through Store.Failed
		l.store.log.Debug().Err(err).Str(fieldDir, l.dir).Msg("not made durable")
	}
}

// delay lets flushInTime see to a log with write caching that has become dirty.
func (c *committer) delay(l *Log) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wait(l)
}

func (c *committer) wait(l *Log) {
	c.lazy = append(c.lazy, l)
	select {
	case c.lazyWake <- struct{}{}:
	default:
	}
}

// flushInTime queues the logs with write caching once their flush interval is over. It sleeps while there are none.
func (c *committer) flushInTime() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-c.quit:
			return
		case <-c.lazyWake:
		case <-timer.C:
		}
		next := time.Hour
		c.mu.Lock()
		logs := c.lazy
		c.lazy = nil
		c.mu.Unlock()
		var left []*Log
		for _, l := range logs {
			if due, dirty := l.flushDue(); !dirty {
				continue
			} else if due <= 0 {
				c.add(l, false)
			} else {
				left = append(left, l)
				next = min(next, due)
			}
		}
		c.mu.Lock()
		c.lazy = append(left, c.lazy...)
		c.mu.Unlock()
		timer.Reset(next)
	}
}

// dirty says whether the log has something to be made durable, and whether it has write caching.
func (l *Log) dirty() (dirty, caching bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.closed && l.durable.offset < l.end.offset, l.config.WriteCaching
}

// flushDue returns how long until the log is to be flushed.
func (l *Log) flushDue() (due time.Duration, dirty bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Until(l.dirtied.Add(l.config.FlushInterval)), !l.closed && l.durable.offset < l.end.offset
}

// sync makes everything appended before the call durable and moves the durable offset and the high watermark. A failure is fatal for
// the store, and has been made known through it when sync returns.
func (l *Log) sync() error {
	l.committing.Lock()
	defer l.committing.Unlock()
	l.mu.Lock()
	if l.closed || l.durable.offset >= l.end.offset {
		l.mu.Unlock()
		return nil
	}
	m := l.end
	h := m.seg.h.acquire()
	l.mu.Unlock()

	err := l.store.Err()
	if err == nil {
		if err = errors.Join(l.syncNames(), syncData(h.file)); err != nil {
			l.store.fail(err)
		}
	}
	if rerr := h.release(); rerr != nil {
		l.store.log.Warn().Err(rerr).Str(fieldDir, l.dir).Msg("closing a segment's file failed")
	}
	if err == nil {
		l.advance(m)
	}
	return err
}

// syncNames makes the log's directory durable, the first time that something in it is to be. committing is held.
func (l *Log) syncNames() error {
	if !l.notSynced {
		return nil
	}
	if err := errors.Join(syncFile(l.path(metadataName)), syncDir(l.dir), syncDir(filepath.Dir(l.dir))); err != nil {
		return err
	}
	l.notSynced = false
	return nil
}
