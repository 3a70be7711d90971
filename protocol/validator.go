package protocol

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
)

// validatorWindow is how much of a compressed batch is decompressed at a time, in bytes.
const validatorWindow = 32 << 10

// Validator checks batches that come from producers, all of each. It owns the
// decoders of the codecs it has met and a small window, and grows to some
// megabytes when it meets large windows or blocks: keep a few and share them
// rather than one for each connection. Not safe for concurrent use.
type Validator struct {
	decoders decompressor
	window   []byte
}

// NewValidator returns a Validator; it allocates when it first needs to.
func NewValidator() *Validator { return new(Validator) }

// Validate checks that b, as a producer sent it, can be stored and read:
// length, magic, CRC32C, attributes, a known codec, the number of records
// against the offsets and against what the records decode to, offset
// deltas without gaps, producer id and sequence, and that it decompresses to no
// more than 256 MiB. Records are not copied; a compressed batch is read
// through a small window and never held decompressed.
//
// A greatest timestamp that is not the records' is put right in b, along with
// the CRC, as Kafka does, because the time index rests on it. Nothing else is changed.
//
// The error is a *BatchError; its Code is the answer for the producer.
// The rules are those of Kafka's LogValidator and DefaultRecordBatch.
func (v *Validator) Validate(b Batch) error { return v.validate(b, false) }

// ValidateKeyed is Validate for a compacted topic, which takes no records without a key.
func (v *Validator) ValidateKeyed(b Batch) error { return v.validate(b, true) }

func (v *Validator) validate(b Batch, keyed bool) error {
	if err := b.checkShape(); err != nil {
		return err
	}
	if err := b.CheckCRC(); err != nil {
		return err
	}
	if err := b.checkProducerHeader(); err != nil {
		return err
	}
	latest, err := v.checkRecords(b, keyed)
	if err != nil {
		return err
	}
	b.SetMaxTimestamp(latest, CreateTime)
	return nil
}

// checkShape checks what a Batch promises by its type, since anyone can convert a slice.
func (b Batch) checkShape() error {
	if len(b) < BatchHeaderLen {
		return corrupt("a batch of %d bytes is shorter than the %d of a header", len(b), BatchHeaderLen)
	}
	if length := int64(b.int32(atLength)) + lengthCounts; length != int64(len(b)) {
		return corrupt("a batch of %d bytes says that it has %d", len(b), length)
	}
	return checkMagic(b[atMagic])
}

// checkProducerHeader checks the fields of the header that a producer sets.
func (b Batch) checkProducerHeader() error {
	if !b.Codec().known() {
		return &BatchError{kerr.UnsupportedCompressionType.Code, fmt.Sprintf("compression %d is unknown", b.Codec())}
	}
	if b.TimestampType() != CreateTime {
		return &BatchError{kerr.InvalidTimestamp.Code, "producers do not set log append time"}
	}
	if b.Attributes()&deleteHorizonBit != 0 || uint16(b.Attributes())&^attributesDefined != 0 {
		return invalid("attributes %#04x are not a producer's", uint16(b.Attributes()))
	}
	if b.IsControl() {
		return invalid("producers do not write control batches")
	}
	if b.BaseOffset() != 0 {
		return invalid("the base offset is %d, producers send 0", b.BaseOffset())
	}
	if n, last := b.NumRecords(), b.LastOffsetDelta(); n < 1 || int64(n) != int64(last)+1 {
		return invalid("%d records with a last offset delta of %d", n, last)
	}
	if b.ProducerID() < 0 {
		if b.IsTransactional() {
			return invalid("transactional without a producer id")
		}
		return nil
	}
	if b.ProducerEpoch() < 0 || b.BaseSequence() < 0 {
		return invalid("producer id %d with epoch %d and sequence %d", b.ProducerID(), b.ProducerEpoch(), b.BaseSequence())
	}
	return nil
}

// checkRecords walks the records and returns their greatest timestamp. keyed: each must have a key.
func (v *Validator) checkRecords(b Batch, keyed bool) (latest int64, err error) {
	var c cursor
	if b.Codec() == None {
		c.buf = b[BatchHeaderLen:]
	} else {
		if v.window == nil {
			v.window = make([]byte, validatorWindow)
		}
		defer v.decoders.release()
		c.window = v.window
		if c.src, err = v.decoders.open(b.Codec(), b[BatchHeaderLen:]); err != nil {
			return 0, decompressError(b.Codec(), err)
		}
	}

	latest = -1
	base, count := b.BaseTimestamp(), b.NumRecords()
	var r Record
	for i := range count {
		if n, timestamp, offset, noKey := skim(c.buf[c.at:]); n > 0 {
			c.at += n
			c.noKey, r.TimestampDelta, r.OffsetDelta = noKey, timestamp, offset
		} else if !c.record(&r, false) {
			return 0, invalid("record %d of %d: %v", i, count, c.err)
		}
		if keyed && c.noKey {
			return 0, invalid("record %d of %d has no key, which a compacted topic needs", i, count)
		}
		if r.OffsetDelta != i {
			return 0, invalid("record %d of %d has offset delta %d", i, count, r.OffsetDelta)
		}
		t := base + r.TimestampDelta
		if (t < base) != (r.TimestampDelta < 0) {
			return 0, invalid("record %d of %d: timestamp %d plus %d does not fit into 64 bits", i, count, base, r.TimestampDelta)
		}
		latest = max(latest, t)
	}
	if !c.atEnd() {
		return 0, invalid("more bytes follow the last of %d records", count)
	}
	if c.err != nil {
		return 0, invalid("after the last of %d records: %v", count, c.err)
	}
	return latest, nil
}
