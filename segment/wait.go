package segment

import (
	"context"
	"sync"
)

// waiter is one call of Wait: its channel receives a value once the high watermark has reached offset.
type waiter struct {
	offset int64
	c      chan struct{} // cap 1
}

var waiterPool = sync.Pool{New: func() any { return &waiter{c: make(chan struct{}, 1)} }}

// Wait returns when the high watermark is at or above offset. To wait for the ack of an append, pass its LastOffset + 1.
// It returns ErrClosed when the log is closed or deleted, the store's error when that has failed, or ctx's.
func (l *Log) Wait(ctx context.Context, offset int64) error {
	if l.highOffset.Load() >= offset {
		return nil
	}
	w := waiterPool.Get().(*waiter)
	w.offset = offset
	defer waiterPool.Put(w)

	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	if l.high.offset >= offset {
		l.mu.Unlock()
		return nil
	}
	l.waiters = append(l.waiters, w)
	l.mu.Unlock()

	var err error
	select {
	case <-w.c:
		return nil
	case <-l.done:
		err = ErrClosed
	case <-l.store.Failed():
		err = l.store.Err()
	case <-ctx.Done():
		err = ctx.Err()
	}
	if l.forget(w) {
		return nil // it happened at the same moment
	}
	return err
}

// forget takes w off the list; it reports whether w had been woken.
func (l *Log) forget(w *waiter) (woken bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, other := range l.waiters {
		if other == w {
			last := len(l.waiters) - 1
			l.waiters[i], l.waiters[last] = l.waiters[last], nil
			l.waiters = l.waiters[:last]
			return false
		}
	}
	<-w.c
	return true
}

// Waiter is told of moves of the high watermark of the logs that it watches.
type Waiter struct {
	// C receives a value, without blocking, at every move of a watched log's high watermark, and when a watched log is closed
	// or deleted. It has a capacity of one: several events may come as one value.
	C chan struct{}
}

// NewWaiter returns a Waiter that watches nothing yet.
func NewWaiter() *Waiter { return &Waiter{C: make(chan struct{}, 1)} }

func (w *Waiter) notify() {
	select {
	case w.C <- struct{}{}:
	default:
	}
}

// Watch lets w watch this log. Look at the log after calling it: moves before it are not told. A closed log notifies at once.
func (l *Log) Watch(w *Waiter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		w.notify()
		return
	}
	if l.watchers == nil {
		l.watchers = map[*Waiter]struct{}{}
	}
	l.watchers[w] = struct{}{}
}

// Unwatch ends what Watch began.
func (l *Log) Unwatch(w *Waiter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.watchers, w)
}

// wake tells everyone whom the present high watermark, or the end of the log, concerns. Log.mu is held.
func (l *Log) wake() {
	left := l.waiters[:0]
	for _, w := range l.waiters {
		if w.offset <= l.high.offset {
			w.c <- struct{}{}
		} else {
			left = append(left, w)
		}
	}
	clear(l.waiters[len(left):])
	l.waiters = left
	for w := range l.watchers {
		w.notify()
	}
}

// Closed reports whether the log was closed or deleted.
func (l *Log) Closed() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}
