package segment

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"time"

	"mft/protocol"
)

// Appended says where an append went.
type Appended struct {
	BaseOffset  int64 // of the first record
	LastOffset  int64 // of the last record
	StartOffset int64 // the log's start offset
	// Duplicate says that nothing was appended because the producer sent the same before: the offsets are those it got then.
	// They may not be durable yet either.
	Duplicate bool
}

// Append adds one or more whole, validated batches, back to back, to the end of the log. It sets their base offsets and leader epochs in
// place and writes all of them or none. They are neither durable nor visible to readers before HighWatermark has passed LastOffset: see Wait.
//
// Errors: ErrOutOfOrderSequence, ErrInvalidProducerEpoch and ErrDuplicateSequence for batches of idempotent producers,
// *protocol.BatchError for bytes that are not whole batches, *StorageError when the write failed and was undone, ErrClosed, and after a
// failed fsync the store's error.
func (l *Log) Append(batches []byte) (Appended, error) {
	var few [4]protocol.Batch
	list := few[:0]
	for rest := batches; ; {
		b, more, err := protocol.NextBatch(rest)
		if err == io.EOF {
			break
		} else if err != nil {
			return Appended{}, err
		}
		if b.LastOffsetDelta() < 0 {
			return Appended{}, errors.New("a batch with a negative last offset delta cannot be appended")
		}
		list, rest = append(list, b), more
	}
	if len(list) == 0 {
		return Appended{}, errors.New("nothing to append")
	}

	l.appending.Lock()
	defer l.appending.Unlock()
	if err := l.usable(); err != nil {
		return Appended{}, err
	}
	a, err := l.admit(list)
	if err != nil || a.Duplicate {
		return a, err
	}
	if err := l.makeRoom(list, int64(len(batches)), a.LastOffset); err != nil {
		return Appended{}, err
	}
	next := a.BaseOffset
	for _, b := range list {
		b.SetBaseOffset(next)
		b.SetPartitionLeaderEpoch(l.store.epoch)
		next = b.LastOffset() + 1
	}
	if err := l.write(batches); err != nil {
		return Appended{}, err
	}
	l.extend(list, int64(len(batches)))
	return a, nil
}

// admit checks the sequence numbers and says where the batches will go, or went before.
func (l *Log) admit(list []protocol.Batch) (Appended, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if slices.ContainsFunc(list, idempotent) {
		base, last, duplicate, err := l.producers.admit(list)
		if err != nil || duplicate {
			return Appended{BaseOffset: base, LastOffset: last, StartOffset: l.start, Duplicate: duplicate}, err
		}
	}
	a := Appended{BaseOffset: l.end.offset, LastOffset: l.end.offset - 1, StartOffset: l.start}
	for _, b := range list {
		a.LastOffset += int64(b.LastOffsetDelta()) + 1
	}
	return a, nil
}

// makeRoom begins the next segment when the active one has no room for the batches, n bytes up to an offset, or is too old for them.
func (l *Log) makeRoom(list []protocol.Batch, n, last int64) error {
	l.mu.Lock()
	seg, limit := l.active(), l.config.SegmentBytes
	size := seg.size
	age := l.config.SegmentAge
	l.mu.Unlock()
	fits := size+n <= limit && last-seg.base <= math.MaxInt32
	if fits && size > 0 && age > 0 {
		old, err := l.tooOld(seg, list, age)
		if err != nil {
			return err
		}
		fits = !old
	}
	if size == 0 && n <= math.MaxInt32 || fits {
		return nil
	}
	if n > math.MaxInt32 {
		return fmt.Errorf("%d bytes do not fit into a segment", n)
	}
	return l.roll()
}

// write puts the batches at the end of the active segment, or leaves it as it was.
func (l *Log) write(batches []byte) error {
	l.mu.Lock()
	seg := l.active()
	at, f := seg.size, seg.h.file // appending keeps the handle open
	l.mu.Unlock()
	failed := func(err error) error {
		return &StorageError{Op: "append", Path: l.path(logName(seg.base)), Err: err}
	}
	if l.cut {
		if err := f.Truncate(at); err != nil {
			return failed(err)
		}
		l.cut, l.reserved = false, 0
	}
	l.reserve(f, at, int64(len(batches)))
	if _, err := f.WriteAt(batches, at); err != nil {
		// What the failed write left behind must not be taken for records after a crash.
		l.reserved = 0
		if terr := f.Truncate(at); terr != nil {
			l.cut = true
			err = errors.Join(err, terr)
		}
		return failed(err)
	}
	return nil
}

// extend makes the batches that were written part of the log.
func (l *Log) extend(list []protocol.Batch, n int64) {
	now := l.store.clock().UnixMilli()
	l.mu.Lock()
	seg := l.active()
	wasClean := l.durable.offset == l.end.offset
	for _, b := range list {
		seg.indexes.add(seg.base, seg.size, b, len(b), l.config.IndexIntervalBytes)
		seg.size += int64(len(b))
		l.producers.add(b, now)
	}
	l.end = mark{list[len(list)-1].LastOffset() + 1, seg, seg.size}
	caching, pending := l.config.WriteCaching, l.pending()
	flush := false
	if caching {
		if wasClean {
			l.dirtied = time.Now()
		}
		flush = pending >= l.config.FlushBytes
		l.raise(l.end)
	}
	l.checkInvariant()
	l.mu.Unlock()
	switch {
	case !caching || flush:
		l.store.committer.add(l, pending, !caching)
	case wasClean:
		l.store.committer.delay(l)
	}
	l.store.grown(n)
}

// roll makes the active segment durable and begins the next one at the end of the log. appending is held: nobody appends meanwhile, reads
// and commits go on.
func (l *Log) roll() error {
	if err := l.sync(); err != nil {
		return errors.Join(l.store.Err(), err)
	}
	l.mu.Lock()
	old := l.active()
	old.indexes.addTime() // Kafka ends a time index with the segment's greatest timestamp
	base, size := l.end.offset, old.size
	l.mu.Unlock()
	l.storeIndexes(old)
	if err := l.unreserve(old.h.file, size); err != nil {
		return &StorageError{Op: "end a segment", Path: l.path(logName(old.base)), Err: err}
	}

	path := l.path(logName(base))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return &StorageError{Op: "begin a segment", Path: path, Err: err}
	}
	if err := syncDir(l.dir); err != nil {
		l.store.fail(fmt.Errorf("fsync %s: %w", l.dir, err))
		return errors.Join(l.store.Err(), f.Close())
	}
	next := &segment{base: base, indexes: newIndexes(), maxKnown: true, h: newHandle(f)}
	l.mu.Lock()
	h := old.h
	old.h = nil
	old.indexes.offsets.stored, old.indexes.offsets.tail = wholeFile, nil
	old.indexes.times.stored, old.indexes.times.tail = wholeFile, nil
	old.indexes.covered = old.size
	l.segments = append(l.segments, next)
	l.end.seg, l.end.position = next, 0
	m := l.end
	l.mu.Unlock()
	l.vouch(m)
	if err := l.store.files.put(old, h); err != nil {
		l.store.log.Warn().Err(err).Str(fieldDir, l.dir).Msg("closing a segment's file failed")
	}
	return nil
}

// storeIndexes writes the index entries that are only in memory to the index files. Failing is no loss: entries stay in memory until it
// succeeds, and files that are not whole are rebuilt when they are needed.
func (l *Log) storeIndexes(seg *segment) {
	seg.mending.Lock()
	defer seg.mending.Unlock()
	l.mu.Lock()
	offsets, times := l.offsetsView(seg), l.timesView(seg)
	covered, closed := seg.size, l.closed
	l.mu.Unlock()
	if closed { // the directory may be gone
		return
	}
	if len(offsets.tail)+len(times.tail) == 0 && offsets.stored > 0 {
		return
	}
	nOffsets, err := offsets.store()
	nTimes, terr := times.store()
	if err = errors.Join(err, terr); err != nil {
		l.store.log.Warn().Err(err).Str(fieldDir, l.dir).Int64(fieldBase, seg.base).Msg("index not written, it will be rebuilt when it is needed")
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	seg.indexes.offsets.stored, seg.indexes.times.stored = nOffsets, nTimes
	seg.indexes.offsets.tail = slices.Clone(seg.indexes.offsets.tail[len(offsets.tail):])
	seg.indexes.times.tail = slices.Clone(seg.indexes.times.tail[len(times.tail):])
	seg.indexes.covered = covered
}

// offsetsView and timesView return the present state of a segment's indexes. Log.mu is held.
func (l *Log) offsetsView(seg *segment) indexView[offsetEntry] {
	x := &seg.indexes.offsets
	return indexView[offsetEntry]{l.offsetsPath(seg), x.stored, x.tail}
}

func (l *Log) timesView(seg *segment) indexView[timeEntry] {
	x := &seg.indexes.times
	return indexView[timeEntry]{l.timesPath(seg), x.stored, x.tail}
}
