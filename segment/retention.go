package segment

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"mft/protocol"
)

// Retention, as Kafka does it: whole segments go from the front of the log, by the greatest timestamp in them, by the bytes of the log, or because
// SetStart has passed them. The active segment goes as well when everything in it is too old; an empty one takes its place.

// SetStart moves the log start offset up: records before it cannot be read any more, and segments that lie before it are deleted by the next
// Clean. It returns the start offset, which is higher where it was so already. The caller remembers the start for the next time that the
// log is opened; what is deleted stays deleted without that.
//
// Errors: ErrOffsetOutOfRange for an offset that is not durable yet (see Flush), ErrClosed.
func (l *Log) SetStart(offset int64) (start int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return -1, ErrClosed
	}
	if offset > l.durable.offset {
		return l.start, fmt.Errorf("%w: the log start cannot be at %d, the log is durable up to %d", ErrOffsetOutOfRange, offset, l.durable.offset)
	}
	l.start = max(l.start, offset)
	l.checkInvariant()
	return l.start, nil
}

// Flush makes everything appended so far durable, also with write caching.
func (l *Log) Flush() error {
	if err := l.usable(); err != nil {
		return err
	}
	return l.sync()
}

// firstTime is the timestamp of a segment's first batch, once it is looked up.
type firstTime struct {
	known bool
	ms    int64
}

// tooOld says whether the active segment, which is not empty, began so long before the batches that they belong into the next. appending is held.
func (l *Log) tooOld(seg *segment, list []protocol.Batch, age time.Duration) (bool, error) {
	if !seg.first.known { // appending, which guards first, keeps the file open
		b, err := headerAt(seg.h.file, 0, seg.size)
		if err != nil {
			return false, l.corruption(seg.base, err)
		}
		seg.first = firstTime{true, b.MaxTimestamp()}
	}
	latest := int64(-1)
	for _, b := range list {
		latest = max(latest, b.MaxTimestamp())
	}
	return seg.first.ms >= 0 && latest-seg.first.ms > age.Milliseconds(), nil
}

// segmentInfo is what retention and compaction look at in a segment.
type segmentInfo struct {
	*segment
	size int64
	next int64 // base offset of the following segment; the end of the log for the active one
}

// inventory is the state of a log at one moment. It stays true in front of the active segment as long as cleaning is held.
type inventory struct {
	config   LogConfig
	segments []segmentInfo // the last one is active
	start    int64
	durable  int64
	settled  int64
}

func (l *Log) inventory() inventory {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := inventory{config: l.config, start: l.start, durable: l.durable.offset, settled: l.settled, segments: make([]segmentInfo, len(l.segments))}
	for i, seg := range l.segments {
		v.segments[i] = segmentInfo{seg, seg.size, l.end.offset}
		if i > 0 {
			v.segments[i-1].next = seg.base
		}
	}
	return v
}

// closed returns the segments that are not appended to any more.
func (v *inventory) closed() []segmentInfo { return v.segments[:len(v.segments)-1] }

// expired counts the segments at the front whose time has come. The active one is among them when all is to go.
func (l *Log) expired(v inventory, now time.Time) (n int, err error) {
	var bytes int64
	for _, seg := range v.segments {
		bytes += seg.size
	}
	c := v.config
	for i, seg := range v.segments {
		active := i == len(v.segments)-1
		if seg.next > v.durable || active && seg.size == 0 {
			return i, nil
		}
		gone := !active && seg.next <= v.start || c.Delete && c.RetentionBytes > 0 && bytes-seg.size >= c.RetentionBytes
		if !gone && c.Delete && c.RetentionTime > 0 {
			latest, err := l.latest(seg.segment)
			if err != nil {
				return i, err
			}
			gone = now.Sub(latest) > c.RetentionTime
		}
		if !gone {
			return i, nil
		}
		bytes -= seg.size
	}
	return len(v.segments), nil
}

// latest returns the time of a segment's youngest record; where there is no record with a timestamp, when the file was written last.
func (l *Log) latest(seg *segment) (time.Time, error) {
	l.mu.Lock()
	known, ms := seg.maxKnown, seg.indexes.max.timestamp
	l.mu.Unlock()
	if !known {
		v, err := l.viewSegment(seg.base)
		if err != nil {
			return time.Time{}, err
		}
		if v == nil {
			return time.Time{}, fmt.Errorf("segment %d is not readable yet", seg.base)
		}
		ms, err = l.maxTimestamp(v)
		if err = errors.Join(l.corruption(seg.base, err), v.Release()); err != nil {
			return time.Time{}, err
		}
	}
	if ms >= 0 {
		return time.UnixMilli(ms), nil
	}
	info, err := os.Stat(l.path(logName(seg.base)))
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// rollExpired begins a new segment when everything, the active one included, is to be deleted.
func (l *Log) rollExpired(now time.Time) error {
	l.appending.Lock()
	defer l.appending.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	v := l.inventory()
	if n, err := l.expired(v, now); err != nil || n < len(v.segments) {
		return err
	}
	return l.roll()
}

// removeExpired deletes the segments whose time has come, as far as they are settled. cleaning is held.
func (l *Log) removeExpired(now time.Time) error {
	v := l.inventory()
	n, err := l.expired(v, now)
	n = min(n, len(v.segments)-1)
	for n > 0 && v.segments[n-1].base >= v.settled {
		n--
	}
	if n == 0 {
		return err
	}
	gone := make([]*segment, n)
	for i := range gone {
		gone[i] = v.segments[i].segment
		gone[i].mending.Lock()
		defer gone[i].mending.Unlock()
	}
	removals, perr := l.retire(gone, nil)
	if perr != nil {
		return errors.Join(err, perr)
	}
	start := v.segments[n].base
	l.store.log.Info().Str(fieldDir, l.dir).Int("segments", n).Int64("start", start).Msg("deleted old segments")
	// Oldest first: whatever a crash leaves is a log without gaps.
	n = 0
	for ; n < len(gone); n++ {
		if derr := l.discardSegment(gone[n], &removals[n]); derr != nil { // the rest is deleted after the next start
			err = errors.Join(err, derr)
			break
		}
	}
	return errors.Join(err, l.removeDiscarded(removals[:n]))
}

// removeDiscarded makes the names of discarded files durable and lets the remover have them: it cuts them shorter, which must not happen to a file that
// gets its old name back in a power failure.
func (l *Log) removeDiscarded(removals []removal) error {
	if err := l.syncDirectory(); err != nil {
		return err
	}
	for _, r := range removals {
		l.store.remover.add(r)
	}
	return nil
}

// syncDirectory makes the names in the log's directory durable. A failure is fatal for the store.
func (l *Log) syncDirectory() error {
	err := syncDir(l.dir)
	if err != nil {
		err = fmt.Errorf("fsync %s: %w", l.dir, err)
		l.store.fail(err)
	}
	return err
}

// retire takes segments that follow each other out of the log and puts next, if any, in their place; without it the log start moves behind them.
// Ranges of them stay readable. It returns what is to be removed, one for each. The locks mending of all are held.
func (l *Log) retire(gone []*segment, next *segment) ([]removal, error) {
	pins := make([]*handle, len(gone))
	for i, seg := range gone { // views that have not opened the file yet will need it
		h, err := l.store.files.get(seg, l.path(logName(seg.base)))
		if h == nil {
			for _, pin := range pins[:i] {
				err = errors.Join(err, pin.release())
			}
			return nil, err
		}
		pins[i] = h
		if err != nil {
			l.store.log.Warn().Err(err).Msg("closing a segment's file failed")
		}
	}
	removals := make([]removal, len(gone))
	l.mu.Lock()
	at := slices.Index(l.segments, gone[0])
	left := slices.Clone(l.segments[:at])
	if next != nil {
		left = append(left, next)
	}
	left = append(left, l.segments[at+len(gone):]...)
	if next == nil {
		l.start = max(l.start, left[at].base)
	}
	l.segments = left
	for i, seg := range gone {
		seg.retired = true
		if seg.readers == 0 {
			continue
		}
		if l.retired == nil {
			l.retired = map[*segment]struct{}{}
		}
		l.retired[seg] = struct{}{}
		seg.pinned, pins[i] = pins[i], nil
		removals[i].drained = []<-chan struct{}{seg.drain()}
	}
	for i, c := range l.cursors {
		if c.seg != nil && c.seg.retired {
			l.cursors[i] = mark{}
		}
	}
	l.checkInvariant()
	l.mu.Unlock()
	var err error
	for i, seg := range gone {
		err = errors.Join(err, l.store.files.drop(seg))
		if pins[i] != nil {
			err = errors.Join(err, pins[i].release())
		}
	}
	if err != nil {
		l.store.log.Warn().Err(err).Str(fieldDir, l.dir).Msg("closing a segment's file failed")
	}
	return removals, nil
}

// discardSegment gives a retired segment's file a name that marks it as deleted, and removes its indexes. See removeDiscarded for what follows.
func (l *Log) discardSegment(seg *segment, r *removal) error {
	for {
		r.path = l.path(fmt.Sprintf("%s.%d%s", logName(seg.base), l.store.cleaner.serial.Add(1), removedSuffix))
		if _, err := os.Lstat(r.path); err != nil {
			break // the name is free, or the rename says what is wrong
		}
	}
	if err := os.Rename(l.path(logName(seg.base)), r.path); err != nil {
		return fmt.Errorf("delete a segment: %w", err)
	}
	for _, path := range []string{l.offsetsPath(seg), l.timesPath(seg)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("delete a segment: %w", err)
		}
	}
	return nil
}

// pinnedFile returns a reference to the file of a segment whose name is not to be relied upon, else nil.
func (l *Log) pinnedFile(seg *segment) *handle {
	l.mu.Lock()
	defer l.mu.Unlock()
	if seg.pinned == nil {
		return nil
	}
	return seg.pinned.acquire()
}

// unpin lets go of the file that pinned holds.
func (l *Log) unpin(seg *segment) error {
	l.mu.Lock()
	h := seg.pinned
	seg.pinned = nil
	l.mu.Unlock()
	if h == nil {
		return nil
	}
	return h.release()
}
