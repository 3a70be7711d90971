package broker

import (
	"bytes"
	"encoding/binary"
	"testing"

	"mft/protocol"
)

// A buffer serves requests of about its length again, and a large one never
// those that are much smaller.
func TestFrameBuffers(t *testing.T) {
	var f frameBuffers
	read := func(buf *[]byte, length int) {
		frame := binary.BigEndian.AppendUint32(make([]byte, 0, length+4), uint32(length))
		body, err := protocol.ReadFrame(bytes.NewReader(frame[:length+4]), *buf, 1<<30)
		if err != nil || len(body) != length {
			t.Fatalf("%d bytes: %d, %v", length, len(body), err)
		}
		*buf = body[:0]
	}
	for _, length := range []int{0, 1, 100, frameUnit, smallFrame, smallFrame + 1, 16*frameUnit - 5, 16 * frameUnit, maxPooledFrame} {
		buf := f.get(length)
		read(buf, length)
		f.put(buf)
		if units := cap(*buf) / frameUnit; length > smallFrame && (units*frameUnit < length || units >= len(f.large)) {
			t.Errorf("a request of %d bytes leaves a buffer of %d", length, cap(*buf))
		}
		// sync.Pool may drop what it is given, and does so at random under the race detector.
		if again := f.get(length); again == buf && cap(*again) < length {
			t.Errorf("a request of %d bytes gets a buffer of %d again", length, cap(*again))
		}
	}
	large := f.get(20 * frameUnit)
	read(large, 20*frameUnit)
	for range 100 {
		f.put(large)
		for _, length := range []int{1, smallFrame, 10 * frameUnit, 21 * frameUnit} {
			if f.get(length) == large {
				t.Fatalf("a request of %d bytes gets a buffer of %d", length, cap(*large))
			}
		}
	}
	huge := make([]byte, 0, maxPooledFrame+1)
	f.put(&huge) // which is dropped
}
