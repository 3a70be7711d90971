package segment

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"
)

// A checkpoint, in this order, so that a crash at any moment leaves a snapshot and the generations of the journal that go on from it:
//
//  1. begin the next generation of the journal; what is proposed and journaled from now on goes there
//  2. take the state of the metadata, which is exactly that of the older generations
//  3. for each log: note its end, its producers and its epochs as of now, then fdatasync if its files lack anything of that, also when it
//     is in the journal, then write its index entries to their files
//  4. write meta.snapshot
//  5. delete the older generations
//
// 1 and 2 are done by the goroutine that owns the journal, between two groups, the rest beside it: acks go on meanwhile, through the new
// generation or by fdatasyncs of their own.
type checkpoint struct {
	store *Store
	snap  snapshot
	old   *journal // to be closed; nil when the generation has not changed
	last  bool     // the store is being closed
}

// checkpointSyncs is how many fdatasyncs of a checkpoint run at a time. With more, those that acks wait for would take longer.
const checkpointSyncs = 4

// fewEntries is how many entries of an index a checkpoint leaves in memory, unless it is the last: two more files to be written for each of a
// thousand logs cost more than it costs a reader after a crash to walk over the batches between them.
const fewEntries = 60

// begin does steps 1 and 2.
func (m *metadata) begin() (*checkpoint, error) {
	s := m.store
	if err := s.Err(); err != nil {
		return nil, err
	}
	s.appended.Store(0)
	c := &checkpoint{store: s}
	if m.journal.size > 0 {
		next, err := m.next()
		if err != nil {
			return nil, err
		}
		c.old, m.journal = m.journal, next
		s.journalFull.Store(false)
	}
	if err := m.vouchAgain(); err != nil {
		return nil, errors.Join(err, c.close())
	}
	c.snap = snapshot{generation: m.journal.generation, epoch: s.epoch}
	if s.o.Snapshot != nil {
		var err error
		if c.snap.state, err = s.o.Snapshot(); err != nil {
			return nil, errors.Join(fmt.Errorf("take the state: %w", err), c.close())
		}
		c.snap.hasState = true
	}
	return c, nil
}

// close closes the generation before.
func (c *checkpoint) close() error {
	if c.old == nil {
		return nil
	}
	err := c.old.close()
	if err != nil {
		err = fmt.Errorf("close the old journal: %w", err)
		c.store.fail(err)
	}
	return err
}

// write does the other steps.
func (c *checkpoint) write() error {
	s := c.store
	if err := c.close(); err != nil {
		return err
	}
	if err := s.syncRedone(); err != nil {
		return err
	}
	logs, points := s.known()
	c.snap.logs = points
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(checkpointSyncs)
	for _, l := range logs {
		group.Go(func() error {
			p, ok, err := l.checkpoint(c.last)
			if ok {
				mu.Lock()
				c.snap.logs = append(c.snap.logs, p)
				mu.Unlock()
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := c.snap.write(s.dir); err != nil {
		return err
	}
	s.settle(c.snap.logs)
	return removeGenerations(filepath.Join(s.dir, journalName), c.snap.generation)
}

// known returns the open logs, and the last points of those that were not opened yet.
func (s *Store) known() (logs []*Log, points []logPoint) {
	s.mu.Lock()
	for _, p := range s.points {
		points = append(points, p)
	}
	s.mu.Unlock()
	return s.openLogs(), points
}

// checkpoint makes the log durable and returns its point; ok is false when it was closed.
func (l *Log) checkpoint(last bool) (p logPoint, ok bool, err error) {
	now := l.store.clock()
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return p, false, nil
	}
	seg := l.active()
	l.producers.expire(now.Add(-producerExpiry).UnixMilli())
	p = logPoint{
		id: l.id, start: l.start, base: seg.base, position: seg.size, offset: l.end.offset,
		offsets: seg.indexes.offsets.stored, times: seg.indexes.times.stored,
		unmarked: seg.indexes.unmarked, max: seg.indexes.max, lastTime: seg.indexes.lastTime,
		epochs: l.epochs.clone(), producers: l.producers.clone(),
	}
	entries := len(seg.indexes.offsets.tail)
	store := last || entries > fewEntries
	if store {
		p.offsets += entries
		p.times += len(seg.indexes.times.tail)
	}
	l.mu.Unlock()
	if err := l.sync(); err != nil {
		return p, false, err
	}
	if store {
		l.storeIndexes(seg)
	}
	return p, true, nil
}
