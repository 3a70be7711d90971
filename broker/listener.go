package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"
)

// listener is one bound address.
type listener struct {
	b  *Broker
	ln net.Listener
	// advertised host and port; port 0 means the connection's own.
	host string
	port int32
}

// listen binds one address.
func listen(b *Broker, l Listener) (*listener, error) {
	bound := &listener{b: b}
	if l.Advertised != "" {
		host, port, err := net.SplitHostPort(l.Advertised)
		if err != nil {
			return nil, fmt.Errorf("advertised address %q of listener %q: write it as host:port", l.Advertised, l.Addr)
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || host == "" {
			return nil, fmt.Errorf("advertised address %q of listener %q: needs a host and a port from 1 to 65535", l.Advertised, l.Addr)
		}
		bound.host, bound.port = host, int32(n)
	}
	network := "tcp"
	if host, _, err := net.SplitHostPort(l.Addr); err == nil && net.ParseIP(host).To4() != nil {
		network = "tcp4" // 0.0.0.0 is not [::]
	}
	ln, err := net.Listen(network, l.Addr)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w: choose another address with --listen", l.Addr, err)
	}
	bound.ln = ln
	if a, ok := ln.Addr().(*net.TCPAddr); ok && !a.IP.IsLoopback() {
		b.log.Warn().Stringer("addr", ln.Addr()).Msg("this listener is open to the network without authentication: anyone who reaches it can read and write every topic")
	}
	return bound, nil
}

// accept serves connections until the listener is closed; each runs in its
// own goroutine, counted in b.conns.
func (l *listener) accept(ctx context.Context) error {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		nc, err := l.ln.Accept()
		switch {
		case errors.Is(err, net.ErrClosed) && ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("listener %s closed: %w", l.ln.Addr(), err)
		case err != nil: // out of file descriptors, or the peer left already
			l.b.log.Warn().Err(err).Stringer("addr", l.ln.Addr()).Msg("cannot accept a connection: trying again shortly")
			pause.Reset(100 * time.Millisecond)
			select {
			case <-pause.C:
			case <-ctx.Done():
			}
			continue
		}
		if n := l.b.connCount.Add(1); n > int64(l.b.cfg.MaxConnections) {
			l.b.connCount.Add(-1)
			l.b.log.Warn().Stringer("peer", nc.RemoteAddr()).Int("limit", l.b.cfg.MaxConnections).Msg("too many connections: this one is closed")
			if err := nc.Close(); err != nil {
				l.b.log.Debug().Err(err).Msg("close a refused connection")
			}
			continue
		}
		l.b.conns.Go(func() {
			defer l.b.connCount.Add(-1)
			newConn(l, nc).serve(ctx)
		})
	}
}

// address is what a client on nc is told to connect to.
func (l *listener) address(nc net.Conn) (host string, port int32) {
	if l.port != 0 {
		return l.host, l.port
	}
	if a, ok := nc.LocalAddr().(*net.TCPAddr); ok {
		return a.IP.String(), int32(a.Port)
	}
	return "127.0.0.1", 0
}
