package producer

import (
	"bytes"
	"fmt"

	"github.com/klauspost/compress"
	"github.com/klauspost/compress/zstd"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Compression is how record batches are compressed on their way and in the
// broker's log. It is Kafka's own: every consumer undoes it unasked.
type Compression string

// The values of Compression.
const (
	CompressAuto   Compression = "auto" // zstd, fastest level, for what looks compressible; the rest goes as it is
	CompressNone   Compression = "none"
	CompressZstd   Compression = "zstd"
	CompressLZ4    Compression = "lz4"
	CompressSnappy Compression = "snappy"
	CompressGzip   Compression = "gzip"
)

// compressor returns what the client is to compress batches with, nil for none.
// choices are for auto.
func (c Compression) compressor(choices *choices) (kgo.Compressor, error) {
	switch c {
	case "", CompressAuto:
		return newAutoCompressor(choices)
	case CompressNone:
		return nil, nil
	case CompressZstd:
		return kgo.DefaultCompressor(kgo.ZstdCompression())
	case CompressLZ4:
		return kgo.DefaultCompressor(kgo.Lz4Compression())
	case CompressSnappy:
		return kgo.DefaultCompressor(kgo.SnappyCompression())
	case CompressGzip:
		return kgo.DefaultCompressor(kgo.GzipCompression())
	}
	return nil, fmt.Errorf("compression %q: use none, auto, zstd, lz4, snappy or gzip", c)
}

const (
	autoMinBytes  = 512     // batches below are not worth the effort
	autoSample    = 2 << 10 // bytes looked at in each place
	autoThreshold = 0.1     // of compress.Estimate; random bytes stay below, deflated ones too
)

// autoCompressor leaves alone what does not look compressible by three small
// samples. A batch holds one chunk of a large file, whose choice it asks, or a
// number of small files. It costs a per cent or so where nothing is to be gained.
type autoCompressor struct {
	zstd    kgo.Compressor
	choices *choices
}

func newAutoCompressor(choices *choices) (kgo.Compressor, error) {
	c, err := kgo.DefaultCompressor(kgo.ZstdCompression().WithLevel(int(zstd.SpeedFastest)))
	if err != nil {
		return nil, err
	}
	return autoCompressor{c, choices}, nil
}

// Compress implements kgo.Compressor.
func (c autoCompressor) Compress(dst *bytes.Buffer, src []byte, flags ...kgo.CompressFlag) ([]byte, kgo.CompressionCodecType) {
	file := c.choices.of(src)
	if !file.worth(src) {
		return src, kgo.CodecNone
	}
	packed, codec := c.zstd.Compress(dst, src, flags...)
	if !file.gained(len(src), len(packed)) {
		return src, kgo.CodecNone
	}
	return packed, codec
}

// looksCompressible samples the beginning, the middle and the end of b.
func looksCompressible(b []byte) bool {
	if len(b) < autoMinBytes {
		return false
	}
	if len(b) <= 3*autoSample {
		return compress.Estimate(b) >= autoThreshold
	}
	last := len(b) - autoSample
	for _, at := range [...]int{0, last / 2, last} {
		if compress.Estimate(b[at:at+autoSample]) >= autoThreshold {
			return true
		}
	}
	return false
}
