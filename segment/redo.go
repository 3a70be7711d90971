package segment

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// redo is what the journal says of one log: the ranges of its youngest segment, and up to where that is durable. Older segments were
// fdatasynced before the next was begun, and have no use for the journal.
type redo struct {
	id     LogID
	base   int64
	named  bool // the file and its directory existed for good
	ranges []logRange
	end    int64 // position up to which the segment is durable
}

// collect adds a range, in the order of the journal, to what is known of its log.
func (s *Store) collect(x logRange) {
	name := x.id.dirName()
	r := s.redone[name]
	if r != nil && r.id == x.id && x.base < r.base {
		return // was under way while the next segment was begun, which waited for an fdatasync
	}
	// A topic of the same name, the next segment, or the same log deleted and created again, are new beginnings.
	fresh := r == nil || r.id != x.id || x.base > r.base
	if !fresh && len(x.data) > 0 && len(r.ranges) > 0 {
		last := r.ranges[len(r.ranges)-1]
		fresh = x.position < last.position+int64(len(last.data))
	}
	if fresh {
		r = &redo{id: x.id, base: x.base}
		s.redone[name] = r
	}
	r.named = r.named || x.named
	r.end = max(r.end, x.position+int64(len(x.data)))
	if len(x.data) > 0 {
		r.ranges = append(r.ranges, x)
	}
}

// redo writes the ranges of the journal to the segments that lack them. Nothing is fsynced: it all rests on the journal until the next
// checkpoint. A log whose files are not as they must have been is left as it is; OpenLog calls it damaged, or, if its topic was deleted, nobody does.
func (s *Store) redo() error {
	for name, r := range s.redone {
		point, known := s.points[name]
		written, err := s.redoLog(r, point, known && point.id == r.id)
		var failed *os.PathError
		if errors.As(err, &failed) {
			err = &StorageError{Op: "restore from the journal", Path: failed.Path, Err: failed.Err}
		}
		if err != nil {
			return err
		}
		if written > 0 {
			s.log.Info().Str(fieldDir, filepath.Join(s.dir, topicsName, name)).Int64("bytes", written).Msg("restored from the journal")
		}
		r.ranges = nil // the journal's bytes can go
	}
	return nil
}

// redoLog does it for one log and returns how many bytes were restored.
func (s *Store) redoLog(r *redo, point logPoint, known bool) (written int64, err error) {
	dir := filepath.Join(s.dir, topicsName, r.id.dirName())
	// Without a name that is durable, directory and file may never have come to the disk; then everything in them is in the journal.
	create := !r.named && (!known || point.offset == 0) && len(r.ranges) > 0 && r.ranges[0].position == 0
	id, err := readMetadata(dir)
	var damaged *CorruptionError
	switch {
	case err == nil && id != r.id.TopicID:
		return 0, nil // of another topic of the same name
	case errors.As(err, &damaged) && !create:
		return 0, nil
	case errors.As(err, &damaged):
		if err := errors.Join(os.MkdirAll(dir, 0o755), writeMetadata(dir, r.id.TopicID)); err != nil {
			return 0, err
		}
	case err != nil:
		return 0, err
	}
	segments, err := (&Log{store: s, dir: dir}).listSegments()
	if err != nil {
		return 0, err
	}
	if n := len(segments); n > 0 && segments[n-1].base > r.base {
		return 0, nil
	}
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(filepath.Join(dir, logName(r.base)), flags, 0o644)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if known && point.base == r.base {
		return redoFile(f, r.ranges, point.position)
	}
	return redoFile(f, r.ranges, 0)
}

// hasData says that the log had something durable, so that its directory cannot be missing.
func (r *redo) hasData() bool { return r.named || r.end > 0 }

// redoFile writes what the file lacks of the ranges behind a position. It stops where bytes before a range are missing.
func redoFile(f *os.File, ranges []logRange, from int64) (written int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	size := info.Size()
	var buf []byte
	for _, r := range ranges {
		end := r.position + int64(len(r.data))
		if end <= from {
			continue
		}
		if r.position > size {
			return written, nil
		}
		buf = append(buf[:0], r.data...)
		n, err := f.ReadAt(buf, r.position)
		if err != nil && err != io.EOF {
			return written, err
		}
		if n < len(r.data) || !bytes.Equal(buf, r.data) {
			if _, err := f.WriteAt(r.data, r.position); err != nil {
				return written, err
			}
			written += int64(len(r.data))
		}
		size = max(size, end)
	}
	return written, nil
}

// vouchAgain lets the present generation say of the logs that were not opened since the start up to where they are durable: the generations that said
// so are going to be deleted. It is done by the goroutine that owns the journal.
func (m *metadata) vouchAgain() error {
	var records []record
	for _, r := range m.store.unopened() {
		records = append(records, record{recordRange, appendRange(nil, logRange{id: r.id, named: r.named, base: r.base, position: r.end})})
	}
	if len(records) == 0 {
		return nil
	}
	if err := m.journal.write(records); err != nil {
		return err
	}
	if err := m.journal.sync(); err != nil {
		m.store.fail(err)
		return err
	}
	return nil
}

// syncRedone makes what was restored from the journal durable in its place, for the logs that were not opened since.
func (s *Store) syncRedone() error {
	for _, r := range s.unopened() {
		l := &Log{store: s, id: r.id, dir: filepath.Join(s.dir, topicsName, r.id.dirName())}
		f, err := os.OpenFile(l.path(logName(r.base)), os.O_RDWR, 0)
		if errors.Is(err, os.ErrNotExist) { // deleted meanwhile, or missing: OpenLog says so
			continue
		}
		if err == nil {
			err = errors.Join(l.syncNames(), syncData(f), f.Close())
		}
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			err = fmt.Errorf("make durable what was restored from the journal: %w", err)
			s.fail(err)
			return err
		}
	}
	return nil
}

// unopened returns what the journal said of logs that were not opened since.
func (s *Store) unopened() []*redo {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*redo, 0, len(s.redone))
	for _, r := range s.redone {
		all = append(all, r)
	}
	return all
}
