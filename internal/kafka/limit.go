package kafka

import (
	"context"
	"net"
	"os"
	"sync"
	"time"
)

const (
	limitBurst    = 200 * time.Millisecond // worth of bytes that an idle connection may catch up with
	limitPieces   = 20                     // pieces a second that connections take turns with
	minLimitPiece = 1 << 10                // bytes
	maxLimitPiece = 64 << 10               // bytes
	limitRecheck  = time.Second            // a wait is broken off after this, for the rate may have changed
)

// Limiter holds the bytes that connections send and receive, together, to a
// rate. What counts is what goes over the wire: compressed, encrypted, with
// everything that the protocol adds, and sent again when it was lost. Answers
// to a sender and requests of a receiver, some bytes each, are counted too.
//
// One Limiter serves any number of clients, which then share the rate. A nil
// one limits nothing.
type Limiter struct {
	rate func(time.Time) int64 // bytes per second at that time; 0: unlimited

	mu   sync.Mutex
	free time.Time // when the line is free again for the next byte
	held time.Time // when bytes last passed that had to wait
}

// NewLimiter returns a Limiter that asks rate, again and again, how many bytes
// per second may pass at that time, 0 for any number.
func NewLimiter(rate func(time.Time) int64) *Limiter { return &Limiter{rate: rate} }

// Rate is what may pass now, in bytes per second; 0 is any number.
func (l *Limiter) Rate() int64 {
	if l == nil {
		return 0
	}
	return l.rate(time.Now())
}

// Held is when bytes last passed that had to wait for their turn: until then
// it was the limit that kept its clients from being faster. Zero: never.
func (l *Limiter) Held() time.Time {
	if l == nil {
		return time.Time{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held
}

// Dialer returns dial with the limit put on what it connects.
func (l *Limiter) Dialer(dial func(ctx context.Context, network, address string) (net.Conn, error)) func(ctx context.Context, network, address string) (net.Conn, error) {
	if l == nil {
		return dial
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		nc, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &limitedConn{Conn: nc, limit: l, closed: make(chan struct{}),
			read: newPatience(nc.SetReadDeadline), write: newPatience(nc.SetWriteDeadline)}, nil
	}
}

// piece is how much passes at a time at a rate, so that several connections
// take turns and a change of the rate is noticed.
func piece(rate int64) int {
	if rate <= 0 {
		return maxLimitPiece
	}
	return int(min(max(rate/limitPieces, minLimitPiece), maxLimitPiece))
}

// reserve takes the line for n bytes and returns how long to wait for it.
func (l *Limiter) reserve(now time.Time, rate int64, n int) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if rate <= 0 {
		l.free = now
		return 0
	}
	if earliest := now.Add(-limitBurst); l.free.Before(earliest) {
		l.free = earliest
	}
	l.free = l.free.Add(time.Duration(float64(n) / float64(rate) * float64(time.Second)))
	return l.free.Sub(now)
}

// wait takes the line for n bytes and waits for it, unless the connection is
// closed or its deadline is moved into the past.
func (l *Limiter) wait(n int, p *patience, closed <-chan struct{}) error {
	now := time.Now()
	left := l.reserve(now, l.rate(now), n)
	if left <= 0 {
		return nil
	}
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.held = time.Now()
	}()
	for left > 0 {
		timer := time.NewTimer(min(left, limitRecheck))
		select {
		case <-timer.C:
		case <-closed:
			timer.Stop()
			return net.ErrClosed
		case <-p.overdue():
			timer.Stop()
			return os.ErrDeadlineExceeded
		}
		if l.rate(time.Now()) <= 0 {
			return nil
		}
		left -= limitRecheck
	}
	return nil
}

// limitedConn is a connection whose bytes a Limiter holds to its rate. While it
// waits for the Limiter its deadlines stand still: they are for a peer that
// does not move, and it is not the peer that is slow.
type limitedConn struct {
	net.Conn
	limit       *Limiter
	read, write *patience
	once        sync.Once
	closed      chan struct{}
}

func (c *limitedConn) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		part := b[:min(len(b), piece(c.limit.Rate()))]
		if err := c.limit.wait(len(part), c.write, c.closed); err != nil {
			return n, err
		}
		if err := c.write.renew(); err != nil {
			return n, err
		}
		m, err := c.Conn.Write(part)
		n += m
		if err != nil {
			return n, err
		}
		b = b[m:]
	}
	return n, nil
}

func (c *limitedConn) Read(b []byte) (int, error) {
	if limit := piece(c.limit.Rate()); len(b) > limit {
		b = b[:limit]
	}
	n, err := c.Conn.Read(b)
	if n == 0 || err != nil {
		return n, err
	}
	// The bytes are here; the wait is for the next ones. One that is broken off
	// is noticed by the next read.
	if c.limit.wait(n, c.read, c.closed) == nil {
		err = c.read.renew()
	}
	return n, err
}

func (c *limitedConn) SetReadDeadline(t time.Time) error  { return c.read.set(t) }
func (c *limitedConn) SetWriteDeadline(t time.Time) error { return c.write.set(t) }

func (c *limitedConn) SetDeadline(t time.Time) error {
	if err := c.read.set(t); err != nil {
		return err
	}
	return c.write.set(t)
}

func (c *limitedConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// patience is a deadline that is kept as the time that was left when it was
// set, and begins anew whenever something has moved.
type patience struct {
	apply func(time.Time) error

	mu   sync.Mutex
	left time.Duration // 0: no deadline
	over chan struct{} // closed while the deadline was set into the past
}

func newPatience(apply func(time.Time) error) *patience {
	return &patience{apply: apply, over: make(chan struct{})}
}

func (p *patience) set(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	past := !t.IsZero() && time.Until(t) <= 0
	if p.isOver() && !past {
		p.over = make(chan struct{})
	} else if !p.isOver() && past {
		close(p.over)
	}
	if p.left = 0; !t.IsZero() && !past {
		p.left = time.Until(t)
	}
	return p.apply(t)
}

func (p *patience) isOver() bool {
	select {
	case <-p.over:
		return true
	default:
		return false
	}
}

// renew begins the time anew, unless it was ended.
func (p *patience) renew() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left <= 0 || p.isOver() {
		return nil
	}
	return p.apply(time.Now().Add(p.left))
}

func (p *patience) overdue() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.over
}
