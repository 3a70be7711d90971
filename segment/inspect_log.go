package segment

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"mft/protocol"
)

// parseFileName returns the base offset that the name of a .log, .index or .timeindex file says.
func parseFileName(name string) (base int64, ok bool) {
	digits, ext, _ := strings.Cut(name, ".")
	if len(digits) != 20 || ext != "log" && ext != "index" && ext != "timeindex" {
		return 0, false
	}
	base, err := strconv.ParseInt(digits, 10, 64)
	return base, err == nil && base >= 0
}

// inspectedSegment is a .log file as it is found.
type inspectedSegment struct {
	base, size int64
	index      string // paths of its indexes
	timeindex  string
}

// inspectedSegments lists the .log files of a partition in order.
func inspectedSegments(dir string) ([]inspectedSegment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var found []inspectedSegment
	for _, e := range entries { // by name, which is by offset
		base, ok := parseFileName(e.Name())
		if !ok || filepath.Ext(e.Name()) != ".log" {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted meanwhile
		} else if err != nil {
			return nil, err
		}
		path := strings.TrimSuffix(filepath.Join(dir, e.Name()), ".log")
		found = append(found, inspectedSegment{base, info.Size(), path + ".index", path + ".timeindex"})
	}
	return found, nil
}

// livePoint is point, unless it is about an earlier topic of the same name.
func (s *inspection) livePoint(dir string) *logPoint {
	p := s.point(dir)
	if p == nil {
		return nil
	}
	if id, err := readMetadata(dir); err == nil && id != p.id.TopicID {
		return nil
	}
	return p
}

// inspectLog goes through one partition.
func (s *inspection) inspectLog(dir string) error {
	if err := s.inspectMetadata(dir); err != nil {
		return err
	}
	segments, err := inspectedSegments(dir)
	if err != nil {
		return err
	}
	if p := s.livePoint(dir); p != nil && p.offset > 0 {
		i := slices.IndexFunc(segments, func(seg inspectedSegment) bool { return seg.base == p.base })
		if i < 0 {
			if err := s.tell(Finding{Severity: Damage, Dir: dir, File: logName(p.base), Offset: p.base,
				Reason: "the segment is missing that was active at the last checkpoint"}); err != nil {
				return err
			}
		}
	}
	if s.live {
		err = s.inspectMoving(dir, segments)
	} else {
		err = s.inspectSegments(dir, segments)
	}
	if err != nil {
		return err
	}
	swaps, err := filepath.Glob(filepath.Join(dir, "*.swap"))
	for _, path := range swaps {
		if err := s.tell(Finding{Severity: Note, Dir: dir, File: filepath.Base(path), Offset: -1,
			Reason: "compaction was interrupted; the broker completes it at its next start"}); err != nil {
			return err
		}
	}
	return err
}

func (s *inspection) inspectSegments(dir string, segments []inspectedSegment) error {
	for i := range segments {
		if err := s.inspectSegment(dir, segments, i, ""); err != nil {
			return err
		}
	}
	return nil
}

// inspectMoving is inspectSegments beside a broker: where compaction or retention came by meanwhile, what is found means nothing.
func (s *inspection) inspectMoving(dir string, segments []inspectedSegment) error {
	var found []Finding
	in, quiet := *s.Inspector, *s
	quiet.Inspector = &in
	in.Finding = func(f Finding) error {
		found = append(found, f)
		return nil
	}
	if err := quiet.inspectSegments(dir, segments); err != nil {
		return err
	}
	now, err := inspectedSegments(dir)
	if err != nil {
		return err
	}
	n := len(segments) - 1 // the active one grows
	if len(found) > 0 && n >= 0 && (len(now) <= n || !slices.Equal(segments[:n], now[:n]) || now[n].base != segments[n].base) {
		return s.tell(Finding{Severity: Note, Dir: dir, Offset: -1, Reason: "the broker replaced or removed segments meanwhile: check again"})
	}
	for _, f := range found {
		if err := s.tell(f); err != nil {
			return err
		}
	}
	return nil
}

// region is how a part of a segment is judged.
type region struct {
	dir      string
	seg      inspectedSegment
	last     bool  // nothing comes after this segment
	next     int64 // base offset of the next segment, when not last
	known    bool  // there is a snapshot
	exact    bool  // behind it no offset is left out: nothing was compacted since
	durable  int64 // bytes of this segment that were durable at the last checkpoint; all of it for older segments
	offset   int64 // offset behind those
	counted  int   // entries of the offset index that count, wholeFile for all
	timed    int   // the same of the time index
	swapping bool  // compaction was interrupted: what it replaces may be gone
	rebuilds bool  // the broker makes the indexes anew at its next start, whatever they say
}

func (s *inspection) region(dir string, segments []inspectedSegment, i int) region {
	r := region{dir: dir, seg: segments[i], last: i == len(segments)-1, counted: wholeFile, timed: wholeFile, durable: segments[i].size}
	if !r.last {
		r.next = segments[i+1].base
	}
	swaps, err := filepath.Glob(filepath.Join(dir, "*.swap"))
	r.swapping = err == nil && len(swaps) > 0
	if s.snap == nil || filepath.Dir(dir) != filepath.Join(s.store, topicsName) {
		return r
	}
	r.known, r.exact = true, !s.live
	p := s.livePoint(dir)
	switch {
	case p == nil:
		r.durable, r.rebuilds = 0, true
		r.offset = segments[0].base
		if i > 0 {
			r.offset = r.seg.base
		}
	case r.seg.base > p.base:
		r.durable, r.offset, r.rebuilds = 0, r.seg.base, true
	case r.seg.base == p.base:
		r.durable, r.offset, r.counted, r.timed = p.position, p.offset, p.offsets, p.times
	}
	return r
}

// severity is that of damage to the batches at a position.
func (r *region) severity(position int64) Severity {
	if r.known && r.last && position >= r.durable {
		return Torn
	}
	return Damage
}

// inspectSegment goes through segment i of a partition and its indexes; only is the extension of the one file that is wanted, or empty.
func (s *inspection) inspectSegment(dir string, segments []inspectedSegment, i int, only string) error {
	r := s.region(dir, segments, i)
	offsets, err := readEntries[offsetEntry](r.seg.index)
	if err != nil {
		return err
	}
	times, err := readEntries[timeEntry](r.seg.timeindex)
	if err != nil {
		return err
	}
	quiet := *s
	if only != "" && only != ".log" { // the batches are only looked at to check the index
		quiet.Inspector = &Inspector{}
	}
	marks := newMarks(&r, offsets, times)
	if err := quiet.inspectBatches(&r, marks); err != nil {
		if s.live && errors.Is(err, os.ErrNotExist) {
			return nil // retention was faster
		}
		return err
	}
	if only == "" || only == ".index" {
		if err := s.inspectOffsets(&r, offsets, marks); err != nil {
			return err
		}
	}
	if only == "" || only == ".timeindex" {
		return s.inspectTimes(&r, times, marks)
	}
	return nil
}

// entries is what an index file holds.
type entries[E any] struct {
	list    []E
	size    int64 // of the file
	missing bool
}

func readEntries[E entry[E]](path string) (x entries[E], err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return entries[E]{missing: true}, nil
	}
	x.size = int64(len(data))
	var e E
	for ; len(data) >= e.size(); data = data[e.size():] {
		x.list = append(x.list, e.decode(data))
	}
	return x, err
}

// marks compares index entries with the batches that go by. Both are in the order of offsets.
type marks struct {
	base     int64
	offsets  []offsetEntry
	times    []timeEntry
	o, t     int
	confirms map[[2]int]bool // kind (0 offset, 1 time) and number of the entries that a batch confirms
	damaged  bool            // batches are: entries that lead to them are not to blame
}

func newMarks(r *region, offsets entries[offsetEntry], times entries[timeEntry]) *marks {
	return &marks{base: r.seg.base, offsets: offsets.list, times: times.list, confirms: map[[2]int]bool{}}
}

func (m *marks) pass(position int64, b protocol.Batch) {
	last := b.LastOffset() - m.base
	for m.o < len(m.offsets) && int64(m.offsets[m.o].position) < position {
		m.o++
	}
	if m.o < len(m.offsets) && m.offsets[m.o] == (offsetEntry{uint32(last), uint32(position)}) {
		m.confirms[[2]int{0, m.o}] = true
		m.o++
	}
	for m.t < len(m.times) && int64(m.times[m.t].last) < last {
		m.t++
	}
	if m.t < len(m.times) && m.times[m.t] == (timeEntry{b.MaxTimestamp(), uint32(last)}) {
		m.confirms[[2]int{1, m.t}] = true
		m.t++
	}
}

// inspectBatches goes through a .log file. Behind damage it goes on with the next whole batch.
func (s *inspection) inspectBatches(r *region, m *marks) (err error) {
	path := filepath.Join(r.dir, logName(r.seg.base))
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := s.begin(path, r.seg.size); err != nil {
		return err
	}
	visit := func(position int64, b protocol.Batch) error {
		m.pass(position, b)
		if s.Records {
			if rerr := b.Records(func(protocol.Record) bool { return true }); rerr != nil {
				if err := s.tell(Finding{Damage, r.dir, logName(r.seg.base), position, int64(len(b)), b.BaseOffset(), b.LastOffset() + 1, rerr.Error()}); err != nil {
					return err
				}
			}
		}
		if s.Batch == nil {
			return nil
		}
		return s.Batch(position, b)
	}
	end, err := scanBatches(f, r, visit, func(f Finding) error {
		m.damaged = true
		return s.tell(f)
	})
	if err != nil {
		return err
	}
	missing := Finding{Severity: Damage, Dir: r.dir, File: logName(r.seg.base), Byte: r.seg.size, Offset: end}
	switch {
	case r.known && r.seg.size < r.durable && end < r.offset:
		missing.Next, missing.Reason = r.offset, fmt.Sprintf("the file has %d bytes, although %d were durable", r.seg.size, r.durable)
	case !r.last && end < r.next && r.swapping:
		return nil
	case !r.last && end < r.next: // compaction leaves an empty batch at the end
		missing.Next, missing.Reason = r.next, fmt.Sprintf("the next segment begins at offset %d: batches or a file are missing in between", r.next)
	default:
		return nil
	}
	m.damaged = true
	return s.tell(missing)
}

// scanBatches calls visit with the whole batches of a segment and found with what is wrong in between, and returns the offset behind the last.
func scanBatches(f io.ReaderAt, r *region, visit func(int64, protocol.Batch) error, found func(Finding) error) (next int64, err error) {
	next = r.seg.base
	in := &batchReader{file: f, limit: r.seg.size}
	for {
		at := in.position
		b, err := in.next()
		if err == io.EOF {
			return next, nil
		}
		if err == nil {
			err = r.follows(at, b, next)
		}
		if err == nil && b.BaseOffset() > next {
			err = r.isBelied(f, at, b, next)
		}
		if err == nil {
			if err := visit(at, b); err != nil {
				return next, err
			}
			next = b.LastOffset() + 1
			continue
		}
		var d *damage
		if !errors.As(err, &d) {
			return next, err
		}
		to, ok, err := findBatch(f, r, at, next)
		if err != nil {
			return next, err
		}
		reason := d.reason
		if severity := r.severity(at); severity == Torn {
			reason += "; written after the last checkpoint, the broker cuts it off at its next start, or restores it from its journal"
		}
		bad := Finding{r.severity(at), r.dir, logName(r.seg.base), at, to - at, next, r.after(), reason}
		if ok {
			h, err := headerAt(f, to, r.seg.size)
			if err != nil {
				return next, err
			}
			bad.Next = h.BaseOffset()
		}
		if err := found(bad); err != nil || !ok {
			return max(next, bad.Next), err
		}
		in = &batchReader{file: f, position: to, limit: r.seg.size, buf: in.buf[:0]}
	}
}

// after is the offset that follows on the segment, 0 when it is not known.
func (r *region) after() int64 {
	if r.last {
		return r.offset
	}
	return r.next
}

// follows says whether a whole batch may be where it is.
func (r *region) follows(at int64, b protocol.Batch, next int64) error {
	switch {
	case b.BaseOffset() < next && next == r.seg.base:
		return &damage{at, fmt.Sprintf("offset %d in a segment that begins at %d", b.BaseOffset(), r.seg.base)}
	case b.BaseOffset() < next:
		return &damage{at, fmt.Sprintf("offset %d after %d", b.BaseOffset(), next-1)}
	case r.exact && at >= r.durable && b.BaseOffset() != max(next, r.offset):
		return &damage{at, fmt.Sprintf("offset %d where %d was to follow", b.BaseOffset(), max(next, r.offset))}
	case r.known && at < r.durable && r.offset > 0 && b.LastOffset() >= r.offset:
		return &damage{at, fmt.Sprintf("offset %d, although the log ended at %d at the last checkpoint", b.LastOffset(), r.offset)}
	case !r.last && b.LastOffset() >= r.next:
		return &damage{at, fmt.Sprintf("offset %d, although the next segment begins at %d", b.LastOffset(), r.next)}
	}
	return nil
}

// isBelied says whether a batch that leaves a gap before it is shown to be wrong by the one behind it: the checksum does not cover the base offset.
func (r *region) isBelied(f io.ReaderAt, at int64, b protocol.Batch, next int64) error {
	after, err := headerAt(f, at+int64(len(b)), r.seg.size)
	if err == nil && after.BaseOffset() > next && after.BaseOffset() <= b.LastOffset() {
		return &damage{at, fmt.Sprintf("offset %d after %d, although the batch behind it has %d", b.BaseOffset(), next-1, after.BaseOffset())}
	}
	if err != nil && !isDamage(err) {
		return err
	}
	return nil
}

// findBatch returns where behind damage at a position the next whole batch begins that goes on from offset next; the end of the segment when there is none.
func findBatch(f io.ReaderAt, r *region, at, next int64) (position int64, ok bool, err error) {
	whole := func(position int64) (bool, error) {
		in := &batchReader{file: f, position: position, limit: r.seg.size}
		b, err := in.next()
		if err == io.EOF || isDamage(err) {
			return false, nil
		}
		return err == nil && r.follows(position, b, next) == nil, err
	}
	// The damaged batch's own length is the best guide: a search could be taken in by a batch inside a record.
	if h, err := headerAt(f, at, r.seg.size); err == nil {
		if ok, err := whole(at + h.size); ok || err != nil {
			return at + h.size, ok, err
		}
	}
	const header = protocol.BatchHeaderLen
	buf := make([]byte, 1<<20)
	for from := at + 1; from+header <= r.seg.size; from += int64(len(buf) - header + 1) {
		n, err := f.ReadAt(buf[:min(int64(len(buf)), r.seg.size-from)], from)
		if err != nil && err != io.EOF {
			return r.seg.size, false, err
		}
		for i := 0; i+header <= n; i++ {
			h := buf[i : i+header]
			if h[16] != 2 {
				continue
			}
			size, err := batchSize(h)
			b := protocol.Batch(h)
			if err != nil || from+int64(i)+size > r.seg.size || b.BaseOffset()-next > r.seg.size || r.follows(0, b, next) != nil {
				continue
			}
			if ok, err := whole(from + int64(i)); ok || err != nil {
				return from + int64(i), ok, err
			}
		}
	}
	return r.seg.size, false, nil
}

// inspectOffsets goes through an .index file.
func (s *inspection) inspectOffsets(r *region, x entries[offsetEntry], m *marks) error {
	if !x.missing {
		if err := s.begin(r.seg.index, x.size); err != nil {
			return err
		}
	}
	for i, e := range x.list {
		if s.OffsetEntry != nil {
			if err := s.OffsetEntry(i, r.seg.base+int64(e.last), int64(e.position)); err != nil {
				return err
			}
		}
	}
	return s.inspectEntries(r, r.seg.index, 8, len(x.list), x.size, x.missing, r.counted, func(i int) string {
		e := x.list[i]
		if m.damaged || m.confirms[[2]int{0, i}] {
			return ""
		}
		return fmt.Sprintf("entry %d says that the batch at byte %d ends with offset %d, which is not so", i, e.position, r.seg.base+int64(e.last))
	})
}

// inspectTimes goes through a .timeindex file.
func (s *inspection) inspectTimes(r *region, x entries[timeEntry], m *marks) error {
	if !x.missing {
		if err := s.begin(r.seg.timeindex, x.size); err != nil {
			return err
		}
	}
	for i, e := range x.list {
		if s.TimeEntry != nil {
			if err := s.TimeEntry(i, e.timestamp, r.seg.base+int64(e.last)); err != nil {
				return err
			}
		}
	}
	return s.inspectEntries(r, r.seg.timeindex, 12, len(x.list), x.size, x.missing, r.timed, func(i int) string {
		e := x.list[i]
		if m.damaged || m.confirms[[2]int{1, i}] && (i == 0 || e.timestamp > x.list[i-1].timestamp) {
			return ""
		}
		return fmt.Sprintf("entry %d says that the batch ending with offset %d has timestamp %d, which is not so", i, r.seg.base+int64(e.last), e.timestamp)
	})
}

// inspectEntries tells what is wrong with an index of n entries, of which counted count; wrong says what is with one. Only the first wrong entry is told.
func (s *inspection) inspectEntries(r *region, path string, entrySize, n int, size int64, missing bool, counted int, wrong func(i int) string) error {
	f := Finding{Severity: DamagedIndex, Dir: r.dir, File: filepath.Base(path), Bytes: size, Offset: r.seg.base}
	closed := !r.last && !r.rebuilds
	switch {
	case r.rebuilds || s.live && r.last:
		return nil
	case missing && !closed && counted <= 0:
		return nil // nothing to be indexed yet
	case missing:
		f.Reason = "the file is missing; the broker rebuilds it when it needs it"
		return s.tell(f)
	case counted != wholeFile && n < counted:
		f.Byte = size
		f.Reason = fmt.Sprintf("%d entries, although %d were written; the broker rebuilds it when it needs it", n, counted)
		return s.tell(f)
	case size%int64(entrySize) != 0 && counted == wholeFile:
		f.Byte = size - size%int64(entrySize)
		f.Reason = fmt.Sprintf("it ends in the middle of an entry of %d bytes; the broker rebuilds it when it needs it", entrySize)
		return s.tell(f)
	}
	if counted != wholeFile {
		n = counted
	}
	for i := range n {
		if reason := wrong(i); reason != "" {
			f.Byte, f.Reason = int64(i*entrySize), reason+"; the broker rebuilds it when it needs it"
			return s.tell(f)
		}
	}
	return nil
}
