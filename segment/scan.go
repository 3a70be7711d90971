package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"mft/protocol"
)

// batchAt is a batch's header and where it is in its segment's file.
type batchAt struct {
	protocol.Batch       // the header only, valid until the scanner moves on
	position, size int64 // of the whole batch, in bytes
}

// scanBuffers holds buffers of scanBufferLen for headerScanner.
var scanBuffers = sync.Pool{New: func() any { return new([scanBufferLen]byte) }}

const (
	scanBufferLen = 32 << 10
	firstScanLen  = 4<<10 + 2*protocol.BatchHeaderLen // one index interval
)

// headerScanner walks over the headers of batches that lie back to back in a file between position and limit, reading ahead in pieces.
type headerScanner struct {
	file            io.ReaderAt
	position, limit int64
	buf             *[scanBufferLen]byte
	from, n         int64 // buf[:n] is what the file has at from
	reads           int
}

func newHeaderScanner(f io.ReaderAt, position, limit int64) *headerScanner {
	return &headerScanner{file: f, position: position, limit: limit, buf: scanBuffers.Get().(*[scanBufferLen]byte)}
}

// close gives the buffer back: headers returned by next are invalid from then on.
func (s *headerScanner) close() {
	scanBuffers.Put(s.buf)
	s.buf = nil
}

// next returns the batch at the current position and moves behind it; io.EOF at the limit. A *damage error says that no batch is there.
func (s *headerScanner) next() (batchAt, error) {
	if s.position >= s.limit {
		return batchAt{}, io.EOF
	}
	if s.limit-s.position < protocol.BatchHeaderLen {
		return batchAt{}, &damage{s.position, "not even a batch header long"}
	}
	if s.position < s.from || s.position+protocol.BatchHeaderLen > s.from+s.n {
		if err := s.fill(); err != nil {
			return batchAt{}, err
		}
	}
	h := s.buf[s.position-s.from:][:protocol.BatchHeaderLen]
	size, err := batchSize(h)
	if err == nil && size > s.limit-s.position {
		err = fmt.Errorf("a batch of %d bytes does not fit into the %d that remain", size, s.limit-s.position)
	}
	if err != nil {
		return batchAt{}, &damage{s.position, err.Error()}
	}
	b := batchAt{h, s.position, size}
	s.position += size
	return b, nil
}

func (s *headerScanner) fill() error {
	want := int64(scanBufferLen)
	if s.reads == 0 {
		want = firstScanLen
	}
	s.reads++
	want = min(want, s.limit-s.position)
	n, err := s.file.ReadAt(s.buf[:want], s.position)
	s.from, s.n = s.position, int64(n)
	if n >= protocol.BatchHeaderLen {
		return nil
	}
	if err == io.EOF {
		return &damage{s.position, "the file is shorter than it was"}
	}
	return fmt.Errorf("read: %w", err)
}

// damage is damage found at a position of a file; it becomes a CorruptionError where the file is known.
type damage struct {
	position int64
	reason   string
}

// isDamage says that there is no batch where one was looked for: because of damage, or because the end is reached.
func isDamage(err error) bool {
	var d *damage
	return err == io.EOF || errors.As(err, &d)
}

func (d *damage) Error() string { return fmt.Sprintf("at byte %d: %s", d.position, d.reason) }

// corruption turns a damage in the given segment into a *CorruptionError; other errors pass.
func (l *Log) corruption(base int64, err error) error {
	var d *damage
	if errors.As(err, &d) {
		return &CorruptionError{Dir: l.dir, File: logName(base), Offset: d.position, Reason: d.reason}
	}
	return err
}

// batchSize returns the length of the whole batch that a header begins, in bytes.
func batchSize(header []byte) (int64, error) {
	if magic := header[16]; magic != 2 {
		return 0, fmt.Errorf("no batch begins here (magic %d)", magic)
	}
	n := int32(binary.BigEndian.Uint32(header[8:]))
	if n < protocol.BatchHeaderLen-12 {
		return 0, fmt.Errorf("no batch begins here (length %d)", n)
	}
	if delta := protocol.Batch(header).LastOffsetDelta(); delta < 0 {
		return 0, fmt.Errorf("no batch begins here (last offset delta %d)", delta)
	}
	return 12 + int64(n), nil
}

// batchReader reads whole batches, checking their CRCs.
type batchReader struct {
	file            io.ReaderAt
	position, limit int64
	buf             []byte
	from            int64 // buf is what the file has at from
}

// next returns the batch at the current position and moves behind it; io.EOF at the limit. A *damage error says what is wrong there.
// The batch is valid until the next call.
func (r *batchReader) next() (protocol.Batch, error) {
	if r.position >= r.limit {
		return nil, io.EOF
	}
	if err := r.need(protocol.BatchHeaderLen); err != nil {
		return nil, err
	}
	size, err := batchSize(r.buf[r.position-r.from:][:protocol.BatchHeaderLen])
	if err != nil {
		return nil, &damage{r.position, err.Error()}
	}
	if err := r.need(size); err != nil {
		return nil, err
	}
	b := protocol.Batch(r.buf[r.position-r.from:][:size])
	if err := b.CheckCRC(); err != nil {
		return nil, &damage{r.position, err.Error()}
	}
	r.position += size
	return b, nil
}

// need makes n bytes at the position available in buf.
func (r *batchReader) need(n int64) error {
	if r.position+n > r.limit {
		return &damage{r.position, fmt.Sprintf("a batch is cut off: %d bytes wanted, %d there", n, r.limit-r.position)}
	}
	if r.position >= r.from && r.position+n <= r.from+int64(len(r.buf)) {
		return nil
	}
	want := min(max(n, 256<<10), r.limit-r.position)
	if int64(cap(r.buf)) < want {
		r.buf = make([]byte, want)
	}
	r.buf = r.buf[:want]
	got, err := r.file.ReadAt(r.buf, r.position)
	r.from, r.buf = r.position, r.buf[:got]
	if int64(got) >= n {
		return nil
	}
	if err == io.EOF {
		return &damage{r.position, "the file is shorter than it was"}
	}
	return fmt.Errorf("read: %w", err)
}

// ScanSegment reads a .log file from its start, checks every batch (length, magic, CRC, offsets that follow each other), and calls visit with
// it and the byte position where it begins. It returns where the valid front ends. An error of visit ends the scan and is returned;
// damage is a *CorruptionError. The batch is only valid during the call.
func ScanSegment(path string, visit func(position int64, b protocol.Batch) error) (valid int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	next := int64(-1)
	r := &batchReader{file: f, limit: info.Size()}
	for {
		at := r.position
		b, err := r.next()
		if err == io.EOF {
			return at, nil
		}
		if err == nil && next >= 0 && b.BaseOffset() < next {
			err = &damage{at, fmt.Sprintf("offset %d after %d", b.BaseOffset(), next-1)}
		}
		if err != nil {
			var d *damage
			if errors.As(err, &d) {
				err = &CorruptionError{Dir: filepath.Dir(path), File: filepath.Base(path), Offset: d.position, Reason: d.reason}
			}
			return at, err
		}
		if err := visit(at, b); err != nil {
			return at, err
		}
		next = b.LastOffset() + 1
	}
}
