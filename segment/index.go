package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"

	"mft/protocol"
)

// errIndexDamaged says that an index file is missing, too short, or says something that the log does not confirm.
// The remedy is to rebuild it.
var errIndexDamaged = errors.New("index does not fit its log")

// offsetEntry is an entry of an .index file, as Kafka lays it out (org.apache.kafka.storage.internals.log.OffsetIndex):
//
//	0               4               8
//	| last offset   | position      |   both unsigned, big endian
//
// last offset is that of the batch that begins at position, relative to the segment's base offset. Entries ascend in both.
type offsetEntry struct {
	last, position uint32
}

// timeEntry is an entry of a .timeindex file, as Kafka lays it out (org.apache.kafka.storage.internals.log.TimeIndex):
//
//	0                               8              12
//	| timestamp, ms since 1970      | last offset   |   big endian
//
// timestamp is the greatest of the segment's batches so far; last offset, relative to the segment's base, is the last of the first batch
// that has it. Entries ascend in both.
type timeEntry struct {
	timestamp int64
	last      uint32
}

// entry is what the two kinds of index entries have in common.
type entry[E any] interface {
	offsetEntry | timeEntry
	size() int
	append(dst []byte) []byte
	decode(src []byte) E
}

func (offsetEntry) size() int { return 8 }
func (timeEntry) size() int   { return 12 }

func (e offsetEntry) append(dst []byte) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(dst, e.last), e.position)
}

func (e timeEntry) append(dst []byte) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(dst, uint64(e.timestamp)), e.last)
}

func (offsetEntry) decode(src []byte) offsetEntry {
	return offsetEntry{binary.BigEndian.Uint32(src), binary.BigEndian.Uint32(src[4:])}
}

func (timeEntry) decode(src []byte) timeEntry {
	return timeEntry{int64(binary.BigEndian.Uint64(src)), binary.BigEndian.Uint32(src[8:])}
}

// sparseIndex is an index of one segment: its older entries are in a file, its younger ones in memory.
type sparseIndex[E entry[E]] struct {
	stored int // entries at the front of the file that count; wholeFile once the segment is closed
	tail   []E // younger than those; only ever appended to or replaced, so that views may share it
}

// wholeFile as sparseIndex.stored says that the file is complete.
const wholeFile = -1

// indexView is a sparseIndex at one moment, to be searched without a lock.
type indexView[E entry[E]] struct {
	path   string
	stored int
	tail   []E
}

// floor returns the last entry that meets le, which holds for a first part of the entries and for none of the others.
// found is false when it holds for none. The answer comes from a file that may be damaged: the caller checks it against the log.
func (v indexView[E]) floor(le func(E) bool) (e E, found bool, err error) {
	if len(v.tail) > 0 && le(v.tail[0]) {
		return v.tail[sort.Search(len(v.tail), func(i int) bool { return !le(v.tail[i]) })-1], true, nil
	}
	if v.stored == 0 {
		return e, false, nil
	}
	f, err := os.Open(v.path)
	if errors.Is(err, os.ErrNotExist) {
		return e, false, errIndexDamaged
	} else if err != nil {
		return e, false, err
	}
	e, found, err = v.floorInFile(f, le)
	return e, found, errors.Join(err, f.Close())
}

func (v indexView[E]) floorInFile(f *os.File, le func(E) bool) (e E, found bool, err error) {
	info, err := f.Stat()
	if err != nil {
		return e, false, err
	}
	size := int64(e.size())
	n := v.stored
	if n == wholeFile {
		if n = int(info.Size() / size); info.Size()%size != 0 {
			return e, false, errIndexDamaged
		}
	} else if info.Size() < int64(n)*size {
		return e, false, errIndexDamaged
	}
	// Entries are read by the block: the last steps of the search need no further read.
	const block = 128
	var buf [block * 12]byte
	have := -1 // the block in buf
	at := func(i int) E {
		if b := i / block; b != have {
			entries := buf[:int64(min(block, n-b*block))*size]
			if _, rerr := f.ReadAt(entries, int64(b*block)*size); rerr != nil && err == nil {
				err = rerr
			}
			have = b
		}
		return e.decode(buf[int64(i%block)*size:])
	}
	if i := sort.Search(n, func(i int) bool { return !le(at(i)) }); i > 0 {
		e, found = at(i-1), true
	}
	if err != nil {
		return e, false, fmt.Errorf("read %s: %w", v.path, err)
	}
	return e, found, nil
}

// store writes the tail behind the stored entries and returns the index as it is then. The file ends with the last entry.
func (v indexView[E]) store() (stored int, err error) {
	if v.stored == wholeFile {
		return wholeFile, nil
	}
	f, err := os.OpenFile(v.path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return v.stored, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var e E
	buf := make([]byte, 0, len(v.tail)*e.size())
	for _, e := range v.tail {
		buf = e.append(buf)
	}
	if _, err := f.WriteAt(buf, int64(v.stored*e.size())); err != nil {
		return v.stored, err
	}
	stored = v.stored + len(v.tail)
	if info, err := f.Stat(); err != nil {
		return v.stored, err
	} else if info.Size() != int64(stored*e.size()) { // something is left from before a crash
		if err := f.Truncate(int64(stored * e.size())); err != nil {
			return v.stored, err
		}
	}
	return stored, nil
}

// indexes are the two indexes of a segment and what it takes to extend them.
type indexes struct {
	offsets  sparseIndex[offsetEntry]
	times    sparseIndex[timeEntry]
	unmarked int       // bytes of batches since the last offset entry
	max      timeEntry // greatest timestamp so far and the last offset of its batch; timestamp -1 when there is none
	lastTime int64     // timestamp of the last time entry, -1 when there is none
	covered  int64     // position in the log up to which the stored entries go
}

func newIndexes() indexes {
	return indexes{max: timeEntry{timestamp: -1}, lastTime: -1}
}

// add notes a batch at a position of the segment with the given base offset, making entries at the same places as Kafka does:
// one before each batch that comes more than interval bytes after the previous one.
func (x *indexes) add(base, position int64, b protocol.Batch, size, interval int) {
	last := uint32(b.LastOffset() - base)
	if ts := b.MaxTimestamp(); ts > x.max.timestamp && b.NumRecords() > 0 {
		x.max = timeEntry{ts, last}
	}
	if x.unmarked > interval {
		x.offsets.tail = append(x.offsets.tail, offsetEntry{last, uint32(position)})
		x.addTime()
		x.unmarked = 0
	}
	x.unmarked += size
}

// addTime makes a time entry of the greatest timestamp so far, unless the last entry says as much.
func (x *indexes) addTime() {
	if x.max.timestamp > x.lastTime {
		x.times.tail = append(x.times.tail, x.max)
		x.lastTime = x.max.timestamp
	}
}

// temporaryPrefix begins the names of files that are being written; what a crash leaves of them is removed at the next start.
const temporaryPrefix = "tmp-"

// replaceFile writes a file anew: temporary file beside it, then rename. It is not made durable.
func replaceFile(path string, write func(w io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), temporaryPrefix)
	if err != nil {
		return err
	}
	err = errors.Join(write(f), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// writeIndex replaces an index file by one with the given entries.
func writeIndex[E entry[E]](path string, entries []E) error {
	return replaceFile(path, func(w io.Writer) error {
		var buf []byte
		for _, e := range entries {
			buf = e.append(buf)
		}
		_, err := w.Write(buf)
		return err
	})
}
