package segment

import (
	"errors"
	"io"

	"mft/protocol"
)

// OffsetForTime returns the first readable record whose timestamp (ms since 1970) is at least ts, with its own timestamp and the leader
// epoch under which it was appended. offset, timestamp and epoch are -1 when there is none.
// Errors: *CorruptionError, ErrClosed.
func (l *Log) OffsetForTime(ts int64) (offset, timestamp int64, leaderEpoch int32, err error) {
	for {
		bases, start := l.bases()
		offset, timestamp, leaderEpoch, err = l.firstOf(bases, start, ts)
		if !errors.Is(err, errSegmentGone) {
			return offset, timestamp, leaderEpoch, err
		}
	}
}

// firstOf is OffsetForTime for the segments with the given base offsets.
func (l *Log) firstOf(bases []int64, start, ts int64) (offset, timestamp int64, leaderEpoch int32, err error) {
	for _, base := range bases {
		offset, timestamp, leaderEpoch, err = l.firstSince(base, start, ts)
		if err != nil || offset >= 0 {
			return offset, timestamp, leaderEpoch, err
		}
	}
	return -1, -1, -1, nil
}

// MaxTimestampOffset returns the first readable record that has the greatest timestamp of all (ListOffsets with -3), as OffsetForTime does.
func (l *Log) MaxTimestampOffset() (offset, timestamp int64, leaderEpoch int32, err error) {
	for {
		offset, timestamp, leaderEpoch, err = l.maxTimestampOffset()
		if !errors.Is(err, errSegmentGone) {
			return offset, timestamp, leaderEpoch, err
		}
	}
}

func (l *Log) maxTimestampOffset() (offset, timestamp int64, leaderEpoch int32, err error) {
	bases, start := l.bases()
	greatest := int64(-1)
	for _, base := range bases {
		v, err := l.viewSegment(base)
		if err != nil {
			return -1, -1, -1, err
		}
		if v == nil {
			continue
		}
		top, err := l.maxTimestamp(v)
		if err = errors.Join(l.corruption(base, err), v.Release()); err != nil {
			return -1, -1, -1, err
		}
		greatest = max(greatest, top)
	}
	if greatest < 0 {
		return -1, -1, -1, nil
	}
	return l.firstOf(bases, start, greatest)
}

// bases returns the base offsets of the segments, and the log start offset.
func (l *Log) bases() (bases []int64, start int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, seg := range l.segments {
		bases = append(bases, seg.base)
	}
	return bases, l.start
}

// errSegmentGone says that retention or compaction took a segment away between two looks at the log: look again.
var errSegmentGone = errors.New("the segment was deleted meanwhile")

// viewSegment opens the segment with a base offset; errSegmentGone when it is not there any more, nil when it has nothing readable yet.
func (l *Log) viewSegment(base int64) (*view, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, ErrClosed
	}
	if base >= l.high.offset {
		return nil, nil
	}
	for i, seg := range l.segments {
		if seg.base == base {
			v := &view{}
			l.open(v, i)
			return v, nil
		}
	}
	return nil, errSegmentGone
}

// firstSince is OffsetForTime for one segment.
func (l *Log) firstSince(base, start, ts int64) (offset, timestamp int64, epoch int32, err error) {
	none := func(err error) (int64, int64, int32, error) { return -1, -1, -1, l.corruption(base, err) }
	v, err := l.viewSegment(base)
	if err != nil || v == nil {
		return none(err)
	}
	defer func() { err = errors.Join(err, v.Release()) }()
	top, err := l.maxTimestamp(v)
	if err != nil || top < ts {
		return none(err)
	}
	f, err := v.file()
	if err != nil {
		return none(err)
	}
	from, err := l.beforeTime(v, f, ts)
	if err != nil {
		return none(err)
	}
	s := newHeaderScanner(f, from, v.limit)
	defer s.close()
	for {
		b, err := s.next()
		if err == io.EOF {
			return none(nil)
		} else if err != nil {
			return none(err)
		}
		if b.MaxTimestamp() < ts || b.LastOffset() < start {
			continue
		}
		offset, timestamp, err := firstRecordSince(f, b, start, ts)
		if err != nil || offset >= 0 {
			return offset, timestamp, b.PartitionLeaderEpoch(), l.corruption(base, err)
		}
	}
}

// firstRecordSince decodes the batch at b and returns its first record at or after offset start with a timestamp of at least ts, or -1.
func firstRecordSince(f io.ReaderAt, b batchAt, start, ts int64) (offset, timestamp int64, err error) {
	r := &batchReader{file: f, position: b.position, limit: b.position + b.size}
	whole, err := r.next()
	if err != nil {
		return -1, -1, err
	}
	offset, timestamp = -1, -1
	err = whole.Records(func(rec protocol.Record) bool {
		at, when := whole.BaseOffset()+int64(rec.OffsetDelta), whole.Timestamp(rec)
		if when < ts || at < start {
			return true
		}
		offset, timestamp = at, when
		return false
	})
	if err != nil {
		return -1, -1, &damage{b.position, err.Error()}
	}
	return offset, timestamp, nil
}

// beforeTime returns a position in the segment before which all timestamps are less than ts, from the indexes.
func (l *Log) beforeTime(v *view, f io.ReaderAt, ts int64) (int64, error) {
	for range 2 {
		e, found, err := v.times.floor(func(e timeEntry) bool { return e.timestamp <= ts && v.seg.base+int64(e.last) < v.next })
		if err == nil && !found {
			return 0, nil
		}
		if err == nil {
			b, lerr := l.locate(v, f, v.seg.base+int64(e.last))
			if lerr != nil {
				return 0, lerr
			}
			if b.LastOffset() == v.seg.base+int64(e.last) && b.MaxTimestamp() == e.timestamp {
				return b.position, nil
			}
			err = errIndexDamaged
		}
		if !errors.Is(err, errIndexDamaged) {
			return 0, err
		}
		if err := l.mend(v, true); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// maxTimestamp returns the greatest timestamp of the batches in the view, -1 when they have none.
func (l *Log) maxTimestamp(v *view) (int64, error) {
	l.mu.Lock()
	known, top, whole := v.seg.maxKnown, v.seg.indexes.max.timestamp, v.limit == v.seg.size
	l.mu.Unlock()
	if known && whole {
		return top, nil
	}
	f, err := v.file()
	if err != nil {
		return -1, err
	}
	top, err = l.scanMaxTimestamp(v, f)
	if err == nil && whole {
		l.mu.Lock()
		if !v.seg.maxKnown {
			v.seg.indexes.max.timestamp, v.seg.maxKnown = top, true
		}
		l.mu.Unlock()
	}
	return top, err
}

// scanMaxTimestamp finds the greatest timestamp with the help of the last time entry that lies before the view's limit: what comes behind
// it is looked through, so that a time index that lacks its end does no harm.
func (l *Log) scanMaxTimestamp(v *view, f io.ReaderAt) (int64, error) {
	for range 2 {
		e, found, err := v.times.floor(func(e timeEntry) bool { return v.seg.base+int64(e.last) < v.next })
		top, from := int64(-1), int64(0)
		if err == nil && found {
			b, lerr := l.locate(v, f, v.seg.base+int64(e.last))
			if lerr != nil {
				return -1, lerr
			}
			if b.LastOffset() != v.seg.base+int64(e.last) || b.MaxTimestamp() != e.timestamp {
				err = errIndexDamaged
			}
			top, from = e.timestamp, b.position
		}
		if err == nil {
			return maxTimestampFrom(f, from, v.limit, top)
		}
		if !errors.Is(err, errIndexDamaged) {
			return -1, err
		}
		if err := l.mend(v, true); err != nil {
			return -1, err
		}
	}
	return maxTimestampFrom(f, 0, v.limit, -1)
}

func maxTimestampFrom(f io.ReaderAt, from, limit, top int64) (int64, error) {
	s := newHeaderScanner(f, from, limit)
	defer s.close()
	for {
		b, err := s.next()
		if err == io.EOF {
			return top, nil
		} else if err != nil {
			return -1, err
		}
		if b.NumRecords() > 0 { // compaction leaves batches without
			top = max(top, b.MaxTimestamp())
		}
	}
}
