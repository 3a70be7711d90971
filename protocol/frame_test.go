package protocol

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"testing"
	"testing/iotest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func frameOf(body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}

// allocated returns how many bytes f allocates, freed or not.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestReadFrameLengths(t *testing.T) {
	const limit = 300_000
	var lengths []int
	for _, n := range []int{0, 1, 4, 512, frameStep, 2 * frameStep, 4 * frameStep, limit} {
		lengths = append(lengths, n-1, n, n+1)
	}
	for _, n := range lengths {
		if n < 0 || n > limit {
			continue
		}
		body := pattern(n)
		for _, cap := range []int{0, 3, 4, n - 1, n, n + 1, 2 * limit} {
			if cap < 0 {
				continue
			}
			for name, r := range map[string]io.Reader{
				"whole":  bytes.NewReader(append(frameOf(body), "next"...)),
				"halves": iotest.HalfReader(bytes.NewReader(append(frameOf(body), "next"...))),
			} {
				got, err := ReadFrame(r, make([]byte, 0, cap), limit)
				if err != nil {
					t.Fatalf("%d bytes, buffer of %d, %s: %v", n, cap, name, err)
				}
				if !bytes.Equal(got, body) {
					t.Fatalf("%d bytes, buffer of %d, %s: other bytes came back", n, cap, name)
				}
				if rest, _ := io.ReadAll(r); string(rest) != "next" {
					t.Fatalf("%d bytes, buffer of %d, %s: %q is left, not the next frame", n, cap, name, rest)
				}
			}
		}
	}
}

func TestReadFrameReusesTheBuffer(t *testing.T) {
	buf := make([]byte, 1<<20)
	got, err := ReadFrame(bytes.NewReader(frameOf(pattern(1<<20))), buf, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if &got[0] != &buf[0] {
		t.Fatal("a buffer that is large enough was not used")
	}
}

func TestReadFrameErrors(t *testing.T) {
	whole := frameOf(pattern(100_000))
	boom := errors.New("boom")
	for _, c := range []struct {
		name string
		r    io.Reader
		want error
	}{
		{"nothing", bytes.NewReader(nil), io.EOF},
		{"one byte of the length", bytes.NewReader(whole[:1]), io.ErrUnexpectedEOF},
		{"three bytes of the length", bytes.NewReader(whole[:3]), io.ErrUnexpectedEOF},
		{"the length", bytes.NewReader(whole[:4]), io.ErrUnexpectedEOF},
		{"all but a byte", bytes.NewReader(whole[:len(whole)-1]), io.ErrUnexpectedEOF},
		{"a step of the body", bytes.NewReader(whole[:4+frameStep]), io.ErrUnexpectedEOF},
		{"a broken connection", io.MultiReader(bytes.NewReader(whole[:50]), iotest.ErrReader(boom)), boom},
	} {
		if _, err := ReadFrame(c.r, nil, 1<<20); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	for _, n := range []uint32{1<<20 + 1, 1<<31 - 1, 1 << 31, 1<<32 - 1, 0x47455420 /* "GET " */} {
		r := bytes.NewReader(binary.BigEndian.AppendUint32(nil, n))
		var fe *FrameError
		got := allocated(func() {
			if _, err := ReadFrame(r, nil, 1<<20); !errors.As(err, &fe) || fe.Length != int32(n) || fe.Max != 1<<20 {
				t.Errorf("length %d: %v", int32(n), err)
			}
		})
		if got > 64<<10 {
			t.Errorf("length %d: %d bytes allocated", int32(n), got)
		}
	}
}

func TestReadFrameAllocatesWhatArrives(t *testing.T) {
	const announced = 100 << 20
	for _, arrived := range []int{0, 1, frameStep + 1, 1 << 20} {
		r := io.MultiReader(bytes.NewReader(binary.BigEndian.AppendUint32(nil, announced)), bytes.NewReader(make([]byte, arrived)))
		got := allocated(func() {
			if _, err := ReadFrame(r, nil, announced); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%d bytes: %v", arrived, err)
			}
		})
		if most := uint64(4*arrived + 3*frameStep); got > most {
			t.Errorf("%d of %d bytes arrived: %d allocated, more than %d", arrived, announced, got, most)
		}
	}
}

func FuzzFrame(f *testing.F) {
	f.Add([]byte{}, 10, 0)
	f.Add(frameOf(nil), 0, 4)
	f.Add(frameOf([]byte("hello")), 5, 3)
	f.Add(append(frameOf(pattern(600)), frameOf(pattern(3))...), 1000, 600)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1, 2}, 1<<20, 0)
	f.Add([]byte{0, 0x10, 0, 0, 1, 2}, 1<<20, 8)
	f.Fuzz(func(t *testing.T, stream []byte, limit, room int) {
		limit, room = limit&(1<<20-1), room&0xffff
		r := bytes.NewReader(stream)
		for {
			at := len(stream) - r.Len()
			body, err := ReadFrame(r, make([]byte, 0, room), limit)
			if err == nil {
				// Law: a frame that was read is what was written.
				if len(body) > limit || !bytes.HasPrefix(stream[at:], frameOf(body)) {
					t.Fatalf("at %d: %d bytes that are not there", at, len(body))
				}
				continue
			}
			rest := stream[at:]
			var fe *FrameError
			switch {
			case errors.Is(err, io.EOF):
				if len(rest) != 0 {
					t.Fatalf("a clean end with %d bytes left", len(rest))
				}
			case errors.As(err, &fe):
				if n := int32(binary.BigEndian.Uint32(rest)); n != fe.Length || (n >= 0 && int(n) <= limit) {
					t.Fatalf("length %d refused, limit %d", n, limit)
				}
			case errors.Is(err, io.ErrUnexpectedEOF):
				if len(rest) >= 4 && int(int32(binary.BigEndian.Uint32(rest))) <= len(rest)-4 {
					t.Fatal("a whole frame was called cut")
				}
			default:
				t.Fatal(err)
			}
			return
		}
	})
}
