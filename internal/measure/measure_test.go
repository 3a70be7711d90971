package measure

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// A call that takes long does not move the ones after it: they come at once, with the times they should have had.
func TestPaceChargesAStall(t *testing.T) {
	var due []time.Time
	err := Pace(t.Context(), 1000, 100, func(at time.Time) error {
		if time.Now().Before(at) {
			t.Errorf("call %d came before it was due", len(due))
		}
		if due = append(due, at); len(due) == 10 {
			time.Sleep(50 * time.Millisecond)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(due) != 100 {
		t.Fatalf("%d calls", len(due))
	}
	for i := range due {
		if got, want := due[i].Sub(due[0]), time.Duration(i)*time.Millisecond; got != want {
			t.Fatalf("call %d was due %v after the first, want %v", i, got, want)
		}
	}
}

func TestPaceEnds(t *testing.T) {
	broken := errors.New("broken")
	n := 0
	err := Pace(t.Context(), 1e6, 1e6, func(time.Time) error {
		if n++; n == 3 {
			return broken
		}
		return nil
	})
	if !errors.Is(err, broken) || n != 3 {
		t.Errorf("%v after %d calls", err, n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := Pace(ctx, 0.5, 2, func(time.Time) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a pace whose time is over ended with %v", err)
	}
}

func TestLatency(t *testing.T) {
	a, b := NewHistogram(), NewHistogram()
	for i := 1; i <= 1000; i++ {
		h := a
		if i%2 == 0 {
			h = b
		}
		if err := h.Add(time.Duration(i) * time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Add(time.Hour); err != nil { // out of range: counted, at the end of it
		t.Fatal(err)
	}
	a.Merge(b)
	l := a.Latency()
	near := func(got, want float64) bool { return got > 0.998*want && got < 1.002*want }
	if l.Count != 1001 || !near(l.Min, 1) || !near(l.P50, 501) || !near(l.P99, 991) || !near(l.Max, 600_000) {
		t.Errorf("%+v", l)
	}
}

func TestPayload(t *testing.T) {
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	const size = 100_000
	for _, random := range []bool{true, false} {
		p := Payload(size, random, 1)
		if len(p) != size || !bytes.Equal(p, Payload(size, random, 1)) || bytes.Equal(p, Payload(size, random, 2)) {
			t.Errorf("random %t: %d bytes, not what the seed draws", random, len(p))
		}
		if packed := len(encoder.EncodeAll(p, nil)); random != (packed >= size) {
			t.Errorf("random %t: compressed to %d", random, packed)
		}
	}
}
