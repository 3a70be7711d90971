package producer

import (
	"math/bits"
	"sync"
)

// bufferPool lends buffers for chunks: of whole powers of two from
// minBufferBytes up, so that many small files don't each hold a large one.
// How many are out is bounded by who borrows: a chunk on its way counts
// against the client's maxBufferedBytes, and each reader holds one besides.
type bufferPool struct {
	classes [maxBufferBits - minBufferBits + 1]sync.Pool // of *buffer
}

const (
	minBufferBits = 12 // 4 KiB
	maxBufferBits = 22 // 4 MiB
)

// buffer is borrowed memory; data may be cut to any length.
type buffer struct {
	data  []byte
	class int
}

// get lends a buffer of n bytes, at most 1<<maxBufferBits; put takes it back.
func (p *bufferPool) get(n int) *buffer {
	class := max(bits.Len(uint(max(n, 1)-1)), minBufferBits) - minBufferBits
	if b, ok := p.classes[class].Get().(*buffer); ok {
		b.data = b.data[:n]
		return b
	}
	return &buffer{data: make([]byte, n, 1<<(class+minBufferBits)), class: class}
}

func (p *bufferPool) put(b *buffer) { p.classes[b.class].Put(b) }
