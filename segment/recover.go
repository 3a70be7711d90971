package segment

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// OpenLog opens a partition: it recovers what is there, or creates it when it is missing. A log that is open already is returned as it is.
//
// Errors: *CorruptionError when bytes are missing or damaged that were known to be durable, ErrClosed, or what the operating system says.
func (s *Store) OpenLog(id LogID, config LogConfig) (*Log, error) {
	if err := id.check(); err != nil {
		return nil, err
	}
	name := id.dirName()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, ErrClosed
	}
	if l, ok := s.logs[name]; ok {
		s.mu.Unlock()
		switch {
		case l == nil:
			return nil, fmt.Errorf("%s is being opened or deleted", name)
		case l.id != id:
			return nil, fmt.Errorf("%s is open with another topic id", name)
		}
		return l, nil
	}
	s.logs[name] = nil
	point, known := s.points[name]
	done := s.redone[name]
	s.opening.Add(1)
	s.mu.Unlock()
	defer s.opening.Done()

	if known = known && point.id.TopicID == id.TopicID; !known {
		point = logPoint{id: id, max: timeEntry{timestamp: -1}, lastTime: -1}
	}
	if done == nil || done.id != id {
		done = &redo{id: id}
	}
	l, err := s.recoverLog(id, config.withDefaults(), point, known, done)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		delete(s.logs, name)
		return nil, err
	}
	s.logs[name] = l
	delete(s.points, name)
	delete(s.redone, name)
	return l, nil
}

// recoverLog opens the log's directory, from the point on where the last checkpoint left it; known is false when there is no point. done is
// what the journal says, and has been carried out.
func (s *Store) recoverLog(id LogID, config LogConfig, point logPoint, known bool, done *redo) (*Log, error) {
	l := &Log{
		store: s, id: id, dir: filepath.Join(s.dir, topicsName, id.dirName()),
		config: config, done: make(chan struct{}),
		start: point.start, settled: point.base, epochs: point.epochs.clone(), producers: point.producers.clone(),
	}
	hadRecords := known && point.offset > 0
	l.named.Store(hadRecords || done.named)
	if err := l.openDir(hadRecords || done.hasData()); err != nil {
		return nil, err
	}
	if err := l.finishCleaning(); err != nil {
		return nil, err
	}
	if err := l.openSegments(point, known, done); err != nil {
		if l.segments != nil && l.active().h != nil {
			err = errors.Join(err, l.active().h.release())
		}
		return nil, err
	}
	l.epochs.begin(s.epoch, l.end.offset)
	l.checkInvariant()
	return l, nil
}

// openDir creates the directory when it is missing, or checks that it belongs to the topic.
func (l *Log) openDir(hasData bool) error {
	err := os.Mkdir(l.dir, 0o755)
	if err == nil && hasData {
		return errors.Join(&CorruptionError{Dir: l.dir, Reason: "the directory is missing although it had records"}, os.Remove(l.dir))
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return &StorageError{Op: "create a log", Path: l.dir, Err: err}
	}
	if err == nil {
		return l.createMetadata()
	}
	found, err := readMetadata(l.dir)
	switch {
	case err == nil && found == l.id.TopicID:
		return nil
	case err == nil:
		return &CorruptionError{Dir: l.dir, File: metadataName, Reason: "the directory belongs to another topic of the same name"}
	case hasData:
		return err
	}
	// Its content and the names here become durable before any record does (syncNames). Where a crash has left nothing of it, nothing was
	// acknowledged yet, and what there is of records begins anew. Other content is not from a crash.
	if damaged := (*CorruptionError)(nil); !errors.As(err, &damaged) {
		return err
	}
	if text, rerr := os.ReadFile(l.path(metadataName)); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
		return rerr
	} else if len(bytes.Trim(text, "\x00")) > 0 {
		return err
	}
	if err := l.startOver(); err != nil {
		return &StorageError{Op: "create a log", Path: l.dir, Err: err}
	}
	return l.createMetadata()
}

// startOver removes the files of a log whose creation was cut short, for good.
func (l *Log) startOver() error {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.Size() > 0 {
			l.store.log.Warn().Str(fieldDir, l.dir).Str("file", e.Name()).Int64("bytes", info.Size()).
				Msg("removed what was written to a log before its creation was complete, none of which was acknowledged")
		}
		if err := os.Remove(l.path(e.Name())); err != nil {
			return err
		}
	}
	return syncDir(l.dir)
}

func (l *Log) createMetadata() error {
	if err := writeMetadata(l.dir, l.id.TopicID); err != nil {
		return &StorageError{Op: "create a log", Path: l.dir, Err: err}
	}
	return nil
}

// listSegments finds the .log files, in order of their offsets, with their sizes. Temporary files that a crash left are removed.
func (l *Log) listSegments() ([]*segment, error) {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return nil, err
	}
	var found []*segment
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), temporaryPrefix) {
			if err := os.Remove(l.path(e.Name())); err != nil {
				return nil, err
			}
			continue
		}
		digits, isLog := strings.CutSuffix(e.Name(), ".log")
		if !isLog || len(digits) != 20 {
			continue
		}
		base, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || base < 0 {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		x := newIndexes()
		x.offsets.stored, x.times.stored = wholeFile, wholeFile
		found = append(found, &segment{base: base, size: info.Size(), indexes: x})
	}
	slices.SortFunc(found, func(a, b *segment) int {
		if a.base < b.base {
			return -1
		}
		return 1
	})
	return found, nil
}

// openSegments finds the segments, reads what is younger than the point, cuts off a torn write, and sets the log's offsets.
func (l *Log) openSegments(point logPoint, known bool, done *redo) error {
	segments, err := l.listSegments()
	if err != nil {
		return err
	}
	lost := func(reason string) error {
		return &CorruptionError{Dir: l.dir, File: logName(point.base), Offset: point.position, Reason: reason}
	}
	if len(segments) == 0 {
		if point.offset > 0 || done.hasData() {
			return lost("all segments are missing")
		}
		x := newIndexes()
		segments = []*segment{{indexes: x}}
	}
	last := segments[len(segments)-1]
	if last.base < done.base {
		return &CorruptionError{Dir: l.dir, File: logName(done.base), Reason: "the segment is missing that was written to last"}
	}
	// A process that was killed may have begun this segment without having made its name durable yet.
	begun := known && point.base == last.base || done.named && done.base == last.base
	if l.named.Load() && !begun {
		if err := l.syncNames(); err != nil {
			return err
		}
	}
	from := 0
	if known {
		from = slices.IndexFunc(segments, func(seg *segment) bool { return seg.base == point.base })
		if from < 0 && point.offset > 0 {
			return lost("the segment is missing that was active at the last checkpoint")
		}
	}
	if !known || from < 0 { // nothing was durable yet
		from = 0
		point.base, point.offset = segments[0].base, segments[0].base
	}
	if segments[from].size < point.position {
		return lost(fmt.Sprintf("the file has %d bytes, although %d were durable", segments[from].size, point.position))
	}
	l.segments = segments
	l.start = max(l.start, segments[0].base)
	l.end = mark{point.offset, segments[from], point.position}
	for i := from; i < len(segments); i++ {
		if err := l.recoverSegment(i, point, done); err != nil {
			return err
		}
	}
	l.durable, l.high = l.end, l.end
	l.highOffset.Store(l.end.offset)
	if l.start > l.end.offset {
		return &CorruptionError{Dir: l.dir, Reason: fmt.Sprintf("the log ends at offset %d, before its start at %d", l.end.offset, l.start)}
	}
	return nil
}

// recoverSegment reads segment i from the end of the log so far. The last one is opened for appending and what is found in it made durable,
// unless the journal vouches for it.
func (l *Log) recoverSegment(i int, point logPoint, done *redo) error {
	seg := l.segments[i]
	last := i == len(l.segments)-1
	if l.end.seg != seg {
		if seg.base != l.end.offset {
			return &CorruptionError{Dir: l.dir, File: logName(seg.base), Reason: fmt.Sprintf("the segment before it ends at offset %d", l.end.offset)}
		}
		l.end = mark{seg.base, seg, 0}
	}
	l.synced = l.end // all segments before are
	size, from := seg.size, l.end.position
	seg.indexes = newIndexes()
	if from > 0 {
		seg.indexes = indexes{
			offsets:  sparseIndex[offsetEntry]{stored: point.offsets},
			times:    sparseIndex[timeEntry]{stored: point.times},
			unmarked: point.unmarked, max: point.max, lastTime: point.lastTime, covered: from,
		}
	}
	seg.maxKnown = true
	seg.size = from

	flags := os.O_RDONLY
	if last {
		flags = os.O_RDWR | os.O_CREATE
	}
	f, err := os.OpenFile(l.path(logName(seg.base)), flags, 0o644)
	if err != nil {
		return err
	}
	if last {
		seg.h = newHandle(f)
	}
	err = l.scanTail(f, seg, size)
	if !last {
		if err == nil {
			seg.indexes.addTime()
			l.storeIndexes(seg)
			seg.indexes.offsets = sparseIndex[offsetEntry]{stored: wholeFile}
			seg.indexes.times = sparseIndex[timeEntry]{stored: wholeFile}
		}
		return errors.Join(l.corruption(seg.base, err), f.Close())
	}
	var d *damage
	torn := errors.As(err, &d)
	if err != nil && !torn {
		return err
	}
	vouched := int64(0)
	if seg.base == done.base {
		vouched = done.end
	}
	if seg.size < vouched {
		reason := fmt.Sprintf("the records end here, although %d bytes were durable", vouched)
		if torn {
			reason += ": " + d.reason
		}
		return &CorruptionError{Dir: l.dir, File: logName(seg.base), Offset: seg.size, Reason: reason}
	}
	if torn {
		l.recovered.Cut = size - seg.size
		l.store.log.Warn().Str(fieldDir, l.dir).Int64(fieldBase, seg.base).Int64("bytes", l.recovered.Cut).Int64("offset", l.end.offset).
			Str("reason", d.Error()).Msg("cut a torn write off the log")
		if err := f.Truncate(seg.size); err != nil {
			return err
		}
	}
	l.leftRoom = l.store.reserves && size > from && !torn
	if size == from || !torn && seg.size == vouched {
		return nil // nothing new, or it rests on the journal
	}
	// It may be in the page cache only, from before a kill.
	if !l.named.Load() {
		if err := l.syncNames(); err != nil {
			return err
		}
		l.named.Store(true)
	}
	l.synced = l.end
	return syncData(f)
}

// scanTail adds the batches between the end of the log and the end of the segment's file, of the given size, to the log. A *damage error says why
// it could not go on to the end.
func (l *Log) scanTail(f io.ReaderAt, seg *segment, size int64) error {
	if seg.size == size {
		return nil
	}
	now := l.store.clock().UnixMilli()
	r := &batchReader{file: f, position: seg.size, limit: size}
	for {
		at := r.position
		b, err := r.next()
		if err == io.EOF {
			return nil
		}
		if err == nil && b.BaseOffset() != l.end.offset {
			err = &damage{at, fmt.Sprintf("a batch with offset %d where %d was to follow", b.BaseOffset(), l.end.offset)}
		}
		if err == nil && b.PartitionLeaderEpoch() > l.store.epoch {
			err = &damage{at, fmt.Sprintf("a batch of leader epoch %d, later than the present %d", b.PartitionLeaderEpoch(), l.store.epoch)}
		}
		if n := len(l.epochs); err == nil && n > 0 && b.PartitionLeaderEpoch() < l.epochs[n-1].epoch && b.BaseOffset() > l.epochs[n-1].start {
			err = &damage{at, fmt.Sprintf("a batch of leader epoch %d behind one of %d", b.PartitionLeaderEpoch(), l.epochs[n-1].epoch)}
		}
		if err != nil {
			return err
		}
		seg.indexes.add(seg.base, at, b, len(b), l.config.IndexIntervalBytes)
		seg.size += int64(len(b))
		l.recovered.Scanned += int64(len(b))
		l.producers.add(b, now)
		l.epochs.begin(b.PartitionLeaderEpoch(), b.BaseOffset())
		l.end = mark{b.LastOffset() + 1, seg, seg.size}
	}
}
