package broker

import "sync"

const (
	// smallFrame is the capacity, in bytes, up to which buffers of frames serve
	// requests of every length.
	smallFrame = 4 << 20

	// frameUnit is the step in the capacity of larger buffers, which serve
	// requests of about their length: one for a large request does not end up
	// with a connection that sends small ones slowly.
	frameUnit = 1 << 20

	// maxPooledFrame is the largest capacity of a buffer that is kept for reuse.
	maxPooledFrame = 64 << 20

	// frameSlack is how much larger, in units, a buffer may be than a request
	// needs.
	frameSlack = 4
)

// frameBuffers lends buffers for Produce frames. They go back as soon as the
// batches are appended, long before the acknowledgement leaves. What nobody
// uses falls to the garbage collector.
type frameBuffers struct {
	small sync.Pool                               // of *[]byte
	large [maxPooledFrame/frameUnit + 1]sync.Pool // of *[]byte, by their capacity in units
}

// get lends a buffer for a request of length bytes. It may be too short for it,
// also empty: room is made as the bytes arrive, see protocol.ReadFrame.
func (f *frameBuffers) get(length int) *[]byte {
	if length > smallFrame {
		units := (length + frameUnit - 1) / frameUnit
		for n := units; n < min(units+frameSlack, len(f.large)); n++ {
			if buf, ok := f.large[n].Get().(*[]byte); ok {
				return buf
			}
		}
	}
	if buf, ok := f.small.Get().(*[]byte); ok {
		return buf
	}
	return new([]byte)
}

// put takes a buffer back.
func (f *frameBuffers) put(buf *[]byte) {
	switch n := cap(*buf); {
	case n <= smallFrame:
		f.small.Put(buf)
	case n <= maxPooledFrame:
		f.large[n/frameUnit].Put(buf)
	}
}
