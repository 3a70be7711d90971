package segment

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	journalName = "journal"
	topicsName  = "topics"
	// maxEntry bounds an entry of Propose, maxGroup what goes into one write of the journal.
	maxEntry = 8 << 20
	maxGroup = 1 << 20
	// checkpointRetry is how long after a failed checkpoint the next one is tried.
	checkpointRetry = 5 * time.Second
)

// proposal is one call of Propose, or data of logs.
type proposal struct {
	records []record
	logs    []*Log     // whose ranges the records are; nil for others
	done    chan error // cap 1
}

func (p *proposal) size() (n int) {
	for _, r := range p.records {
		n += len(r.payload)
	}
	return n
}

// Propose writes a metadata entry to the journal, waits until it is durable, and returns what Options.Apply says of it. Concurrent calls share an
// fdatasync. When ctx ends first the entry may be applied all the same.
//
// Errors besides those of Apply: *StorageError when it could not be written, ErrClosed, ctx's error, and after a failed fsync the store's.
func (s *Store) Propose(ctx context.Context, entry []byte) error {
	if len(entry) > maxEntry {
		return fmt.Errorf("a metadata entry of %d bytes is too large, %d are allowed", len(entry), maxEntry)
	}
	return s.propose(ctx, &proposal{records: []record{{recordMetadata, entry}}, done: make(chan error, 1)})
}

// propose hands records to the goroutine that owns the journal and waits until they are durable and applied.
func (s *Store) propose(ctx context.Context, p *proposal) error {
	if err := s.submit(ctx, p); err != nil {
		return err
	}
	return s.await(ctx, p)
}

func (s *Store) submit(ctx context.Context, p *proposal) error {
	select {
	case <-s.quit:
		return ErrClosed
	default:
	}
	select {
	case s.proposals <- p:
		return nil
	case <-s.quit:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// await waits for the outcome of what was submitted.
func (s *Store) await(ctx context.Context, p *proposal) error {
	select {
	case err := <-p.done:
		return err
	case <-s.stopped:
		select {
		case err := <-p.done:
			return err
		default:
			return ErrClosed
		}
	case <-ctx.Done():
		return ctx.Err()
	}
}

// note lets a record go into the journal with the next group, without anyone waiting for it.
func (s *Store) note(r record) {
	s.mu.Lock()
	s.notes = append(s.notes, r)
	s.mu.Unlock()
	select {
	case s.noted <- struct{}{}:
	default:
	}
}

// load reads snapshot and journal and begins a new epoch. It returns the journal to be written to.
func (s *Store) load() (*journal, error) {
	dir := filepath.Join(s.dir, journalName)
	snap, err := readSnapshot(s.dir)
	if err != nil {
		return nil, err
	}
	if snap == nil {
		if snap, err = s.create(dir); err != nil {
			return nil, err
		}
	}
	s.epoch = snap.epoch
	for _, p := range snap.logs {
		s.points[p.id.dirName()] = p
	}
	if snap.hasState {
		if err := s.o.Restore(snap.state); err != nil {
			return nil, fmt.Errorf("restore the state from %s: %w", filepath.Join(s.dir, snapshotName), err)
		}
	}
	j, err := s.replay(dir, snap.generation)
	if err != nil {
		return nil, err
	}
	if err := s.redo(); err != nil {
		return nil, errors.Join(err, j.close())
	}
	s.epoch++
	epoch := binary.BigEndian.AppendUint32(nil, uint32(s.epoch))
	err = j.write([]record{{recordEpoch, epoch}})
	if err == nil {
		err = j.sync()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("begin epoch %d: %w", s.epoch, err), j.close())
	}
	return j, nil
}

// create makes a new data directory: first an empty journal, then the snapshot that marks it as complete. It refuses when the directory has anything
// in it that only a snapshot could explain.
func (s *Store) create(dir string) (*snapshot, error) {
	lost := func(what string) error {
		return &CorruptionError{Dir: s.dir, File: snapshotName, Reason: "the file is missing although there is " + what +
			"; restore it from a copy, or move the directory away to start anew"}
	}
	topics, err := os.ReadDir(filepath.Join(s.dir, topicsName))
	if err != nil {
		return nil, err
	}
	if len(topics) > 0 {
		return nil, lost("data in " + topicsName)
	}
	found, err := generations(dir)
	if err != nil {
		return nil, err
	}
	if len(found) > 1 || len(found) == 1 && found[0] != 1 {
		return nil, lost("a journal")
	}
	j, _, err := openJournal(dir, 1, nil)
	if err != nil {
		return nil, err
	}
	size := j.size
	if err := j.close(); err != nil {
		return nil, err
	}
	if size > 0 {
		return nil, lost("a journal")
	}
	snap := &snapshot{generation: 1}
	if err := snap.write(s.dir); err != nil {
		return nil, err
	}
	return snap, syncDir(filepath.Dir(s.dir))
}

// replay applies the generations of the journal from the given one on, in order, and opens the last that has anything in it. An empty one behind
// it was made ready for a checkpoint that did not come to it; only that one may follow a torn write.
func (s *Store) replay(dir string, from uint64) (*journal, error) {
	if err := removeGenerations(dir, from); err != nil { // a checkpoint did not get so far
		return nil, err
	}
	found, err := generations(dir)
	if err != nil {
		return nil, err
	}
	for i, g := range found {
		if g != from+uint64(i) {
			return nil, &CorruptionError{Dir: dir, Reason: fmt.Sprintf("generation %d is missing", from+uint64(i))}
		}
	}
	if len(found) == 0 {
		return nil, &CorruptionError{Dir: dir, Reason: fmt.Sprintf("generation %d is missing", from)}
	}
	for len(found) > 1 {
		last := found[len(found)-1]
		blank, err := isBlank(generationFile(dir, last))
		if err != nil {
			return nil, fmt.Errorf("read the journal: %w", err)
		}
		if !blank {
			break
		}
		if err := os.RemoveAll(filepath.Join(dir, generationName(last))); err != nil {
			return nil, fmt.Errorf("remove an empty generation of the journal: %w", err)
		}
		found = found[:len(found)-1]
	}
	last := found[len(found)-1]
	for _, g := range found[:len(found)-1] {
		data, err := os.ReadFile(generationFile(dir, g))
		if err != nil {
			return nil, fmt.Errorf("read the journal: %w", err)
		}
		valid, groups, err := scanGeneration(dir, g, data, s.replayRecord)
		if err != nil {
			return nil, err
		}
		if len(bytes.TrimRight(data[valid:], "\x00")) > 0 {
			return nil, &CorruptionError{Dir: filepath.Join(dir, generationName(g)), File: filepath.Base(generationFile(dir, g)), Offset: valid,
				Reason: fmt.Sprintf("group %d is unreadable although a later generation exists", groups+1)}
		}
	}
	j, cut, err := openJournal(dir, last, s.replayRecord)
	if err != nil {
		return nil, err
	}
	if cut > 0 {
		s.log.Warn().Str(fieldDir, filepath.Join(dir, generationName(last))).Int64("bytes", cut).Msg("cut a torn write off the journal")
	}
	return j, nil
}

func (s *Store) replayRecord(r record) error {
	switch r.kind {
	case recordMetadata:
		if err := s.o.Apply(r.payload); err != nil {
			s.log.Debug().Err(err).Msg("a metadata entry failed in replay, as it did the first time")
		}
		return nil
	case recordEpoch:
		if len(r.payload) != 4 {
			return errors.New("an epoch that is not 4 bytes long")
		}
		s.epoch = int32(binary.BigEndian.Uint32(r.payload))
		return nil
	case recordRange:
		x, err := parseRange(r.payload)
		if err == nil {
			s.collect(x)
		}
		return err
	case recordDeleted:
		id, err := parseDeleted(r.payload)
		if x := s.redone[id.dirName()]; err == nil && x != nil && x.id == id {
			delete(s.redone, id.dirName())
		}
		return err
	default:
		return fmt.Errorf("a record of unknown kind %d", r.kind)
	}
}

// runMetadata is the goroutine that owns the journal: it commits proposals in groups, and begins checkpoints.
func (s *Store) runMetadata(j *journal) {
	defer close(s.stopped)
	m := &metadata{store: s, journal: j, finished: make(chan error, 1), prepared: make(chan nextJournal, 1)}
	for {
		select {
		case p := <-s.proposals:
			m.commit(m.gather(p))
			m.grown()
		case <-s.noted:
			m.commit(m.gather(nil))
			m.grown()
		case done := <-s.checkpoints:
			m.checkpoint(done)
		case err := <-m.finished:
			m.checkpointEnded(err)
		case <-s.quit:
			s.stopErr = m.stop()
			return
		}
	}
}

// metadata is the state of that goroutine.
type metadata struct {
	store   *Store
	journal *journal
	records []record

	preparing bool             // the next generation is being made by another goroutine
	prepared  chan nextJournal // it puts it here; cap 1

	stopping bool
	running  bool       // a checkpoint is being written by another goroutine
	finished chan error // it tells its outcome here; cap 1
	waiting  []chan error
	wanted   []chan error // ask for another one
	retry    time.Time    // no checkpoint before
}

type nextJournal struct {
	journal *journal
	err     error
}

// gather takes the proposals that are waiting, up to a size. first may be nil.
func (m *metadata) gather(first *proposal) (group []*proposal) {
	size := 0
	if first != nil {
		group, size = append(group, first), first.size()
	}
	for size < maxGroup {
		select {
		case p := <-m.store.proposals:
			group, size = append(group, p), size+p.size()
		default:
			return group
		}
	}
	return group
}

// commit makes a group durable, with the notes that there are, applies it, and answers.
func (m *metadata) commit(group []*proposal) {
	answer := func(err error) {
		for _, p := range group {
			p.done <- err
		}
	}
	if err := m.store.Err(); err != nil {
		answer(err)
		return
	}
	s := m.store
	s.mu.Lock()
	m.records = append(m.records[:0], s.notes...)
	s.mu.Unlock()
	notes := len(m.records)
	for _, p := range group {
		for i, r := range p.records {
			// A range that came behind the deletion of its log would bring it back.
			if p.logs == nil || !p.logs[i].deleted.Load() {
				m.records = append(m.records, r)
			}
		}
	}
	if len(m.records) == 0 {
		answer(nil)
		return
	}
	err := m.journal.write(m.records)
	clear(m.records)
	if err == nil {
		s.mu.Lock()
		s.notes = slices.Delete(s.notes, 0, notes)
		s.mu.Unlock()
		err = m.journal.sync()
	}
	var storage *StorageError
	if err != nil && !errors.As(err, &storage) {
		s.fail(err)
		err = s.Err()
	}
	if err != nil {
		answer(err)
		return
	}
	for _, p := range group {
		var err error
		for _, r := range p.records {
			if r.kind == recordMetadata {
				err = s.o.Apply(r.payload)
			}
		}
		p.done <- err
	}
}

// grown sees to it that the journal stays bounded: the next generation is made ready while there is still room in this one, since
// making it takes several fsyncs, and when this one is full a checkpoint takes it into use. When checkpoints cannot keep up with what is
// appended, data goes elsewhere.
func (m *metadata) grown() {
	size, limit := m.journal.size, m.store.o.JournalBytes
	if size >= limit/2 && !m.preparing {
		m.preparing = true
		j := m.journal
		go func() {
			next, _, err := openJournal(j.dir, j.generation+1, nil)
			if err == nil {
				if err = next.reserve(limit + maxBatch); err != nil {
					err = errors.Join(err, next.close())
				}
			}
			m.prepared <- nextJournal{next, err}
		}()
	}
	m.store.journalFull.Store(size >= 4*limit)
	if size >= limit {
		m.checkpoint(nil)
	}
}

// next returns the generation after the present one.
func (m *metadata) next() (*journal, error) {
	if m.preparing {
		next := <-m.prepared
		m.preparing = false
		return next.journal, next.err
	}
	next, _, err := openJournal(m.journal.dir, m.journal.generation+1, nil)
	return next, err
}

// stop is the end of the goroutine: the last checkpoint, and the journal is closed.
func (m *metadata) stop() error {
	for m.running {
		m.checkpointEnded(<-m.finished)
	}
	err := m.store.Err()
	if err == nil {
		m.retry, m.stopping = time.Time{}, true
		m.checkpoint(nil)
		err = <-m.finished
		m.checkpointEnded(err)
	}
	for {
		select {
		case p := <-m.store.proposals:
			p.done <- ErrClosed
		default:
			return errors.Join(err, m.journal.close(), m.discardNext())
		}
	}
}

// discardNext removes a generation that was made ready in vain.
func (m *metadata) discardNext() error {
	if !m.preparing {
		return nil
	}
	next, err := m.next()
	if err != nil {
		return nil // as it was not needed, and the next start takes care of what there is of it
	}
	return errors.Join(next.close(), os.RemoveAll(filepath.Join(next.dir, generationName(next.generation))))
}

// checkpoint begins a checkpoint, or notes that another is to follow the one that is being written. done, if not nil, is told its outcome.
func (m *metadata) checkpoint(done chan error) {
	if m.running {
		if !slices.Contains(m.wanted, done) {
			m.wanted = append(m.wanted, done)
		}
		return
	}
	if done == nil && time.Now().Before(m.retry) {
		return
	}
	m.waiting = append(m.waiting[:0], done)
	c, err := m.begin()
	m.running = true
	if err != nil {
		m.finished <- err
		return
	}
	c.last = m.stopping
	go func() { m.finished <- c.write() }()
}

// checkpointEnded answers those who waited for a checkpoint and begins the next when one is wanted.
func (m *metadata) checkpointEnded(err error) {
	m.running = false
	for _, done := range m.waiting {
		if done != nil {
			done <- err
		}
	}
	m.waiting = m.waiting[:0]
	if err != nil {
		m.store.log.Error().Err(err).Msg("checkpoint failed; the journal is kept and it is tried again later")
		m.retry = time.Now().Add(checkpointRetry)
	}
	wanted := m.wanted
	m.wanted = nil
	for _, done := range wanted {
		m.checkpoint(done)
	}
}
