package protocol

import (
	"errors"
	"fmt"
	"io"
	"math"
)

// Header is one header of a record. A nil Value is null.
type Header struct {
	Key   string
	Value []byte
}

// Record is one record of a batch. A nil Key or Value is null, which differs from empty.
type Record struct {
	OffsetDelta    int32 // from the batch's base offset
	TimestampDelta int64 // ms from the batch's base timestamp; see Batch.Timestamp
	Key, Value     []byte
	Headers        []Header
}

// Records calls yield with each record in order, until yield returns false. Keys and
// values alias the batch, or, when it is compressed, memory of their own; they
// are valid as long as that is.
//
// It trusts the header no more than the bytes: damage is a *BatchError, after
// the records before it have been yielded. It does not check the CRC, and it
// accepts the gaps between offsets that compaction leaves.
func (b Batch) Records(yield func(Record) bool) error {
	if err := b.checkShape(); err != nil {
		return err
	}
	data := []byte(b[BatchHeaderLen:])
	if b.Codec() != None {
		var d decompressor
		var err error
		if data, err = d.decompressAll(b.Codec(), data); err != nil {
			return decompressError(b.Codec(), err)
		}
	}
	return b.eachRecord(data, yield)
}

// eachRecord is Records for a batch whose records are data when decompressed.
func (b Batch) eachRecord(data []byte, yield func(Record) bool) error {
	c := cursor{buf: data}
	last := int32(-1)
	for i := range b.NumRecords() {
		var r Record
		if !c.record(&r, true) {
			return invalid("record %d of %d: %v", i, b.NumRecords(), c.err)
		}
		if r.OffsetDelta <= last || r.OffsetDelta > b.LastOffsetDelta() {
			return invalid("record %d of %d has offset delta %d after %d, the last being %d",
				i, b.NumRecords(), r.OffsetDelta, last, b.LastOffsetDelta())
		}
		last = r.OffsetDelta
		if !yield(r) {
			return nil
		}
	}
	if c.rest() != 0 {
		return invalid("%d bytes follow the last of %d records", c.rest(), b.NumRecords())
	}
	return nil
}

// decompressError makes a *BatchError of what a decoder said.
func decompressError(c Codec, err error) error {
	var be *BatchError
	if errors.As(err, &be) {
		return be
	}
	return invalid("%s: %v", c, err)
}

// skim is a fast way over the record at the start of buf, without its contents, for those that are whole there and have no
// headers. n is how many bytes it has; 0 for every other one, which is left to cursor, as is saying what is wrong.
func skim(buf []byte) (n int, timestampDelta int64, offsetDelta int32, noKey bool) {
	length, at := shortVarint(buf, 0)
	end := at + length
	if at == 0 || length < 0 || end > len(buf) {
		return 0, 0, 0, false
	}
	buf = buf[:end]
	timestamp, at := shortVarint(buf, at+1) // behind the attributes, of which none are defined
	if at == 0 {
		return 0, 0, 0, false
	}
	offset, at := shortVarint(buf, at)
	if at == 0 {
		return 0, 0, 0, false
	}
	for i := range 2 { // key and value
		size, behind := shortVarint(buf, at)
		switch {
		case behind == 0 || size < -1 || size > end-behind:
			return 0, 0, 0, false
		case size < 0:
			noKey = noKey || i == 0
			size = 0
		}
		at = behind + size
	}
	if at != end-1 || buf[at] != 0 { // the number of headers
		return 0, 0, 0, false
	}
	return end, int64(timestamp), int32(offset), noKey
}

// shortVarint reads a zigzag varint of at most three bytes. behind is where the next field begins; 0 when it is longer, or cut short.
func shortVarint(buf []byte, at int) (v, behind int) {
	if uint(at) >= uint(len(buf)) {
		return 0, 0
	}
	u := int(buf[at])
	if u < 0x80 {
		return u>>1 ^ -(u & 1), at + 1
	}
	if at+2 >= len(buf) {
		return 0, 0
	}
	if next := int(buf[at+1]); next < 0x80 {
		u = u&0x7f | next<<7
		return u>>1 ^ -(u & 1), at + 2
	} else if last := int(buf[at+2]); last < 0x80 {
		u = u&0x7f | (next&0x7f)<<7 | last<<14
		return u>>1 ^ -(u & 1), at + 3
	}
	return 0, 0
}

// cursor reads records, one field at a time. Its errors stick: after the first,
// reads return zeros, and err says what went wrong.
//
//	+--------+------------+-----------+--------+-----+-----+-------+-------+-----+---------
//	| length | attributes | timestamp | offset | key | key | value | value | no. | headers
//	|        | int8       | delta     | delta  | len |     | len   |       |     |
//	+--------+------------+-----------+--------+-----+-----+-------+-------+-----+---------
//
// Numbers are zigzag varints, of 32 bits but for the timestamp delta's 64;
// length counts the bytes behind itself; a key or value length of -1 means null.
// A header is a key length, a key, a value length and a value.
//
// With src nil, buf is all there is; otherwise buf is what window holds, which
// is filled from src again and again.
type cursor struct {
	buf    []byte
	at     int // how much of buf is consumed
	src    io.Reader
	window []byte
	before int64 // bytes consumed before buf
	null   bool  // the last field read by bytes was null
	noKey  bool  // the last record read had no key
	err    error
}

// consumed is how many bytes have been read in all.
func (c *cursor) consumed() int64 { return c.before + int64(c.at) }

// rest is how many bytes are left in buf.
func (c *cursor) rest() int { return len(c.buf) - c.at }

func (c *cursor) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(format, args...)
	}
	c.before += int64(c.at)
	c.buf, c.at, c.src = nil, 0, nil
}

// record reads one record into r, Key, Value and Headers only with contents
// (which needs src to be nil). It allocates nothing but those headers.
func (c *cursor) record(r *Record, contents bool) bool {
	length := c.varint()
	end := c.consumed() + int64(length)
	if length < 0 {
		c.fail("its length is %d", length)
	}
	c.next() // attributes, of which none are defined
	r.TimestampDelta = c.varlong()
	r.OffsetDelta = c.varint()
	r.Key = c.bytes(end, contents)
	c.noKey = c.null
	r.Value = c.bytes(end, contents)
	count := c.varint()
	if left := end - c.consumed(); count < 0 || int64(count) > left/2 { // a header takes at least two bytes
		c.fail("%d headers in %d bytes", count, left)
	}
	if contents && count > 0 && c.err == nil {
		r.Headers = make([]Header, 0, min(count, 16))
	}
	for i := int32(0); i < count && c.err == nil; i++ {
		c.header(r, end, contents)
	}
	if c.err == nil && c.consumed() != end {
		c.fail("its length is %d, its fields take %d bytes", length, int64(length)+c.consumed()-end)
	}
	return c.err == nil
}

func (c *cursor) header(r *Record, end int64, contents bool) {
	key := c.take(int64(c.varint()), end, contents)
	value := c.bytes(end, contents)
	if contents && c.err == nil {
		r.Headers = append(r.Headers, Header{Key: string(key), Value: value})
	}
}

// bytes reads a length and as many bytes; null when the length is -1.
func (c *cursor) bytes(end int64, contents bool) []byte {
	n := c.varint()
	if c.null = n == -1; c.null {
		return nil
	}
	return c.take(int64(n), end, contents)
}

// take consumes n bytes, which must not reach past end, and returns them if contents.
func (c *cursor) take(n, end int64, contents bool) []byte {
	left := end - c.consumed()
	switch {
	case c.err != nil:
		return nil
	case n < 0 || n > left:
		c.fail("a field of %d bytes where the record has %d left", n, max(left, 0))
		return nil
	case contents && n > int64(c.rest()):
		c.fail("it is cut short")
		return nil
	}
	start := c.at
	for n > int64(c.rest()) {
		n -= int64(c.rest())
		c.at = len(c.buf)
		if !c.fill() {
			return nil
		}
	}
	c.at += int(n)
	if !contents {
		return nil
	}
	return c.buf[start:c.at:c.at]
}

// next consumes one byte.
func (c *cursor) next() byte {
	if c.at == len(c.buf) && !c.fill() {
		return 0
	}
	b := c.buf[c.at]
	c.at++
	return b
}

func (c *cursor) varint() int32 {
	if c.at < len(c.buf) && c.buf[c.at] < 0x80 { // most are of one byte
		b := c.buf[c.at]
		c.at++
		return int32(b>>1) ^ -int32(b&1)
	}
	u := c.uvarint(5)
	if u > math.MaxUint32 {
		c.fail("a number does not fit into 32 bits")
		return 0
	}
	return int32(uint32(u)>>1) ^ -int32(u&1)
}

func (c *cursor) varlong() int64 {
	u := c.uvarint(10)
	return int64(u>>1) ^ -int64(u&1)
}

// uvarint reads a number of at most limit bytes, seven bits in each, lowest first.
func (c *cursor) uvarint(limit int) uint64 {
	var u uint64
	for i := range limit {
		b := c.next()
		u |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 && (i < 9 || b <= 1) { // the tenth byte has one bit left
			return u
		}
	}
	c.fail("a number is too long")
	return 0
}

// fill gets more bytes from the source; false when there are none, which is an error.
func (c *cursor) fill() bool {
	if c.atEnd() {
		c.fail("it is cut short")
	}
	return c.err == nil
}

// atEnd reports whether all bytes are consumed. It reads ahead, so that damage
// at the end of a compressed source, such as a wrong checksum, sets err.
func (c *cursor) atEnd() bool {
	for c.rest() == 0 && c.src != nil {
		c.before += int64(len(c.buf))
		c.at = 0
		n, err := c.src.Read(c.window)
		c.buf = c.window[:n]
		switch {
		case c.before+int64(n) > maxDecompressed:
			c.fail("%w", errTooLarge)
		case err == io.EOF:
			c.src = nil
		case err != nil:
			c.fail("%w", err)
		}
	}
	return c.rest() == 0
}
