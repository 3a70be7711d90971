package kafka

import (
	"context"
	"net"
	"sync"
	"time"
)

// writePiece is how much has to get through before a deadline, in bytes.
const writePiece = 256 << 10

// Patient has dial make connections whose deadlines are for progress: as long
// as bytes get through, the time that the client allows begins anew. The
// client allows some ten seconds for a whole request or answer, and over a
// slow way an answer of some megabytes takes longer; it would ask for it again,
// for ever.
func Patient(dial func(ctx context.Context, network, address string) (net.Conn, error)) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		nc, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &patientConn{Conn: nc, read: deadline{apply: nc.SetReadDeadline}, write: deadline{apply: nc.SetWriteDeadline}}, nil
	}
}

// patientConn is a connection that Patient has made.
type patientConn struct {
	net.Conn
	read, write deadline
}

func (c *patientConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.read.renew()
	}
	return n, err
}

func (c *patientConn) Write(b []byte) (n int, err error) {
	for {
		piece := b[n:min(len(b), n+writePiece)]
		wrote, err := c.Conn.Write(piece)
		n += wrote
		if err != nil || n == len(b) {
			return n, err
		}
		c.write.renew()
	}
}

func (c *patientConn) SetReadDeadline(t time.Time) error  { return c.read.set(t) }
func (c *patientConn) SetWriteDeadline(t time.Time) error { return c.write.set(t) }

func (c *patientConn) SetDeadline(t time.Time) error {
	if err := c.read.set(t); err != nil {
		return err
	}
	return c.write.set(t)
}

// deadline is one that moves on with progress.
type deadline struct {
	apply func(time.Time) error

	mu      sync.Mutex
	allowed time.Duration // 0: there is no deadline, or it has come
}

func (d *deadline) set(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.allowed = 0
	if !t.IsZero() {
		d.allowed = max(time.Until(t), 0) // one that is over is how the client interrupts
	}
	return d.apply(t)
}

// renew begins the time anew. An error would come of the next use as well.
func (d *deadline) renew() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.allowed > 0 {
		_ = d.apply(time.Now().Add(d.allowed))
	}
}
