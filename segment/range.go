package segment

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// Range is a part of a segment's file: whole batches. It keeps the file alive until it is released, even if the log is deleted meanwhile.
// It may be used by one goroutine at a time.
type Range struct {
	// HighWatermark and StartOffset are the log's at the time of the read.
	HighWatermark, StartOffset int64

	log         *Log
	seg         *segment
	h           *handle
	position, n int64
}

// Len returns the length in bytes.
func (r *Range) Len() int64 { return r.n }

// File returns the file and the position in it where the range begins, for sendfile(2) with an explicit offset; nil when the range is
// empty. The file is shared: nobody may use or move its own position, write to it, or close it.
func (r *Range) File() (*os.File, int64) {
	if r.n == 0 {
		return nil, 0
	}
	return r.h.file, r.position
}

// ReadAt reads at a position relative to the beginning of the range, as io.ReaderAt says.
func (r *Range) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d, before the range", off)
	}
	if off >= r.n {
		return 0, io.EOF
	}
	short := int64(len(p)) > r.n-off
	if short {
		p = p[:r.n-off]
	}
	n, err := r.h.file.ReadAt(p, r.position+off)
	if err == io.EOF && n < len(p) {
		err = r.log.corruption(r.seg.base, &damage{r.position + off + int64(n), "the file is shorter than it was"})
	} else if err == nil && short {
		err = io.EOF
	}
	return n, err
}

const copyBufferLen = 256 << 10

var copyBuffers = sync.Pool{New: func() any { return new([copyBufferLen]byte) }}

// WriteTo writes the whole range to w.
func (r *Range) WriteTo(w io.Writer) (int64, error) {
	buf := copyBuffers.Get().(*[copyBufferLen]byte)
	defer copyBuffers.Put(buf)
	var done int64
	for done < r.n {
		n, err := r.ReadAt(buf[:], done)
		if err != nil && err != io.EOF {
			return done, err
		}
		m, err := w.Write(buf[:n])
		done += int64(m)
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// Release gives the file free. The range is empty afterwards; releasing it again does nothing.
func (r *Range) Release() error {
	if r.seg == nil {
		return nil
	}
	r.log.mu.Lock()
	r.seg.readers--
	if r.seg.readers == 0 && r.seg.drained != nil {
		close(r.seg.drained)
		r.seg.drained = nil
	}
	var pinned *handle
	if r.seg.readers == 0 && r.seg.retired {
		pinned, r.seg.pinned = r.seg.pinned, nil
		delete(r.log.retired, r.seg)
	}
	r.log.mu.Unlock()
	h := r.h
	r.seg, r.h, r.n = nil, nil, 0
	var err error
	if h != nil {
		err = h.release()
	}
	if pinned != nil {
		err = errors.Join(err, pinned.release())
	}
	return err
}
