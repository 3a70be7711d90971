package kafka

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// limitedPair connects two ends over TCP; the first one is limited.
func limitedPair(t *testing.T, l *Limiter) (limited, other net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var d net.Dialer
	limited, err = l.Dialer(d.DialContext)(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	other, err = listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(limited.Close(), other.Close()) })
	return limited, other
}

func constant(rate int64) func(time.Time) int64 { return func(time.Time) int64 { return rate } }

// What waits adds up to the rate, whoever takes turns, and a pause earns no
// more than the burst.
func TestLimiterReserves(t *testing.T) {
	const rate = 1 << 20
	l := NewLimiter(constant(rate))
	now := time.Unix(1000, 0)
	var wait time.Duration
	for range 10 * limitPieces {
		wait = l.reserve(now, rate, rate/limitPieces)
	}
	if want := 10*time.Second - limitBurst; (wait - want).Abs() > time.Millisecond {
		t.Errorf("10 s worth of bytes wait %v, want %v", wait, want)
	}
	now = now.Add(time.Hour)
	if wait = l.reserve(now, rate, rate); (wait - (time.Second - limitBurst)).Abs() > time.Millisecond {
		t.Errorf("after an hour of rest a second's worth waits %v", wait)
	}
	if wait = l.reserve(now, 0, 1<<30); wait != 0 {
		t.Errorf("without a limit: %v", wait)
	}
	if wait = l.reserve(now, rate, rate); wait > time.Second {
		t.Errorf("what went unlimited is not owed: %v", wait)
	}
}

// Bytes pass whole, in both directions, and not faster than the rate.
func TestLimitedConn(t *testing.T) {
	const rate, size = 4 << 20, 2 << 20
	data := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	limited, other := limitedPair(t, NewLimiter(constant(rate)))
	least := time.Duration(float64(size)/rate*float64(time.Second)) - limitBurst - 50*time.Millisecond

	// A deadline that is shorter than the whole, but not than its parts.
	if err := limited.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	sent := make(chan error, 1)
	go func() { _, err := limited.Write(data); sent <- err }()
	got := make([]byte, size)
	if _, err := io.ReadFull(other, got); err != nil {
		t.Fatal(err)
	}
	if err := <-sent; err != nil || !bytes.Equal(got, data) {
		t.Fatalf("written: %v, equal: %v", err, bytes.Equal(got, data))
	}
	if took := time.Since(began); took < least {
		t.Errorf("%d bytes at %d a second were written in %v, want at least %v", size, rate, took, least)
	}

	began = time.Now()
	go func() { _, err := other.Write(data); sent <- err }()
	clear(got)
	if _, err := io.ReadFull(limited, got); err != nil {
		t.Fatal(err)
	}
	if err := <-sent; err != nil || !bytes.Equal(got, data) {
		t.Fatalf("read: %v, equal: %v", err, bytes.Equal(got, data))
	}
	if took := time.Since(began); took < least {
		t.Errorf("%d bytes at %d a second were read in %v, want at least %v", size, rate, took, least)
	}
}

// A wait for the limit ends with the connection, with a deadline in the past
// (which is how a client breaks off), and when the limit is lifted.
func TestLimitedWaitEnds(t *testing.T) {
	for name, end := range map[string]struct {
		by   func(net.Conn, *atomic.Int64) error
		want error
	}{
		"closed":   {func(c net.Conn, _ *atomic.Int64) error { return c.Close() }, net.ErrClosed},
		"deadline": {func(c net.Conn, _ *atomic.Int64) error { return c.SetWriteDeadline(time.Now()) }, os.ErrDeadlineExceeded},
		"lifted":   {func(_ net.Conn, rate *atomic.Int64) error { rate.Store(0); return nil }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var rate atomic.Int64
			rate.Store(minLimitPiece)
			limited, other := limitedPair(t, NewLimiter(func(time.Time) int64 { return rate.Load() }))
			done := make(chan error, 1)
			go func() { _, err := limited.Write(make([]byte, 3600*minLimitPiece)); done <- err }() // an hour's worth
			if _, err := io.ReadFull(other, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			if end.want == nil {
				go func() { _, _ = io.Copy(io.Discard, other) }()
			}
			if err := end.by(limited, &rate); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-done:
				if !errors.Is(err, end.want) {
					t.Errorf("%v, want %v", err, end.want)
				}
			case <-time.After(time.Minute):
				t.Fatal("it still waits")
			}
		})
	}
}

func TestNoLimiter(t *testing.T) {
	var l *Limiter
	var d net.Dialer
	if l.Rate() != 0 {
		t.Error("a rate of no limiter")
	}
	if _, err := l.Dialer(d.DialContext)(context.Background(), "tcp", "127.0.0.1:1"); err == nil {
		t.Error("connected to nothing")
	}
}
