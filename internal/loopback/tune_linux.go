package loopback

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// preferred is in every kernel, and every process may choose it.
const preferred = "reno"

func tune(nc *net.TCPConn) (tuned bool, err error) {
	raw, err := nc.SyscallConn()
	if err != nil {
		return false, err
	}
	var optErr error
	err = raw.Control(func(fd uintptr) {
		var now string
		now, optErr = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
		if optErr != nil || now != "bbr" {
			return
		}
		optErr = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, preferred)
		tuned = optErr == nil
	})
	if err == nil && optErr != nil {
		err = fmt.Errorf("set the congestion control of %s to %s: %w", nc.LocalAddr(), preferred, optErr)
	}
	return tuned, err
}
