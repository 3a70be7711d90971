package broker

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	// defaultHoldTimeout is how long a connection may take to send a request's body
	// while others wait for memory. It then loses its turn: the connection
	// is closed.
	defaultHoldTimeout = 30 * time.Second

	// holdCheck is how often a connection that waits for the rest of a body
	// looks whether others wait.
	holdCheck = time.Second
)

// inFlight bounds the bytes of requests, of all connections together, that
// are being read or handled. A connection takes a request's whole length
// before it makes room for the body, so it never waits while it holds a part;
// who comes first is served first. A request longer than the bound is let in
// when it is alone.
type inFlight struct {
	limit    int64
	sem      *semaphore.Weighted
	used     atomic.Int64 // for tests and metrics
	waiting  atomic.Int32
	patience time.Duration
}

func newInFlight(limit int64, patience time.Duration) *inFlight {
	return &inFlight{limit: limit, sem: semaphore.NewWeighted(limit), patience: patience}
}

// lease is a part of the bound that one request holds. A nil or zero lease
// holds nothing. It is used by one goroutine at a time.
type lease struct {
	from  *inFlight
	n     int64
	since time.Time
}

// take waits until n bytes are free, behind those who waited before. It fails
// when ctx ends, with its error.
func (f *inFlight) take(ctx context.Context, n int64) (lease, error) {
	n = min(n, f.limit)
	if !f.sem.TryAcquire(n) {
		f.waiting.Add(1)
		err := f.sem.Acquire(ctx, n)
		f.waiting.Add(-1)
		if err != nil {
			return lease{}, err
		}
	}
	f.used.Add(n)
	return lease{f, n, time.Now()}, nil
}

// release gives the bytes back. Releasing again does nothing.
func (l *lease) release() {
	if l != nil && l.n > 0 {
		l.from.used.Add(-l.n)
		l.from.sem.Release(l.n)
		l.n = 0
	}
}

// overdue says that the bytes are held for too long while others wait.
func (l *lease) overdue(now time.Time) bool {
	return l != nil && l.n > 0 && now.Sub(l.since) > l.from.patience && l.from.waiting.Load() > 0
}
