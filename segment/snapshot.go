package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
)

// The file meta.snapshot is the state of a store at a checkpoint. All integers are big endian; "bytes" are a length (4) and that many bytes.
//
//	magic       8  "mft.meta"
//	version     4  1
//	generation  8  of the journal: the first one to be replayed on top of this state
//	epoch       4  leader epoch of the last start that is included
//	state       1 + bytes   1 and what Options.Snapshot returned, or 0 and nothing when there was none yet
//	logs        4  count, then for each log:
//	    topic       bytes
//	    topic id    16
//	    partition   4
//	    start       8  log start offset
//	    base        8  base offset of the active segment
//	    position    8  bytes of the active segment that are durable
//	    offset      8  offset of the first record behind them
//	    indexed     4 + 4   entries of the active segment's .index and .timeindex that cover these bytes
//	    unmarked    4  bytes since the last .index entry
//	    max time    8 + 4   greatest timestamp of the active segment so far, and where (relative last offset of its batch)
//	    last time   8  timestamp of the last .timeindex entry
//	    epochs      4  count, then epoch (4) and start offset (8) of each
//	    producers   4  count, then for each: id (8), epoch (2), whole (1), used (8), count (1), and for each batch remembered
//	                   first and last sequence (4 + 4), first and last offset (8 + 8)
//	CRC-32C     4  of all before it; it stays in this place in every future version
const (
	snapshotName    = "meta.snapshot"
	snapshotMagic   = "mft.meta"
	snapshotVersion = 1
)

// snapshot is the content of meta.snapshot.
type snapshot struct {
	generation uint64
	epoch      int32
	hasState   bool
	state      []byte
	logs       []logPoint
}

// logPoint is what a snapshot says about one log: bytes up to position of the segment base, and all segments before, are durable, and
// producers and epochs are exactly as they were at offset.
type logPoint struct {
	id        LogID
	start     int64
	base      int64
	position  int64
	offset    int64
	offsets   int // entries of the offset index in its file
	times     int // entries of the time index in its file
	unmarked  int
	max       timeEntry
	lastTime  int64
	epochs    epochs
	producers producers
}

func appendBytes(dst, b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(b))), b...)
}

// encode returns the file's bytes.
func (s *snapshot) encode() []byte {
	be := binary.BigEndian
	b := append([]byte(nil), snapshotMagic...)
	b = be.AppendUint32(b, snapshotVersion)
	b = be.AppendUint64(b, s.generation)
	b = be.AppendUint32(b, uint32(s.epoch))
	b = appendBytes(append(b, flag(s.hasState)), s.state)
	b = be.AppendUint32(b, uint32(len(s.logs)))
	for i := range s.logs {
		b = s.logs[i].append(b)
	}
	return be.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func flag(set bool) byte {
	if set {
		return 1
	}
	return 0
}

func (p *logPoint) append(b []byte) []byte {
	be := binary.BigEndian
	b = appendBytes(b, []byte(p.id.Topic))
	b = append(b, p.id.TopicID[:]...)
	b = be.AppendUint32(b, uint32(p.id.Partition))
	for _, v := range []int64{p.start, p.base, p.position, p.offset} {
		b = be.AppendUint64(b, uint64(v))
	}
	for _, v := range []int{p.offsets, p.times, p.unmarked} {
		b = be.AppendUint32(b, uint32(v))
	}
	b = be.AppendUint32(be.AppendUint64(b, uint64(p.max.timestamp)), p.max.last)
	b = be.AppendUint64(b, uint64(p.lastTime))
	b = be.AppendUint32(b, uint32(len(p.epochs)))
	for _, e := range p.epochs {
		b = be.AppendUint64(be.AppendUint32(b, uint32(e.epoch)), uint64(e.start))
	}
	b = be.AppendUint32(b, uint32(len(p.producers)))
	for _, id := range p.producers.ids() {
		state := p.producers[id]
		b = be.AppendUint16(be.AppendUint64(b, uint64(id)), uint16(state.epoch))
		b = be.AppendUint64(append(b, flag(state.whole)), uint64(state.used))
		b = append(b, state.n)
		for _, sent := range state.batches[:state.n] {
			b = be.AppendUint32(be.AppendUint32(b, uint32(sent.first)), uint32(sent.last))
			b = be.AppendUint64(be.AppendUint64(b, uint64(sent.base)), uint64(sent.end))
		}
	}
	return b
}

// reader takes fields off the front of a buffer; after the first that is not there it yields zeros and short is set.
type reader struct {
	buf   []byte
	short bool
}

func (r *reader) take(n uint32) []byte {
	if uint64(n) > uint64(len(r.buf)) {
		r.short, r.buf = true, nil
		if n > 16 {
			return nil
		}
		return make([]byte, n)
	}
	b := r.buf[:n:n]
	r.buf = r.buf[n:]
	return b
}

func (r *reader) bytes() []byte { return r.take(r.u32()) }
func (r *reader) u8() byte      { return r.take(1)[0] }
func (r *reader) u16() uint16   { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) u32() uint32   { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64   { return binary.BigEndian.Uint64(r.take(8)) }
func (r *reader) i32() int32    { return int32(r.u32()) }
func (r *reader) i64() int64    { return int64(r.u64()) }

// decodeSnapshot parses the file's bytes. file names it in errors: *CorruptionError or *FormatError. The result aliases data.
func decodeSnapshot(file string, data []byte) (*snapshot, error) {
	damaged := func(reason string) error {
		return &CorruptionError{Dir: filepath.Dir(file), File: filepath.Base(file), Reason: reason}
	}
	if len(data) < len(snapshotMagic)+8 || string(data[:len(snapshotMagic)]) != snapshotMagic {
		return nil, damaged("not a snapshot")
	}
	body := data[:len(data)-4]
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(data[len(body):]) {
		return nil, damaged("wrong checksum")
	}
	r := &reader{buf: body[len(snapshotMagic):]}
	if v := r.u32(); v != snapshotVersion {
		return nil, &FormatError{File: file, Version: v, Supported: snapshotVersion}
	}
	s := &snapshot{generation: r.u64(), epoch: r.i32(), hasState: r.u8() == 1, state: r.bytes()}
	for n := r.u32(); n > 0 && !r.short; n-- {
		s.logs = append(s.logs, r.point())
	}
	if r.short || len(r.buf) > 0 {
		return nil, damaged("fields do not fit its length")
	}
	return s, nil
}

func (r *reader) point() logPoint {
	p := logPoint{id: LogID{Topic: string(r.bytes())}}
	copy(p.id.TopicID[:], r.take(16))
	p.id.Partition = r.i32()
	p.start, p.base, p.position, p.offset = r.i64(), r.i64(), r.i64(), r.i64()
	p.offsets, p.times, p.unmarked = int(r.u32()), int(r.u32()), int(r.u32())
	p.max = timeEntry{r.i64(), r.u32()}
	p.lastTime = r.i64()
	for n := r.u32(); n > 0 && !r.short; n-- {
		p.epochs = append(p.epochs, epochEntry{r.i32(), r.i64()})
	}
	for n := r.u32(); n > 0 && !r.short; n-- {
		if p.producers == nil {
			p.producers = producers{}
		}
		id := r.i64()
		state := &producer{epoch: int16(r.u16()), whole: r.u8() == 1, used: r.i64(), n: r.u8()}
		if state.n > keptBatches {
			r.short = true
			break
		}
		for i := range state.batches[:state.n] {
			state.batches[i] = sentBatch{r.i32(), r.i32(), r.i64(), r.i64()}
		}
		p.producers[id] = state
	}
	return p
}

// readSnapshot reads meta.snapshot; nil when there is none.
func readSnapshot(dir string) (*snapshot, error) {
	file := filepath.Join(dir, snapshotName)
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("read the snapshot: %w", err)
	}
	return decodeSnapshot(file, data)
}

// write replaces meta.snapshot and makes it durable: afterwards either the old or the new one is there, whole.
func (s *snapshot) write(dir string) error {
	file := filepath.Join(dir, snapshotName)
	temporary := file + ".new"
	f, err := os.Create(temporary)
	if err != nil {
		return fmt.Errorf("write the snapshot: %w", err)
	}
	_, err = f.Write(s.encode())
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temporary, file)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("write the snapshot: %w", err)
	}
	return nil
}
