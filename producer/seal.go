package producer

import (
	"fmt"

	"github.com/klauspost/compress/zstd"

	"mft/protocol"
)

// sealing encrypts transfers. What is encrypted does not compress, so chunks
// are compressed before, one by one, and batches not at all.
type sealing struct {
	key  *protocol.Key
	zip  *zstd.Encoder // nil: chunks are not compressed
	auto bool          // only what looks compressible is
}

// newSealing returns nil when nothing is to be encrypted.
func newSealing(key *protocol.Key, c Compression) (*sealing, error) {
	if key == nil {
		return nil, nil
	}
	s := &sealing{key: key}
	level := zstd.SpeedDefault
	switch c {
	case CompressNone:
		return s, nil
	case "", CompressAuto:
		s.auto, level = true, zstd.SpeedFastest
	case CompressZstd:
	default:
		return nil, fmt.Errorf("compression %q of what is encrypted: use auto, zstd or none", c)
	}
	var err error
	s.zip, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderCRC(false), zstd.WithEncoderConcurrency(fileReaders))
	return s, err
}

// compression is what the manifest says of the chunks.
func (s *sealing) compression() string {
	if s == nil || s.zip == nil {
		return ""
	}
	return protocol.CompressionZstd
}

// overhead is how many bytes longer a chunk gets.
func (s *sealing) overhead() int {
	if s == nil {
		return 0
	}
	return protocol.SealedChunkOverhead
}

// pack compresses the bytes of a chunk into a buffer from pool, which is to be
// given back. It returns nil and no buffer when that gains nothing.
func (s *sealing) pack(pool *bufferPool, data []byte, file *choice) ([]byte, *buffer) {
	if s.zip == nil || s.auto && !file.worth(data) {
		return nil, nil
	}
	b := pool.get(min(s.zip.MaxEncodedSize(len(data)), 1<<maxBufferBits))
	packed := s.zip.EncodeAll(data, b.data[:0])
	if s.auto && file.gained(len(data), len(packed)) || !s.auto && len(packed) < len(data) {
		return packed, b
	}
	pool.put(b)
	return nil, nil
}

// sealChunk encrypts the chunk in b, which goes back to the pool, into another
// buffer. full is the size of a full chunk.
func (t *transfer) sealChunk(c protocol.Chunk, b *buffer, full int) (protocol.FileRecord, *buffer) {
	pool := &t.run.p.buffers
	c.Data, c.Size = b.data, len(b.data)
	packed, spare := t.run.p.sealing.pack(pool, b.data, t.choice)
	if packed != nil {
		c.Data, c.Zstd = packed, true
	}
	out := pool.get(t.sealer.SealedLen(len(c.Data), full))
	rec := t.sealer.SealChunk(out.data, c)
	pool.put(b)
	if spare != nil {
		pool.put(spare)
	}
	return rec, out
}
