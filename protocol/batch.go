package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	"github.com/twmb/franz-go/pkg/kerr"
)

// BatchHeaderLen is the length of a record batch before its records, in bytes.
const BatchHeaderLen = 61

// Where the fields of a batch begin, in bytes from its first.
const (
	atBaseOffset    = 0
	atLength        = 8
	atLeaderEpoch   = 12
	atMagic         = 16
	atCRC           = 17
	atAttributes    = 21 // the CRC covers everything from here on
	atLastDelta     = 23
	atBaseTimestamp = 27
	atMaxTimestamp  = 35
	atProducerID    = 43
	atProducerEpoch = 51
	atBaseSequence  = 53
	atNumRecords    = 57
)

// lengthCounts is where counting begins for the length field: it holds the
// number of bytes behind itself.
const lengthCounts = atLength + 4

// Bits of the attributes of a batch.
const (
	codecMask         = 0x07
	logAppendTimeBit  = 0x08
	transactionalBit  = 0x10
	controlBit        = 0x20
	deleteHorizonBit  = 0x40
	attributesDefined = codecMask | logAppendTimeBit | transactionalBit | controlBit | deleteHorizonBit
)

// What TimestampType returns.
const (
	CreateTime    int8 = 0 // producers set the timestamps of records
	LogAppendTime int8 = 1 // the broker did; it is MaxTimestamp for every record
)

// castagnoli is the polynomial of Kafka's CRC32C; amd64 and arm64 compute it in hardware.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrShortBatch says that a buffer ends inside a batch.
var ErrShortBatch = errors.New("the buffer ends inside a record batch")

// BatchError reports a batch that must not be stored. Code is the Kafka error
// code that tells a producer so:
//
//   - CORRUPT_MESSAGE (2): length, magic or CRC; sending it again may help
//   - INVALID_TIMESTAMP (32): a producer claims that the broker set the time
//   - UNSUPPORTED_FOR_MESSAGE_FORMAT (43): magic 0 or 1, from before Kafka 0.11
//   - UNSUPPORTED_COMPRESSION_TYPE (76): a codec nobody knows
//   - INVALID_RECORD (87): everything else; sending it again is useless
type BatchError struct {
	Code   int16
	Reason string
}

func (e *BatchError) Error() string {
	if err := kerr.TypedErrorForCode(e.Code); err != nil {
		return err.Message + ": " + e.Reason
	}
	return fmt.Sprintf("error code %d: %s", e.Code, e.Reason)
}

func corrupt(format string, args ...any) error {
	return &BatchError{kerr.CorruptMessage.Code, fmt.Sprintf(format, args...)}
}

func invalid(format string, args ...any) error {
	return &BatchError{kerr.InvalidRecord.Code, fmt.Sprintf(format, args...)}
}

// Batch is exactly one whole record batch of magic 2, header and records, as
// NextBatch cuts it off. It aliases the frame or file content it was cut from,
// and its accessors do not copy. The length and the magic are known to be
// right; the rest is as true as CheckCRC or Validator.Validate have found it.
//
//	 0             8        12             16      17      21           23
//	+-------------+--------+--------------+-------+-------+------------+-
//	| base offset | length | leader epoch | magic | crc   | attributes |
//	| i64         | i32    | i32          | i8    | u32   | i16        |
//	+-------------+--------+--------------+-------+-------+------------+-
//	 23                  27               35              43
//	+-------------------+----------------+---------------+-
//	| last offset delta | base timestamp | max timestamp |
//	| i32               | i64, ms        | i64, ms       |
//	+-------------------+----------------+---------------+-
//	 43            51               53              57        61
//	+-------------+----------------+---------------+---------+----------
//	| producer id | producer epoch | base sequence | records | records,
//	| i64         | i16            | i32           | i32     | maybe compressed
//	+-------------+----------------+---------------+---------+----------
//
// All numbers are big-endian. length counts the bytes behind itself (from 12
// on); crc is the CRC32C of everything from 21 on, so that a broker sets base
// offset and leader epoch without touching it. Attributes, from bit 0: codec (3
// bits), log append time, transactional, control, delete horizon.
// Source: https://kafka.apache.org/documentation/#recordbatch.
type Batch []byte

// NextBatch cuts the first batch off buf; rest is what follows it. Both alias
// buf. It looks at length and magic only, allocates nothing but errors, and
// never reads past buf.
//
// Errors: io.EOF when buf is empty, ErrShortBatch when buf ends inside a batch
// (every proper prefix of a batch does), *BatchError when no batch begins here.
func NextBatch(buf []byte) (b Batch, rest []byte, err error) {
	if len(buf) == 0 {
		return nil, buf, io.EOF
	}
	if len(buf) <= atMagic {
		return nil, buf, ErrShortBatch
	}
	if err := checkMagic(buf[atMagic]); err != nil {
		return nil, buf, err
	}
	length := int32(binary.BigEndian.Uint32(buf[atLength:]))
	if length < BatchHeaderLen-lengthCounts {
		return nil, buf, corrupt("a batch announces %d bytes behind its length field, fewer than the %d of a header", length, BatchHeaderLen-lengthCounts)
	}
	total := int64(length) + lengthCounts
	if total > int64(len(buf)) {
		return nil, buf, ErrShortBatch
	}
	return Batch(buf[:total:total]), buf[total:], nil
}

func checkMagic(magic byte) error {
	switch magic {
	case 2:
		return nil
	case 0, 1:
		return &BatchError{kerr.UnsupportedForMessageFormat.Code, fmt.Sprintf(
			"messages of magic %d are not accepted: use a client of Kafka 0.11 or later", magic)}
	}
	return corrupt("magic %d is not one of a record batch", int8(magic))
}

func (b Batch) int16(at int) int16 { return int16(binary.BigEndian.Uint16(b[at:])) }
func (b Batch) int32(at int) int32 { return int32(binary.BigEndian.Uint32(b[at:])) }
func (b Batch) int64(at int) int64 { return int64(binary.BigEndian.Uint64(b[at:])) }

// BaseOffset is the offset of the first record (in a compacted batch: what it once was).
func (b Batch) BaseOffset() int64 { return b.int64(atBaseOffset) }

// SetBaseOffset sets the offset of the first record. The CRC does not cover it.
func (b Batch) SetBaseOffset(offset int64) {
	binary.BigEndian.PutUint64(b[atBaseOffset:], uint64(offset))
}

// LastOffset is the offset of the last record.
func (b Batch) LastOffset() int64 { return b.BaseOffset() + int64(b.LastOffsetDelta()) }

// LastOffsetDelta is how far the last record's offset is from the first's.
func (b Batch) LastOffsetDelta() int32 { return b.int32(atLastDelta) }

// PartitionLeaderEpoch is the epoch of the leader that appended the batch; -1 as producers send it.
func (b Batch) PartitionLeaderEpoch() int32 { return b.int32(atLeaderEpoch) }

// SetPartitionLeaderEpoch sets the epoch. The CRC does not cover it.
func (b Batch) SetPartitionLeaderEpoch(epoch int32) {
	binary.BigEndian.PutUint32(b[atLeaderEpoch:], uint32(epoch))
}

// Attributes are the flags of the batch; the accessors below decode them.
func (b Batch) Attributes() int16 { return b.int16(atAttributes) }

// Codec is what the records are compressed with; it may be one nobody knows.
func (b Batch) Codec() Codec { return Codec(b.Attributes() & codecMask) }

// IsTransactional says that the batch is part of a transaction.
func (b Batch) IsTransactional() bool { return b.Attributes()&transactionalBit != 0 }

// IsControl says that the batch holds a marker for consumers' libraries, not records of users.
func (b Batch) IsControl() bool { return b.Attributes()&controlBit != 0 }

// TimestampType is CreateTime or LogAppendTime.
func (b Batch) TimestampType() int8 {
	if b.Attributes()&logAppendTimeBit != 0 {
		return LogAppendTime
	}
	return CreateTime
}

// DeleteHorizon is the time, in ms since the epoch, from which on compaction may
// remove the batch's tombstones (records without a value); false when it is not
// set. It is kept as the base timestamp (KIP-534).
func (b Batch) DeleteHorizon() (ms int64, set bool) {
	return b.BaseTimestamp(), b.Attributes()&deleteHorizonBit != 0
}

// BaseTimestamp is what the records' timestamps are counted from, in ms since
// the epoch; -1 when there is none.
func (b Batch) BaseTimestamp() int64 { return b.int64(atBaseTimestamp) }

// MaxTimestamp is the greatest timestamp of the records, in ms since the
// epoch; -1 when there is none.
func (b Batch) MaxTimestamp() int64 { return b.int64(atMaxTimestamp) }

// SetMaxTimestamp sets the greatest timestamp and where timestamps come from
// (CreateTime or LogAppendTime), and computes the CRC anew if that changes the batch.
func (b Batch) SetMaxTimestamp(ms int64, timestampType int8) {
	if b.MaxTimestamp() == ms && b.TimestampType() == timestampType {
		return
	}
	binary.BigEndian.PutUint64(b[atMaxTimestamp:], uint64(ms))
	attributes := uint16(b.Attributes()) &^ logAppendTimeBit
	if timestampType == LogAppendTime {
		attributes |= logAppendTimeBit
	}
	binary.BigEndian.PutUint16(b[atAttributes:], attributes)
	b.setCRC()
}

// ProducerID is the id of an idempotent or transactional producer, -1 of any other.
func (b Batch) ProducerID() int64 { return b.int64(atProducerID) }

// ProducerEpoch tells incarnations of a producer id apart; -1 when there is no id.
func (b Batch) ProducerEpoch() int16 { return b.int16(atProducerEpoch) }

// BaseSequence is the producer's number of the first record; -1 when there is no producer id.
func (b Batch) BaseSequence() int32 { return b.int32(atBaseSequence) }

// LastSequence is the producer's number of the last record. Numbers follow
// 2147483647 with 0; -1 stays -1.
func (b Batch) LastSequence() int32 {
	base := b.BaseSequence()
	if base < 0 {
		return base
	}
	return int32((int64(base) + int64(b.LastOffsetDelta())) & math.MaxInt32)
}

// NumRecords is how many records the batch holds.
func (b Batch) NumRecords() int32 { return b.int32(atNumRecords) }

// CRC is the CRC32C that the batch claims.
func (b Batch) CRC() uint32 { return binary.BigEndian.Uint32(b[atCRC:]) }

// CheckCRC compares CRC with the bytes. The error is a *BatchError.
func (b Batch) CheckCRC() error {
	if got, want := crc32.Checksum(b[atAttributes:], castagnoli), b.CRC(); got != want {
		return corrupt("the CRC32C of the batch is %08x, it says %08x", got, want)
	}
	return nil
}

func (b Batch) setCRC() {
	binary.BigEndian.PutUint32(b[atCRC:], crc32.Checksum(b[atAttributes:], castagnoli))
}

// Timestamp is when record r of the batch was made or appended, in ms since the epoch; -1 when there is none.
func (b Batch) Timestamp(r Record) int64 {
	if b.TimestampType() == LogAppendTime {
		return b.MaxTimestamp()
	}
	return b.BaseTimestamp() + r.TimestampDelta
}
