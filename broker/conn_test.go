package broker

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"
)

// scriptedConn is a connection on which each Read returns the next of some errors,
// and a byte when there are none left. It counts write deadlines.
type scriptedConn struct {
	net.Conn
	reads     []error
	written   int
	deadlines int
}

func (s *scriptedConn) Read(p []byte) (int, error) {
	if len(s.reads) == 0 {
		return 1, nil
	}
	err := s.reads[0]
	s.reads = s.reads[1:]
	return 0, err
}

func (s *scriptedConn) Write(p []byte) (int, error)        { s.written += len(p); return len(p), nil }
func (s *scriptedConn) SetReadDeadline(time.Time) error    { return nil }
func (s *scriptedConn) SetWriteDeadline(t time.Time) error { s.deadlines++; return nil }

// A client that takes a long answer slowly is not idle: the read timeout
// counts from the last write, too, and the write timeout from each piece.
func TestSlowIsNotIdle(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	r := startBroker(t, func(c *Config) { c.IdleTimeout = time.Nanosecond })
	newScripted := func(reads ...error) (*conn, *scriptedConn) {
		s := &scriptedConn{Conn: server, reads: reads}
		c := newConn(r.listeners[0], s)
		c.ctx = t.Context()
		return c, s
	}
	late := os.ErrDeadlineExceeded

	c, _ := newScripted(late)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, late) {
		t.Errorf("nothing moves: %v", err)
	}
	c, s := newScripted(late, late)
	c.wrote.Store(time.Now().Add(time.Hour).UnixNano())
	if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil || len(s.reads) != 0 {
		t.Errorf("answers are being sent: %d, %v", n, err)
	}

	c, s = newScripted()
	if err := c.writeAll(make([]byte, 2*writePiece+1)); err != nil || s.written != 2*writePiece+1 || s.deadlines != 3 {
		t.Errorf("%d bytes written with %d deadlines, %v", s.written, s.deadlines, err)
	}
}
