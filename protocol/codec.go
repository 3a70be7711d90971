package protocol

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/twmb/franz-go/pkg/kerr"
)

// Codec is what the records of a batch are compressed with, numbered as in the
// attributes of a batch.
type Codec int8

// The codecs of Kafka.
const (
	None Codec = iota
	Gzip
	Snappy
	LZ4
	Zstd
)

var codecNames = [...]string{None: "none", Gzip: "gzip", Snappy: "snappy", LZ4: "lz4", Zstd: "zstd"}

// String is the codec's name in Kafka's settings, "none" for None.
func (c Codec) String() string {
	if c.known() {
		return codecNames[c]
	}
	return fmt.Sprintf("codec %d", int8(c))
}

func (c Codec) known() bool { return c >= None && c <= Zstd }

// ParseCodec is the reverse of String.
func ParseCodec(name string) (Codec, error) {
	for c, n := range codecNames {
		if n == name {
			return Codec(c), nil
		}
	}
	return None, fmt.Errorf("compression %q is unknown: use none, gzip, snappy, lz4 or zstd", name)
}

const (
	// maxDecompressed bounds what a batch may grow to, in bytes, so that a
	// small one cannot keep the machine busy for long.
	maxDecompressed = 256 << 20
	// keptZstdWindow and maxZstdWindow, in bytes: a decoder for windows up to
	// the first is kept between batches, one for windows up to the second (zstd
	// level 20) is made when needed and dropped.
	keptZstdWindow = 8 << 20
	maxZstdWindow  = 32 << 20
	// maxKept is the greatest buffer kept between batches, in bytes.
	maxKept = 4 << 20
)

var errTooLarge = fmt.Errorf("decompresses to more than %d bytes", maxDecompressed)

// decompressor reads what the codecs wrote. It keeps their decoders, so that
// the second batch of a codec costs next to no allocation. Not for concurrent use.
type decompressor struct {
	src    bytes.Reader
	gzip   *gzip.Reader
	lz4    *lz4.Reader
	zstd   *zstd.Decoder
	snappy snappyReader
}

// open returns a reader of what src holds when decompressed. It is valid until
// the next open or release.
func (d *decompressor) open(c Codec, src []byte) (io.Reader, error) {
	d.src.Reset(src)
	switch c {
	case None:
		return &d.src, nil
	case Gzip:
		if d.gzip == nil {
			d.gzip = new(gzip.Reader)
		}
		return d.gzip, d.gzip.Reset(&d.src)
	case Snappy:
		d.snappy.reset(src)
		return &d.snappy, nil
	case LZ4:
		if d.lz4 == nil {
			d.lz4 = lz4.NewReader(nil)
			if err := d.lz4.Apply(lz4.ConcurrencyOption(1)); err != nil {
				return nil, err
			}
		}
		d.lz4.Reset(&d.src)
		return d.lz4, nil
	case Zstd:
		return d.openZstd(src)
	}
	return nil, &BatchError{kerr.UnsupportedCompressionType.Code, fmt.Sprintf("compression %d is unknown", c)}
}

func (d *decompressor) openZstd(src []byte) (io.Reader, error) {
	var h zstd.Header
	if err := h.Decode(src); err != nil {
		return nil, err
	}
	window := h.WindowSize
	if h.SingleSegment {
		window = h.FrameContentSize
	}
	if window > maxZstdWindow {
		return nil, fmt.Errorf("zstd window of %d bytes, more than %d: use a lower level", window, maxZstdWindow)
	}
	if window > keptZstdWindow {
		z, err := newZstdDecoder(maxZstdWindow)
		if err != nil {
			return nil, err
		}
		return z, z.Reset(&d.src)
	}
	if d.zstd == nil {
		z, err := newZstdDecoder(keptZstdWindow)
		if err != nil {
			return nil, err
		}
		d.zstd = z
	}
	return d.zstd, d.zstd.Reset(&d.src)
}

// newZstdDecoder returns a decoder that runs in its caller: it has no
// goroutines, so that forgetting it is enough to free it.
func newZstdDecoder(window uint64) (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(window))
}

// release drops what refers to the source, and buffers that grew too large to keep.
func (d *decompressor) release() {
	d.src.Reset(nil)
	d.snappy.reset(nil)
	if d.lz4 != nil {
		d.lz4.Reset(nil) // hands its block buffer back
	}
}

// decompressAll returns everything that src holds, at most maxDecompressed bytes.
func (d *decompressor) decompressAll(c Codec, src []byte) ([]byte, error) {
	defer d.release()
	r, err := d.open(c, src)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(r, maxDecompressed+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxDecompressed {
		return nil, errTooLarge
	}
	return data, nil
}

// xerialMagic begins what Java's snappy library writes: the magic and two
// int32 versions, then blocks of an int32 length and that many bytes of snappy.
// Other clients write one bare block instead.
const (
	xerialMagic  = "\x82SNAPPY\x00"
	xerialHeader = len(xerialMagic) + 8
)

// snappyRatio is above what snappy can compress at best: 64 bytes into 3.
const snappyRatio = 32

var errSnappy = errors.New("the snappy data is damaged")

// snappyReader reads both forms of snappy, a block at a time.
type snappyReader struct {
	src    []byte // not yet decoded
	xerial bool
	buf    []byte // reused from block to block
	out    []byte // decoded, not yet read; aliases buf
}

func (s *snappyReader) reset(src []byte) {
	s.src, s.out, s.xerial = src, nil, false
	if len(src) >= xerialHeader && string(src[:len(xerialMagic)]) == xerialMagic {
		s.src, s.xerial = src[xerialHeader:], true
	}
	if cap(s.buf) > maxKept {
		s.buf = nil
	}
}

func (s *snappyReader) Read(p []byte) (int, error) {
	for len(s.out) == 0 {
		if len(s.src) == 0 {
			return 0, io.EOF
		}
		if err := s.block(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.out)
	s.out = s.out[n:]
	return n, nil
}

func (s *snappyReader) block() error {
	block := s.src
	if s.xerial {
		if len(s.src) < 4 {
			return errSnappy
		}
		n := int64(binary.BigEndian.Uint32(s.src))
		if n > int64(len(s.src)-4) {
			return errSnappy
		}
		block = s.src[4 : 4+n]
	}
	size, err := s2.DecodedLen(block)
	if err != nil || size > snappyRatio*len(block) {
		return errSnappy
	}
	if size > maxDecompressed {
		return errTooLarge
	}
	if cap(s.buf) < size {
		s.buf = make([]byte, size)
	}
	if s.out, err = s2.Decode(s.buf[:cap(s.buf)], block); err != nil {
		return errSnappy
	}
	s.src = s.src[len(block):]
	if s.xerial {
		s.src = s.src[4:]
	}
	return nil
}

// compress appends src, compressed, to dst.
func compress(dst []byte, c Codec, src []byte) ([]byte, error) {
	out := bytes.NewBuffer(dst)
	switch c {
	case None:
		return append(dst, src...), nil
	case Gzip:
		return finish(gzip.NewWriter(out), out, src)
	case Snappy:
		return append(dst, s2.EncodeSnappy(nil, src)...), nil
	case LZ4:
		w := lz4.NewWriter(out)
		if err := w.Apply(lz4.BlockSizeOption(lz4.Block64Kb)); err != nil {
			return nil, err
		}
		return finish(w, out, src)
	case Zstd:
		w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithZeroFrames(true))
		if err != nil {
			return nil, err
		}
		return w.EncodeAll(src, dst), w.Close()
	}
	return nil, fmt.Errorf("compression %d is unknown", c)
}

func finish(w io.WriteCloser, out *bytes.Buffer, src []byte) ([]byte, error) {
	if _, err := w.Write(src); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
