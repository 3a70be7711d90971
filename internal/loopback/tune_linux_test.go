package loopback

import (
	"net"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

func congestion(t *testing.T, nc net.Conn) string {
	t.Helper()
	raw, err := nc.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var name string
	var optErr error
	if err := raw.Control(func(fd uintptr) {
		name, optErr = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	}); err != nil || optErr != nil {
		t.Fatal(err, optErr)
	}
	return name
}

func TestConnectionsWithinTheMachineAreNotPaced(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	nc, err := Dialer(zerolog.Nop())(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if name := congestion(t, nc); name == "bbr" {
		t.Errorf("a dialled connection is paced by %s", name)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	before := congestion(t, accepted)
	tuned, err := Tune(accepted)
	if err != nil {
		t.Fatal(err)
	}
	after := congestion(t, accepted)
	if tuned != (before == "bbr") || after == "bbr" || !tuned && after != before {
		t.Errorf("tuned %t: %s before, %s after", tuned, before, after)
	}
}

func TestOtherConnectionsAreLeftAlone(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if tuned, err := Tune(a); tuned || err != nil {
		t.Errorf("a pipe: tuned %t, %v", tuned, err)
	}
}
