package segment

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"mft/protocol"
)

// Defaults of Options.
const (
	DefaultCleanInterval = 30 * time.Second
	DefaultCleanerBytes  = 32 << 20
)

// cleanRetry is how long a log is left alone after cleaning it has failed.
const cleanRetry = 5 * time.Minute

// cleaner is the goroutine that carries out retention and compaction, one log at a time.
type cleaner struct {
	store  *Store
	serial atomic.Uint64 // makes names of discarded files unique
	wake   chan struct{} // cap 1
	done   sync.WaitGroup

	pass    sync.Mutex // one at a time
	recoder *protocol.Recoder
}

// logCleaner is what the cleaner remembers of one log.
type logCleaner struct {
	known     bool  // compacted was read from its file
	compacted int64 // offset behind the part of the log in which each key has one record
	broken    bool  // a replacement stopped halfway: the next start completes it
	notBefore time.Time
}

func newCleaner(s *Store) *cleaner {
	c := &cleaner{store: s, wake: make(chan struct{}, 1), recoder: protocol.NewRecoder()}
	if s.o.CleanInterval > 0 {
		c.done.Go(c.run)
	}
	return c
}

// close waits until the cleaner has stopped, which the closing of Store.quit makes it do.
func (c *cleaner) close() {
	c.done.Wait()
	c.pass.Lock() // also where Clean is called by others
	defer c.pass.Unlock()
}

func (c *cleaner) run() {
	ticker := time.NewTicker(c.store.o.CleanInterval)
	defer ticker.Stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for {
		select {
		case <-ticker.C:
		case <-c.wake:
		case <-c.store.quit:
			return
		}
		if err := c.store.Clean(ctx); err != nil && !errors.Is(err, ErrClosed) {
			c.store.log.Warn().Err(err).Msg("retention and compaction could not do all of their work; they try again later")
		}
	}
}

// RequestClean lets retention and compaction run soon, in the background.
func (s *Store) RequestClean() {
	select {
	case s.cleaner.wake <- struct{}{}:
	default:
	}
}

// Clean does now what is otherwise done every CleanInterval: it deletes the segments that retention does not keep any more, and compacts the logs
// that have enough to compact. Space comes back a little later, in pieces.
// The error is of the last log that could not be cleaned; the others were.
func (s *Store) Clean(ctx context.Context) error {
	c := s.cleaner
	c.pass.Lock()
	defer c.pass.Unlock()
	now := s.clock()
	var failed error
	// 1. Which logs have work? Only what is behind the last checkpoint can be touched: make one if there is more.
	var logs []*Log
	unsettled := false
	for _, l := range s.openLogs() {
		work, wait, err := l.cleanable(now)
		if err != nil && !errors.Is(err, ErrClosed) {
			failed = l.cleanFailed(now, err)
		}
		if work {
			logs = append(logs, l)
		}
		unsettled = unsettled || wait
		if err := s.cleanEnds(ctx); err != nil {
			return err
		}
	}
	if unsettled {
		if err := s.Checkpoint(ctx); err != nil { // on a full disk, deleting what is settled makes room for the next one
			failed = err
		}
	}
	// 2. One by one.
	for _, l := range logs {
		if err := l.clean(ctx, now); err != nil && !errors.Is(err, ErrClosed) {
			failed = l.cleanFailed(now, err)
		}
		if err := s.cleanEnds(ctx); err != nil {
			return err
		}
	}
	return failed
}

// cleanEnds says why cleaning is to stop.
func (s *Store) cleanEnds(ctx context.Context) error {
	select {
	case <-s.quit:
		return ErrClosed
	default:
	}
	if err := s.Err(); err != nil {
		return err
	}
	return ctx.Err()
}

func (l *Log) cleanFailed(now time.Time, err error) error {
	l.store.log.Warn().Err(err).Str(fieldDir, l.dir).Msg("cleaning the log failed, it is left as it is for now")
	l.cleaning.Lock()
	defer l.cleaning.Unlock()
	l.cleaner.notBefore = now.Add(cleanRetry)
	return err
}

// cleanable says whether retention or compaction have work on the log, and whether a checkpoint is needed before. An active segment of which
// nothing is to be kept is closed.
func (l *Log) cleanable(now time.Time) (work, wait bool, err error) {
	l.mu.Lock()
	idle := l.closed || l.config.idle() && (len(l.segments) == 1 || l.segments[1].base > l.start)
	l.mu.Unlock()
	if idle {
		return false, false, nil
	}
	l.cleaning.Lock()
	defer l.cleaning.Unlock()
	if l.stopCleaning.Load() || l.cleaner.broken || now.Before(l.cleaner.notBefore) {
		return false, false, nil
	}
	v := l.inventory()
	n, err := l.expired(v, now)
	if err != nil {
		return false, false, err
	}
	if n == len(v.segments) {
		err = l.rollExpired(now) // if that fails, for lack of room perhaps, the others can go all the same
		v = l.inventory()
		var eerr error
		if n, eerr = l.expired(v, now); eerr != nil {
			return false, false, errors.Join(err, eerr)
		}
	}
	if n = min(n, len(v.segments)-1); n > 0 {
		work, wait = true, v.segments[n-1].base >= v.settled
	}
	if v.config.Compact {
		_, limit, derr := l.dirtyPart(v, now)
		if derr != nil {
			return work, wait, errors.Join(err, derr)
		}
		if limit > 0 {
			work, wait = true, wait || v.segments[limit-1].base >= v.settled
		}
	}
	return work, wait, err
}

// idle says that nothing is ever to be cleaned, but for SetStart.
func (c *LogConfig) idle() bool {
	return !c.Compact && !(c.Delete && (c.RetentionTime > 0 || c.RetentionBytes > 0))
}

// clean carries out retention and compaction on one log.
func (l *Log) clean(ctx context.Context, now time.Time) error {
	l.cleaning.Lock()
	defer l.cleaning.Unlock()
	if l.stopCleaning.Load() {
		return ErrClosed
	}
	if l.cleaner.broken {
		return nil
	}
	if err := l.removeExpired(now); err != nil {
		return err
	}
	if !l.Config().Compact {
		return nil
	}
	return l.compact(ctx, now)
}

// settle notes what a checkpoint that is on the disk now says.
func (s *Store) settle(points []logPoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range points {
		l := s.logs[points[i].id.dirName()]
		if l == nil || l.id != points[i].id {
			continue
		}
		l.mu.Lock()
		l.settled = max(l.settled, points[i].base)
		l.mu.Unlock()
	}
}
