package segment

import (
	"errors"
	"fmt"
	"io"
	"sort"

	"mft/protocol"
)

// Read returns a range of whole batches that begins with the one that contains offset (or, where compaction removed it, the next one) and
// ends at the high watermark, at the end of the segment, or before the batch that would exceed maxBytes. When the first batch alone
// is larger than that, the range is this batch if atLeastOne is set, else empty. It is also empty from the high watermark up to the end.
// The range must be released.
//
// Errors: ErrOffsetOutOfRange, *CorruptionError when what is stored there is damaged, ErrClosed.
func (l *Log) Read(offset int64, maxBytes int, atLeastOne bool) (*Range, error) {
	v, err := l.view(offset)
	if err != nil {
		return nil, err
	}
	if v.seg == nil {
		return &v.Range, nil
	}
	if err := l.fill(v, offset, int64(maxBytes), atLeastOne); err != nil {
		err = l.corruption(v.seg.base, err)
		return nil, errors.Join(err, v.Release())
	}
	return &v.Range, nil
}

// view is what a read sees of a log: one segment up to a limit, as it was at one moment.
type view struct {
	Range
	offsets indexView[offsetEntry]
	times   indexView[timeEntry]
	limit   int64 // bytes of the segment that may be read
	next    int64 // offset of the first record behind limit
	from    int64 // position of the batch with the wanted offset, when a cursor knows it, else -1
}

// view finds the segment with an offset and keeps it alive; the view's range is empty. Its seg is nil when there is nothing to be read yet.
func (l *Log) view(offset int64) (*view, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, ErrClosed
	}
	v := &view{Range: Range{HighWatermark: l.high.offset, StartOffset: l.start}}
	if offset < l.start || offset > l.end.offset {
		return nil, ErrOffsetOutOfRange
	}
	if offset >= l.high.offset {
		return v, nil
	}
	i := sort.Search(len(l.segments), func(i int) bool { return l.segments[i].base > offset }) - 1
	if i < 0 {
		return nil, ErrOffsetOutOfRange
	}
	l.open(v, i)
	for _, c := range l.cursors {
		if c.seg == v.seg && c.offset == offset {
			v.from = c.position
		}
	}
	return v, nil
}

// open fills v in for segment i. Log.mu is held.
func (l *Log) open(v *view, i int) {
	seg := l.segments[i]
	v.offsets, v.times = l.offsetsView(seg), l.timesView(seg)
	v.limit, v.next, v.from = seg.size, l.end.offset, -1
	if i+1 < len(l.segments) {
		v.next = l.segments[i+1].base
	}
	if l.high.seg == seg {
		v.limit, v.next = l.high.position, l.high.offset
	}
	v.log, v.seg = l, seg
	switch {
	case seg.h != nil:
		v.h = seg.h.acquire()
	case seg.pinned != nil:
		v.h = seg.pinned.acquire()
	}
	seg.readers++
}

// file returns the segment's file, opening it when it is not. The view's range holds on to it.
func (v *view) file() (io.ReaderAt, error) {
	if v.h == nil {
		h, err := v.log.store.files.get(v.seg, v.log.path(logName(v.seg.base)))
		if pinned := v.log.pinnedFile(v.seg); pinned != nil { // its name is another's by now
			if h != nil {
				err = errors.Join(err, h.release(), v.log.store.files.drop(v.seg))
			} else {
				err = nil
			}
			h = pinned
		}
		if h == nil {
			if v.log.Closed() {
				err = ErrClosed
			}
			return nil, err
		}
		if err != nil {
			v.log.store.log.Warn().Err(err).Msg("closing a segment's file failed")
		}
		v.h = h
		if v.log.Closed() { // meanwhile, and with it its files
			if err := v.log.store.files.drop(v.seg); err != nil {
				return nil, err
			}
		}
	}
	return v.h.file, nil
}

// fill sets the range in v, for Read.
func (l *Log) fill(v *view, offset, maxBytes int64, atLeastOne bool) error {
	f, err := v.file()
	if err != nil {
		return err
	}
	var first batchAt
	if v.from >= 0 {
		first, err = headerAt(f, v.from, v.limit)
		if err == nil && first.BaseOffset() < offset { // compaction leaves gaps, so it may be later
			err = &damage{v.from, fmt.Sprintf("the batch here has base offset %d, the one before ends at %d", first.BaseOffset(), offset-1)}
		}
	} else {
		first, err = l.locate(v, f, offset)
	}
	if err != nil {
		return err
	}
	v.position = first.position
	end, next := v.limit, v.next
	if first.size > maxBytes {
		if end, next = v.position, first.BaseOffset(); atLeastOne {
			end, next = v.position+first.size, first.LastOffset()+1
		}
	} else if v.limit-v.position > maxBytes {
		if end, next, err = v.cutAt(f, first, v.position+maxBytes); err != nil {
			return err
		}
	}
	v.n = end - v.position
	l.remember(mark{next, v.seg, end})
	return nil
}

// remember keeps in mind where a read ended, because the reader will go on there.
func (l *Log) remember(m mark) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.cursors {
		if c == m {
			return
		}
	}
	l.cursors[l.cursor] = m
	l.cursor = (l.cursor + 1) % len(l.cursors)
}

// headerAt reads the header of the batch at a position.
func headerAt(f io.ReaderAt, position, limit int64) (batchAt, error) {
	h := make([]byte, protocol.BatchHeaderLen)
	if limit-position < protocol.BatchHeaderLen {
		return batchAt{}, &damage{position, "not even a batch header long"}
	}
	if n, err := f.ReadAt(h, position); n < len(h) {
		if err == io.EOF {
			return batchAt{}, &damage{position, "the file is shorter than it was"}
		}
		return batchAt{}, err
	}
	size, err := batchSize(h)
	if err == nil && size > limit-position {
		err = fmt.Errorf("a batch of %d bytes does not fit into the %d that remain", size, limit-position)
	}
	if err != nil {
		return batchAt{}, &damage{position, err.Error()}
	}
	return batchAt{h, position, size}, nil
}

// denseEnough is how far a lookup may have to walk from the index entry that it found. Beyond, entries are missing.
const denseEnough = 256 << 10

// locate returns the first batch whose last offset is at least offset. It mends the index when that turns out to be damaged.
func (l *Log) locate(v *view, f io.ReaderAt, offset int64) (batchAt, error) {
	b, walked, err := v.walkTo(f, offset)
	damaged := errors.Is(err, errIndexDamaged)
	if damaged || err == nil && walked > denseEnough {
		if merr := l.mend(v, damaged); merr != nil {
			return batchAt{}, merr
		}
		if err != nil {
			b, _, err = v.walkTo(f, offset)
		}
	}
	if errors.Is(err, errIndexDamaged) { // again: mending could not write, perhaps
		v.offsets = indexView[offsetEntry]{}
		b, _, err = v.walkTo(f, offset)
	}
	return b, err
}

// walkTo looks offset up in the index and walks on from there. walked is the number of bytes passed that an index entry should have saved.
func (v *view) walkTo(f io.ReaderAt, offset int64) (found batchAt, walked int64, err error) {
	var e offsetEntry
	var indexed bool
	if offset > v.seg.base {
		e, indexed, err = v.offsets.floor(func(e offsetEntry) bool { return v.seg.base+int64(e.last) <= offset })
		if err != nil {
			return batchAt{}, 0, err
		}
	}
	if indexed && e.position == 0 { // never made: zeros left by a power failure
		return batchAt{}, 0, errIndexDamaged
	}
	s := newHeaderScanner(f, int64(e.position), v.limit)
	defer s.close()
	for first := true; ; first = false {
		b, err := s.next()
		if first && indexed && (isDamage(err) || err == nil && b.LastOffset() != v.seg.base+int64(e.last)) {
			return batchAt{}, 0, errIndexDamaged
		}
		if err == io.EOF {
			return batchAt{}, 0, &damage{v.limit, fmt.Sprintf("no batch with offset %d in this segment", offset)}
		}
		if err == nil && b.BaseOffset() < v.seg.base {
			err = &damage{b.position, fmt.Sprintf("a batch with offset %d in a segment that begins at %d", b.BaseOffset(), v.seg.base)}
		}
		if err != nil {
			return batchAt{}, 0, err
		}
		if b.LastOffset() >= offset {
			b.Batch = append([]byte(nil), b.Batch...)
			return b, walked, nil
		}
		if !first { // that is where the index led
			walked += b.size
		}
	}
}

// cutAt returns the end of the last batch that ends at target or before, at least that of first, and the offset behind it.
func (v *view) cutAt(f io.ReaderAt, first batchAt, target int64) (end, next int64, err error) {
	from := first.position
	e, found, err := v.offsets.floor(func(e offsetEntry) bool { return int64(e.position) <= target })
	if err == nil && found && int64(e.position) > from {
		if b, err := headerAt(f, int64(e.position), v.limit); err == nil && b.LastOffset() == v.seg.base+int64(e.last) {
			from = b.position
		}
	} else if err != nil && !errors.Is(err, errIndexDamaged) {
		return 0, 0, err
	}
	s := newHeaderScanner(f, from, v.limit)
	defer s.close()
	end, next = first.position+first.size, first.LastOffset()+1
	for {
		b, err := s.next()
		if isDamage(err) { // it is for the read that begins there
			return end, next, nil
		}
		if err != nil {
			return 0, 0, err
		}
		if b.position+b.size > target {
			if b.position > end { // the batch that the index led to is too long already
				end, next = b.position, b.BaseOffset()
			}
			return end, next, nil
		}
		end, next = b.position+b.size, b.LastOffset()+1
	}
}

// mend rebuilds the index files of the view's segment from its batches, and updates the view. Files that are not known to be damaged,
// but only sparse, are rebuilt once.
func (l *Log) mend(v *view, damaged bool) error {
	seg := v.seg
	seg.mending.Lock()
	defer seg.mending.Unlock()
	l.mu.Lock()
	closed := seg.indexes.offsets.stored == wholeFile
	limit, interval, mended := seg.indexes.covered, l.config.IndexIntervalBytes, seg.mended
	if closed {
		limit = seg.size
	}
	seg.mended = true
	retired := seg.retired
	l.mu.Unlock()
	if damaged || !mended || retired {
		f, err := v.file()
		if err != nil {
			return err
		}
		x, err := rebuildIndexes(f, seg.base, limit, interval)
		if err != nil {
			return err
		}
		if closed {
			x.addTime()
		}
		if retired { // the names of the index files are another's
			v.offsets, v.times = indexView[offsetEntry]{tail: x.offsets.tail}, indexView[timeEntry]{tail: x.times.tail}
			return nil
		}
		err = errors.Join(writeIndex(l.offsetsPath(seg), x.offsets.tail), writeIndex(l.timesPath(seg), x.times.tail))
		if err != nil {
			l.store.log.Warn().Err(err).Str(fieldDir, l.dir).Int64(fieldBase, seg.base).Msg("the index is damaged and cannot be rebuilt")
			return nil
		}
		l.store.log.Info().Str(fieldDir, l.dir).Int64(fieldBase, seg.base).Msg("index rebuilt from the log")
		l.mu.Lock()
		if !closed {
			seg.indexes.offsets.stored, seg.indexes.times.stored = len(x.offsets.tail), len(x.times.tail)
		}
		l.mu.Unlock()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	v.offsets, v.times = l.offsetsView(seg), l.timesView(seg)
	return nil
}

// rebuildIndexes makes the index entries of a segment's batches up to limit, or up to where they are damaged.
func rebuildIndexes(f io.ReaderAt, base, limit int64, interval int) (indexes, error) {
	x := newIndexes()
	s := newHeaderScanner(f, 0, limit)
	defer s.close()
	for {
		b, err := s.next()
		if isDamage(err) {
			return x, nil
		}
		if err != nil {
			return x, err
		}
		x.add(base, b.position, b.Batch, int(b.size), interval)
	}
}
