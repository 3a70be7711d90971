// Package loopback makes TCP connections within one machine fast.
//
// Some kernels default to the congestion control BBR, which paces what it
// sends. Between machines that is a virtue. On the loopback interface, where
// there is no queue to keep short, it costs half of the throughput or more,
// and a process may choose another algorithm for its own sockets. Each end
// decides only on what it sends itself.
package loopback

import (
	"context"
	"net"
	"time"

	"github.com/rs/zerolog"
)

// dialTimeout bounds one attempt to connect.
const dialTimeout = 10 * time.Second

// Tune chooses a congestion control that does not pace for nc, when nc is a
// TCP connection within this machine that would be paced, and leaves every
// other connection alone. tuned says that it did. After an error nc works, as
// slowly as before. Where the operating system is not Linux it does nothing.
func Tune(nc net.Conn) (tuned bool, err error) {
	tcp, ok := nc.(*net.TCPConn)
	if !ok || !within(tcp) {
		return false, nil
	}
	return tune(tcp)
}

// within says that both ends of a connection are on this machine: such
// packets take the loopback interface, whatever the address.
func within(nc *net.TCPConn) bool {
	local, ok := nc.LocalAddr().(*net.TCPAddr)
	if !ok {
		return false
	}
	remote, ok := nc.RemoteAddr().(*net.TCPAddr)
	return ok && (remote.IP.IsLoopback() || remote.IP.Equal(local.IP))
}

// Dialer returns a function that connects, for kgo.Dialer, and tunes what it
// connected. What cannot be tuned is told to log, at level debug.
func Dialer(log zerolog.Logger) func(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		nc, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if _, err := Tune(nc); err != nil {
			log.Debug().Err(err).Str("addr", address).Msg("the connection keeps its congestion control")
		}
		return nc, nil
	}
}
