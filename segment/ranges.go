package segment

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
)

// A range is what the journal says of one log's active segment: these bytes are at that position of it, and everything before them is
// durable. An empty range says only the latter. The payload of a recordRange:
//
//	topic      4 + n  length and bytes
//	topic id   16
//	partition  4
//	flags      1      bit 0: the names of the segment's file and of its directory were durable
//	base       8      of the segment
//	position   8      in its file
//	bytes      the rest
//
// That of a recordDeleted ends after the partition: what the journal said of the log before is void.
//
// A range never contradicts the file: only bytes of whole, accepted appends go into the journal, and those are never taken back. Replaying it
// therefore writes what is, or was to be, there anyway, whatever has been fdatasynced behind it since.
type logRange struct {
	id       LogID
	named    bool
	base     int64
	position int64
	data     []byte // aliases the journal
}

const flagNamed = 1

// appendLogID encodes the beginning of both kinds of payload.
func appendLogID(dst []byte, id LogID) []byte {
	dst = appendBytes(dst, []byte(id.Topic))
	dst = append(dst, id.TopicID[:]...)
	return binary.BigEndian.AppendUint32(dst, uint32(id.Partition))
}

// appendRange encodes a range without its bytes.
func appendRange(dst []byte, r logRange) []byte {
	dst = appendLogID(dst, r.id)
	dst = append(dst, flag(r.named)*flagNamed)
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.base))
	return binary.BigEndian.AppendUint64(dst, uint64(r.position))
}

func (r *reader) logID() LogID {
	id := LogID{Topic: string(r.bytes())}
	copy(id.TopicID[:], r.take(16))
	id.Partition = r.i32()
	return id
}

func parseRange(payload []byte) (logRange, error) {
	r := &reader{buf: payload}
	x := logRange{id: r.logID(), named: r.u8()&flagNamed != 0, base: r.i64(), position: r.i64()}
	x.data = r.buf
	if r.short || x.base < 0 || x.position < 0 || x.id.check() != nil {
		return x, errors.New("a range of a log that makes no sense")
	}
	return x, nil
}

func parseDeleted(payload []byte) (LogID, error) {
	r := &reader{buf: payload}
	id := r.logID()
	if r.short || len(r.buf) > 0 {
		return id, errors.New("a deletion of a log that makes no sense")
	}
	return id, nil
}

// young is what a log has behind its durable offset, on its way into the journal.
type young struct {
	log  *Log
	upTo mark
	h    *handle // of upTo.seg
	from int64
}

// young returns what the log has to be made durable; ok is false when there is nothing, or so much of it that it does not belong into the journal.
func (l *Log) young() (y young, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.durable.offset >= l.end.offset || l.pending() > maxRange {
		return y, false
	}
	y = young{log: l, upTo: l.end, h: l.end.seg.h.acquire()}
	if l.durable.seg == l.end.seg {
		y.from = l.durable.position
	}
	return y, true
}

// pending returns how many bytes of the active segment are not durable. Log.mu is held.
func (l *Log) pending() int64 {
	if l.durable.seg == l.end.seg {
		return l.end.position - l.durable.position
	}
	return l.end.position
}

// append adds the range to dst, reading its bytes from the file.
func (y young) append(dst []byte) ([]byte, error) {
	dst = appendRange(dst, logRange{id: y.log.id, named: y.log.named.Load(), base: y.upTo.seg.base, position: y.from})
	n := int(y.upTo.position - y.from)
	dst = slices.Grow(dst, n)
	dst = dst[:len(dst)+n]
	_, err := y.h.file.ReadAt(dst[len(dst)-n:], y.from)
	return dst, err
}

// batch is what a number of logs have to be made durable, on its way through the journal. It is used again and again.
type batch struct {
	logs    []*Log
	taken   []young  // of those whose bytes are in records
	records []record // one for each in taken
	owners  []*Log   // the same logs
	ends    []int    // of their payloads in buf
	buf     []byte
}

// commit makes the logs durable with one group of the journal. Those that cannot get into it, for whichever reason, are fdatasynced; so are
// all when the journal cannot be written, which is the error.
func (b *batch) commit(s *Store) (err error) {
	b.read(s)
	if len(b.taken) > 0 {
		if err = s.propose(context.Background(), &proposal{records: b.records, logs: b.owners, done: make(chan error, 1)}); err != nil {
			s.log.Debug().Err(err).Msg("the journal took no data")
		}
	}
	for _, y := range b.taken {
		s.releaseFile(y.log, y.h)
		if err == nil {
			y.log.advance(y.upTo, false)
		}
	}
	if err != nil || len(b.taken) < len(b.logs) {
		for _, l := range b.logs {
			if dirty, _, _ := l.dirty(); dirty && (err != nil || !slices.ContainsFunc(b.taken, func(y young) bool { return y.log == l })) {
				commit(l)
			}
		}
	}
	clear(b.taken)
	clear(b.owners)
	if cap(b.buf) > 2*maxBatch {
		b.buf = nil
	}
	return err
}

// read fills the batch from the logs' files. It leaves out those that turn out to have nothing, or too much.
func (b *batch) read(s *Store) {
	b.taken, b.records, b.owners, b.ends, b.buf = b.taken[:0], b.records[:0], b.owners[:0], b.ends[:0], b.buf[:0]
	for _, l := range b.logs {
		y, ok := l.young()
		if !ok {
			continue
		}
		filled, err := y.append(b.buf)
		if err != nil {
			s.log.Warn().Err(err).Str(fieldDir, l.dir).Msg("reading back what was appended failed, it is made durable in its place")
			s.releaseFile(l, y.h)
			continue
		}
		b.buf, b.taken, b.ends = filled, append(b.taken, y), append(b.ends, len(filled))
	}
	start := 0
	for i, end := range b.ends {
		b.records = append(b.records, record{recordRange, b.buf[start:end]})
		b.owners = append(b.owners, b.taken[i].log)
		start = end
	}
}

func (s *Store) releaseFile(l *Log, h *handle) {
	if err := h.release(); err != nil {
		s.log.Warn().Err(err).Str(fieldDir, l.dir).Msg("closing a segment's file failed")
	}
}
