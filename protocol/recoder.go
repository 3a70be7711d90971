package protocol

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// Recoder makes new batches out of whole ones: with another codec, or with
// fewer records. It keeps what the codecs need between batches, some megabytes:
// share a few rather than have one for each connection. Not safe for concurrent use.
type Recoder struct {
	decoders decompressor
	zstd     *zstd.Encoder
	data     bytes.Buffer // records, decompressed
	body     []byte       // records to be compressed
	scratch  []byte
	kept     []Record
}

// NewRecoder returns a Recoder; it allocates when it first needs to.
func NewRecoder() *Recoder { return new(Recoder) }

// Recompress returns b with its records compressed by codec, everything else as it
// was. It is b itself when it has that codec already, otherwise memory of its own.
func (r *Recoder) Recompress(b Batch, codec Codec) (Batch, error) {
	if b.Codec() == codec {
		return b, nil
	}
	body, err := r.decompress(b)
	if err != nil {
		return nil, err
	}
	header := slices.Clone(b[:BatchHeaderLen])
	attributes := uint16(b.Attributes())&^codecMask | uint16(codec)
	binary.BigEndian.PutUint16(header[atAttributes:], attributes)
	return r.seal(header, codec, body)
}

// decompress returns the records of a batch as they are without compression. They are valid until the next call.
func (r *Recoder) decompress(b Batch) ([]byte, error) {
	if b.Codec() == None {
		return b[BatchHeaderLen:], nil
	}
	defer r.decoders.release()
	if r.data.Cap() > maxKept {
		r.data = bytes.Buffer{}
	}
	r.data.Reset()
	src, err := r.decoders.open(b.Codec(), b[BatchHeaderLen:])
	if err == nil {
		_, err = r.data.ReadFrom(io.LimitReader(src, maxDecompressed+1))
	}
	if err == nil && r.data.Len() > maxDecompressed {
		err = errTooLarge
	}
	if err != nil {
		return nil, decompressError(b.Codec(), err)
	}
	return r.data.Bytes(), nil
}

// Records is Batch.Records, but that keys and values are only valid until the
// next use of the Recoder.
func (r *Recoder) Records(b Batch, yield func(Record) bool) error {
	if err := b.checkShape(); err != nil {
		return err
	}
	data, err := r.decompress(b)
	if err != nil {
		return err
	}
	return b.eachRecord(data, yield)
}

// Compact returns what is left of a batch when only the records stay for which
// keep says so: offsets, sequence numbers and the base offset stay as they are,
// so that gaps arise. It is b itself when nothing changes, and nil when no
// record is left (see Emptied), otherwise memory of its own.
//
// A batch that is left with tombstones (records without a value) and has no
// delete horizon yet gets the given one, in ms since the epoch; a negative one is not set.
//
// The error is a *BatchError: the batch is damaged.
func (r *Recoder) Compact(b Batch, horizon int64, keep func(Record) bool) (Batch, error) {
	r.kept = r.kept[:0]
	defer func() { clear(r.kept) }()
	tombstones := false
	err := r.Records(b, func(rec Record) bool {
		if keep(rec) {
			r.kept = append(r.kept, rec)
			tombstones = tombstones || rec.Value == nil
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	_, hasHorizon := b.DeleteHorizon()
	mark := tombstones && !hasHorizon && horizon >= 0
	switch {
	case len(r.kept) == 0:
		return nil, nil
	case len(r.kept) == int(b.NumRecords()) && !mark:
		return b, nil
	}
	attributes, base := uint16(b.Attributes()), b.BaseTimestamp()
	if mark {
		attributes, base = attributes|deleteHorizonBit, horizon
	}
	latest := int64(math.MinInt64)
	r.body = r.body[:0]
	for _, rec := range r.kept {
		at := b.BaseTimestamp() + rec.TimestampDelta
		latest = max(latest, at)
		rec.TimestampDelta = at - base
		r.scratch = appendRecord(r.scratch[:0], rec)
		r.body = binary.AppendVarint(r.body, int64(len(r.scratch)))
		r.body = append(r.body, r.scratch...)
	}
	if b.TimestampType() == LogAppendTime {
		latest = b.MaxTimestamp()
	}
	be := binary.BigEndian
	header := slices.Clone(b[:BatchHeaderLen])
	be.PutUint16(header[atAttributes:], attributes)
	be.PutUint64(header[atBaseTimestamp:], uint64(base))
	be.PutUint64(header[atMaxTimestamp:], uint64(latest))
	be.PutUint32(header[atNumRecords:], uint32(len(r.kept)))
	out, err := r.seal(header, b.Codec(), r.body)
	if cap(r.body) > maxKept {
		r.body = nil
	}
	return out, err
}

// Emptied returns the batch without any record: its header alone, which goes on
// telling what offsets and sequence numbers it took. It is memory of its own.
func (b Batch) Emptied() Batch {
	be := binary.BigEndian
	e := slices.Clone(b[:BatchHeaderLen])
	be.PutUint16(e[atAttributes:], uint16(b.Attributes())&^(codecMask|deleteHorizonBit))
	be.PutUint64(e[atBaseTimestamp:], uint64(b.MaxTimestamp()))
	be.PutUint32(e[atLength:], BatchHeaderLen-lengthCounts)
	be.PutUint32(e[atNumRecords:], 0)
	e.setCRC()
	return e
}

// seal makes a batch of a header and its records, which it compresses.
func (r *Recoder) seal(header []byte, codec Codec, body []byte) (Batch, error) {
	var out []byte
	var err error
	if codec == Zstd {
		if r.zstd == nil {
			if r.zstd, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithZeroFrames(true)); err != nil {
				return nil, err
			}
		}
		out = r.zstd.EncodeAll(body, header)
	} else if out, err = compress(header, codec, body); err != nil {
		return nil, fmt.Errorf("compressing a batch with %s: %w", codec, err)
	}
	if len(out)-lengthCounts > math.MaxInt32 {
		return nil, fmt.Errorf("a batch of %d bytes is too large", len(out))
	}
	b := Batch(out)
	binary.BigEndian.PutUint32(b[atLength:], uint32(len(b)-lengthCounts))
	b.setCRC()
	return b, nil
}
