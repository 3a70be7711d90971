package segment

import (
	"errors"
	"path/filepath"
	"runtime"
	"sync"
	"time"
)

const (
	// committers is how many fdatasyncs run at a time. Disks gain little from more.
	committers = 8
	// cachedCommitters is how many of them may be busy with logs that have write caching, whose writes are large and in no hurry.
	cachedCommitters = 2
	// journalFrom is from how many dirty logs on one write to the journal is cheaper than an fdatasync of each.
	journalFrom = 4
	// maxRange is up to how many new bytes of a log go into the journal. Writing them twice costs more than an fdatasync beyond.
	maxRange = 32 << 10
	// maxBatch is how many bytes go into the journal at a time.
	maxBatch = 1 << 20
	// calm is after how many batches with less than journalFrom logs under way the journal is no longer preferred.
	calm = 16
	// avoidance is for how long the journal is left alone after it could not be written to.
	avoidance = time.Second
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

// committer makes what was appended durable, in the order in which logs got something new. All that was appended to a log by the time a
// worker gets to it is made durable together; what comes meanwhile, the next time.
//
// There are two ways. A worker takes one log and fdatasyncs its active segment: no byte is written twice, but a disk does only some
// thousands of these a second. Or it takes all the logs that have little, and puts that into the journal, with one fdatasync for all:
// this is chosen when several logs wait or are under way, and for a while after that was so, unless a log has so much that writing it twice
// would cost more. One worker at a time does so, the logs that become dirty meanwhile are its next batch.
type committer struct {
	store *Store
	from  int // journalFrom, other in tests

	mu     sync.Mutex
	wake   sync.Cond // on mu: there may be work, or closed is set
	urgent []*Log    // someone may wait for these
	large  []*Log    // for these too, but they have too much for the journal
	cached []*Log    // with write caching, due
	busy   int       // workers at logs from cached
	syncs  int       // workers at logs from urgent and large, one each
	closed bool

	journaling bool      // a worker is at a batch for the journal
	few        int       // batches since there were journalFrom logs under way
	avoid      time.Time // no journal before
	batch      batch     // of the worker that is journaling

	lazy     []*Log        // with write caching, dirty, not due yet
	lazyWake chan struct{} // cap 1: lazy got a log
	quit     chan struct{}
	workers  sync.WaitGroup
}

func newCommitter(s *Store) *committer {
	c := &committer{store: s, from: journalFrom, few: calm, lazyWake: make(chan struct{}, 1), quit: make(chan struct{})}
	if s.o.journalFrom > 0 {
		c.from = s.o.journalFrom
	}
	c.wake.L = &c.mu
	for range committers + 1 { // one for the journal
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

// add lets a worker make the log durable, which has so many bytes that are not. urgent says that someone may wait for it.
func (c *committer) add(l *Log, pending int64, urgent bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case l.queued == idle:
		c.push(l, pending, urgent)
	case l.queued == committing:
		l.queued = again
	case l.queued == queuedCached && urgent:
		for i, other := range c.cached {
			if other == l {
				c.cached = append(c.cached[:i], c.cached[i+1:]...)
				break
			}
		}
		c.push(l, pending, true)
	}
}

func (c *committer) push(l *Log, pending int64, urgent bool) {
	l.queued = queued
	switch {
	case !urgent:
		l.queued = queuedCached
		c.cached = append(c.cached, l)
	case pending > maxRange:
		c.large = append(c.large, l)
	default:
		c.urgent = append(c.urgent, l)
		if c.journaling {
			return // that worker looks after it
		}
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

// prefersJournal says how the urgent logs are to be made durable. mu is held.
func (c *committer) prefersJournal() bool {
	return (c.few < calm || len(c.urgent)+c.syncs >= c.from) && !c.store.journalFull.Load() && (c.avoid.IsZero() || time.Now().After(c.avoid))
}

func (c *committer) work() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed:
			return
		case len(c.urgent) > 0 && !c.journaling && c.prefersJournal():
			c.journal()
		case len(c.large) > 0 && c.syncs < committers:
			c.sync(pop(&c.large), &c.syncs)
		case len(c.urgent) > 0 && c.syncs < committers && !c.prefersJournal():
			c.sync(pop(&c.urgent), &c.syncs)
		case len(c.cached) > 0 && c.busy < cachedCommitters:
			c.sync(pop(&c.cached), &c.busy)
		default:
			c.wake.Wait()
		}
	}
}

// sync makes one log durable, with mu released. count is that of the workers that do the same.
func (c *committer) sync(l *Log, count *int) {
	l.queued = committing
	*count++
	c.mu.Unlock()
	commit(l)
	c.mu.Lock()
	*count--
	c.done(l)
	if len(c.large)+len(c.cached)+len(c.urgent) > 0 { // the count may have been what kept others from it
		c.wake.Signal()
	}
}

// journal makes a batch of urgent logs durable through the journal, with mu released.
func (c *committer) journal() {
	c.journaling = true
	if c.few == 0 {
		// Let those append again whom the last batch has woken: twice as many acks share an fdatasync then.
		c.mu.Unlock()
		runtime.Gosched()
		c.mu.Lock()
	}
	b := &c.batch
	b.logs = b.logs[:0]
	var size int64
	for len(c.urgent) > 0 && size < maxBatch {
		l := pop(&c.urgent)
		_, pending, _ := l.dirty()
		if pending > maxRange {
			c.large = append(c.large, l)
			c.wake.Signal()
			continue
		}
		l.queued = committing
		b.logs, size = append(b.logs, l), size+pending
	}
	if len(b.logs)+c.syncs >= c.from {
		c.few = 0
	} else if c.few < calm {
		c.few++
	}
	c.mu.Unlock()
	err := b.commit(c.store)
	c.mu.Lock()
	c.journaling = false
	if err != nil {
		c.avoid = time.Now().Add(avoidance)
	}
	for i, l := range b.logs {
		c.done(l)
		b.logs[i] = nil
	}
}

// done puts a log that was made durable back into a queue when there is more.
func (c *committer) done(l *Log) {
	more := l.queued == again
	l.queued = idle
	if dirty, pending, caching := l.dirty(); dirty && c.store.Err() == nil {
		if more || !caching {
			c.push(l, pending, !caching)
		} else {
			c.wait(l)
		}
	}
}

// commit fdatasyncs one log.
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
				c.add(l, 0, false)
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

// dirty says whether the log has something to be made durable, how many bytes, and whether it has write caching.
func (l *Log) dirty() (dirty bool, pending int64, caching bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	dirty = !l.closed && l.durable.offset < l.end.offset
	if dirty {
		pending = l.pending()
	}
	return dirty, pending, l.config.WriteCaching
}

// flushDue returns how long until the log is to be flushed.
func (l *Log) flushDue() (due time.Duration, dirty bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Until(l.dirtied.Add(l.config.FlushInterval)), !l.closed && l.durable.offset < l.end.offset
}

// sync makes everything appended before the call durable in the log's own files, also what is so already in the journal, and moves the durable
// offset and the high watermark. A failure is fatal for the store, and has been made known through it when sync returns.
func (l *Log) sync() error {
	l.committing.Lock()
	defer l.committing.Unlock()
	l.mu.Lock()
	if l.closed || l.synced.offset >= l.end.offset {
		l.mu.Unlock()
		return nil
	}
	m := l.end
	h := m.seg.h.acquire()
	l.mu.Unlock()

	err := l.store.Err()
	named := l.named.Load()
	if err == nil {
		if !named {
			err = l.syncNames()
		}
		if err = errors.Join(err, syncData(h.file)); err != nil {
			l.store.fail(err)
		}
	}
	l.store.releaseFile(l, h)
	if err != nil {
		return err
	}
	l.advance(m, true)
	if !named {
		l.named.Store(true)
		l.vouch(m)
	}
	return nil
}

// syncNames makes the log's directory durable, the first time that something in it is to be. committing is held.
func (l *Log) syncNames() error {
	return errors.Join(syncFile(l.path(metadataName)), syncDir(l.dir), syncDir(filepath.Dir(l.dir)))
}

// vouch notes in the journal, without waiting for it, that the log's file is durable up to a mark: should it be missing at the next start, that is
// damage.
func (l *Log) vouch(m mark) {
	l.store.note(record{recordRange, appendRange(nil, logRange{id: l.id, named: l.named.Load(), base: m.seg.base, position: m.position})})
}
