package protocol

import (
	"encoding/binary"
	"fmt"
	"math"
)

// BatchOptions are what EncodeBatch needs besides the records. The zero value
// makes an uncompressed batch as a producer without idempotence sends it,
// with timestamps counted from the epoch.
type BatchOptions struct {
	Codec         Codec
	BaseOffset    int64 // producers send 0
	BaseTimestamp int64 // ms since the epoch
	Producer      *BatchProducer
	Transactional bool
	Control       bool
}

// BatchProducer numbers a batch for idempotence. Sequence is of its first record.
type BatchProducer struct {
	ID       int64
	Epoch    int16
	Sequence int32
}

// EncodeBatch makes a batch of at least one record. Offset deltas count up from
// 0, whatever the records say; the greatest timestamp is the records'.
func EncodeBatch(o BatchOptions, records []Record) (Batch, error) {
	if len(records) == 0 {
		return nil, fmt.Errorf("a batch needs at least one record")
	}
	if o.Producer == nil {
		o.Producer = &BatchProducer{ID: -1, Epoch: -1, Sequence: -1}
	}

	var body, scratch []byte
	latest := int64(-1)
	for i, r := range records {
		r.OffsetDelta = int32(i)
		scratch = appendRecord(scratch[:0], r)
		body = binary.AppendVarint(body, int64(len(scratch)))
		body = append(body, scratch...)
		latest = max(latest, o.BaseTimestamp+r.TimestampDelta)
	}

	attributes := uint16(o.Codec)
	if o.Transactional {
		attributes |= transactionalBit
	}
	if o.Control {
		attributes |= controlBit
	}
	be := binary.BigEndian
	b := make([]byte, 0, BatchHeaderLen+len(body))
	b = be.AppendUint64(b, uint64(o.BaseOffset))
	b = be.AppendUint32(b, 0)              // length, set below
	b = be.AppendUint32(b, math.MaxUint32) // leader epoch -1: the broker sets it
	b = append(b, 2)
	b = be.AppendUint32(b, 0) // CRC, set below
	b = be.AppendUint16(b, attributes)
	b = be.AppendUint32(b, uint32(len(records)-1))
	b = be.AppendUint64(b, uint64(o.BaseTimestamp))
	b = be.AppendUint64(b, uint64(latest))
	b = be.AppendUint64(b, uint64(o.Producer.ID))
	b = be.AppendUint16(b, uint16(o.Producer.Epoch))
	b = be.AppendUint32(b, uint32(o.Producer.Sequence))
	b = be.AppendUint32(b, uint32(len(records)))

	b, err := compress(b, o.Codec, body)
	if err != nil {
		return nil, fmt.Errorf("compressing a batch with %s: %w", o.Codec, err)
	}
	if len(b)-lengthCounts > math.MaxInt32 {
		return nil, fmt.Errorf("a batch of %d bytes is too large: use fewer records", len(b))
	}
	be.PutUint32(b[atLength:], uint32(len(b)-lengthCounts))
	batch := Batch(b)
	batch.setCRC()
	return batch, nil
}

// appendRecord appends r without its length; see cursor for the layout.
func appendRecord(dst []byte, r Record) []byte {
	dst = append(dst, 0) // attributes
	dst = binary.AppendVarint(dst, r.TimestampDelta)
	dst = binary.AppendVarint(dst, int64(r.OffsetDelta))
	dst = appendNullable(dst, r.Key)
	dst = appendNullable(dst, r.Value)
	dst = binary.AppendVarint(dst, int64(len(r.Headers)))
	for _, h := range r.Headers {
		dst = binary.AppendVarint(dst, int64(len(h.Key)))
		dst = append(dst, h.Key...)
		dst = appendNullable(dst, h.Value)
	}
	return dst
}

func appendNullable(dst, b []byte) []byte {
	if b == nil {
		return binary.AppendVarint(dst, -1)
	}
	dst = binary.AppendVarint(dst, int64(len(b)))
	return append(dst, b...)
}
