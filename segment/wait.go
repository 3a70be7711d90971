package segment

import (
	"context"
	"slices"
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
	// or deleted. It has a capacity of one: several events may come as one value. Moved says which logs they were.
	C chan struct{}

	mu    sync.Mutex
	moved map[int]struct{} // keys
}

// watcher is a Waiter with the key by which it knows the log.
type watcher struct {
	w   *Waiter
	key int
}

// NewWaiter returns a Waiter that watches nothing yet.
func NewWaiter() *Waiter { return &Waiter{C: make(chan struct{}, 1), moved: map[int]struct{}{}} }

func (w *Waiter) notify(key int) {
	w.mu.Lock()
	w.moved[key] = struct{}{}
	w.mu.Unlock()
	select {
	case w.C <- struct{}{}:
	default:
	}
}

// Moved appends to keys those of the logs that have moved, or were closed, since it was called last, each once and in no order.
func (w *Waiter) Moved(keys []int) []int {
	w.mu.Lock()
	defer w.mu.Unlock()
	for key := range w.moved {
		keys = append(keys, key)
	}
	clear(w.moved)
	return keys
}

// Watch lets w watch this log, which it will know by key. Look at the log after calling it: moves before it are not told. A closed log
// notifies at once.
func (l *Log) Watch(w *Waiter, key int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		w.notify(key)
		return
	}
	l.watchers = append(l.watchers, watcher{w, key})
}

// Unwatch ends what Watch began, also when w watches this log by several keys.
func (l *Log) Unwatch(w *Waiter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watchers = slices.DeleteFunc(l.watchers, func(other watcher) bool { return other.w == w })
	if len(l.watchers) == 0 {
		l.watchers = nil
	}
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
	for _, watching := range l.watchers {
		watching.w.notify(watching.key)
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
