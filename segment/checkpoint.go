package segment

import (
	"fmt"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"
)

// A checkpoint, in this order, so that a crash at any moment leaves a snapshot and the generations of the journal that go on from it:
//
//  1. begin the next generation of the journal; what is proposed from now on goes there
//  2. take the state of the metadata, which is exactly that of the older generations
//  3. for each log: note its end, its producers and its epochs as of now, then fdatasync, then write its index entries to their files
//  4. write meta.snapshot
//  5. delete the older generations
//
// 1 and 2 are done by the goroutine that owns the journal, between two groups, the rest beside it.
type checkpoint struct {
	store *Store
	snap  snapshot
}

// begin does steps 1 and 2.
func (m *metadata) begin() (*checkpoint, error) {
	s := m.store
	if err := s.Err(); err != nil {
		return nil, err
	}
	s.appended.Store(0)
	if m.journal.size > 0 {
		next, _, err := openJournal(m.journal.dir, m.journal.generation+1, nil)
		if err != nil {
			return nil, err
		}
		old := m.journal
		m.journal = next
		if err := old.close(); err != nil {
			err = fmt.Errorf("close the old journal: %w", err)
			s.fail(err)
			return nil, err
		}
	}
	c := &checkpoint{store: s, snap: snapshot{generation: m.journal.generation, epoch: s.epoch}}
	if s.o.Snapshot != nil {
		var err error
		if c.snap.state, err = s.o.Snapshot(); err != nil {
			return nil, fmt.Errorf("take the state: %w", err)
		}
		c.snap.hasState = true
	}
	return c, nil
}

// write does the other steps.
func (c *checkpoint) write() error {
	s := c.store
	logs, points := s.known()
	c.snap.logs = points
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(committers)
	for _, l := range logs {
		group.Go(func() error {
			p, ok, err := l.checkpoint()
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
func (l *Log) checkpoint() (p logPoint, ok bool, err error) {
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
		offsets:  seg.indexes.offsets.stored + len(seg.indexes.offsets.tail),
		times:    seg.indexes.times.stored + len(seg.indexes.times.tail),
		unmarked: seg.indexes.unmarked, max: seg.indexes.max, lastTime: seg.indexes.lastTime,
		epochs: l.epochs.clone(), producers: l.producers.clone(),
	}
	l.mu.Unlock()
	if err := l.sync(); err != nil {
		return p, false, err
	}
	l.storeIndexes(seg)
	return p, true, nil
}
