package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// frameStep is how many bytes ReadFrame allocates before any byte of a body
// has arrived. From there the buffer at most doubles with what did arrive.
const frameStep = 64 << 10

// FrameError reports a frame whose announced length cannot be accepted. The
// stream is out of step after it: close the connection.
type FrameError struct {
	Length int32 // as announced, in bytes
	Max    int   // the most the reader accepts, in bytes
}

func (e *FrameError) Error() string {
	if e.Length < 0 {
		return fmt.Sprintf("frame announces a negative length (%d bytes): the peer does not speak Kafka's protocol", e.Length)
	}
	return fmt.Sprintf("frame announces %d bytes, more than the %d accepted: raise the limit or send smaller requests", e.Length, e.Max)
}

// ReadFrame reads one frame, a length and that many bytes, and returns the
// bytes without the length. max is the greatest length accepted, in bytes.
//
//	 0        4                4+length
//	+--------+----------------+
//	| length | body           |
//	| int32  |                |      big-endian
//	+--------+----------------+
//
// The body is read into buf's storage when that is large enough; otherwise a
// new buffer is grown along with the bytes that arrive, so that a peer which
// announces much and sends little costs little. The result may alias buf and
// is the caller's; pass it (or a larger one) again as buf to reuse it.
//
// Errors: io.EOF when r ended before the first byte of a frame, io.ErrUnexpectedEOF
// when it ended inside one, *FrameError for a length below 0 or above max
// (nothing has been allocated for the body), otherwise r's own.
func ReadFrame(r io.Reader, buf []byte, max int) ([]byte, error) {
	if cap(buf) < 4 {
		buf = make([]byte, 0, 512)
	}
	head := buf[:4]
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	length := int32(binary.BigEndian.Uint32(head))
	if length < 0 || int64(length) > int64(max) {
		return nil, &FrameError{Length: length, Max: max}
	}

	total := int(length)
	have := 0
	for {
		room := min(total, cap(buf))
		if _, err := io.ReadFull(r, buf[have:room]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		have = room
		if have == total {
			return buf[:total], nil
		}
		grown := make([]byte, have, min(wholeSize(total), grownSize(have)))
		copy(grown, buf[:have])
		buf = grown
	}
}

// wholeSize is the capacity of a buffer for a body of total bytes: a large one
// gets a round number, so that it fits the next one of about that length, too.
func wholeSize(total int) int {
	const step = 1 << 20
	if total <= step {
		return total
	}
	return (total + step - 1) / step * step
}

// grownSize is the next size of a frame buffer that holds have bytes.
func grownSize(have int) int {
	if have < frameStep/2 {
		return frameStep
	}
	return 2 * have
}
