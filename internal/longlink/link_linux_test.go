package longlink

import (
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newLink(t *testing.T, c Config) *Link {
	t.Helper()
	l, err := New(c)
	if err != nil {
		t.Skipf("no emulated link here: %v", err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// do is End.Do.
func do(t *testing.T, e *End, f func()) {
	t.Helper()
	if err := e.Do(f); err != nil {
		t.Fatal(err)
	}
}

// TestDelay echoes over TCP: every way takes the delay, and a namespace has a
// network of its own.
func TestDelay(t *testing.T) {
	const delay = 30 * time.Millisecond
	l := newLink(t, Config{Delay: delay, Congestion: "reno"})
	var listener net.Listener
	var err error
	do(t, l.Ends[0], func() { listener, err = net.Listen("tcp", "192.0.2.1:0") })
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	echoed := make(chan error, 1)
	go func() {
		nc, err := listener.Accept()
		if err != nil {
			echoed <- err
			return
		}
		defer nc.Close()
		b := make([]byte, 1)
		if _, err = nc.Read(b); err == nil {
			_, err = nc.Write(b)
		}
		echoed <- err
	}()
	var nc net.Conn
	began := time.Now()
	do(t, l.Ends[1], func() { nc, err = net.Dial("tcp", listener.Addr().String()) })
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if took := time.Since(began); took < 2*delay {
		t.Errorf("connecting took %v", took)
	}
	began = time.Now()
	b := make([]byte, 1)
	if _, err := nc.Write(b); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Read(b); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 2*delay {
		t.Errorf("an echo took %v", took)
	}
	if err := <-echoed; err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile("/proc/thread-self/net/dev"); err != nil || len(text) == 0 {
		t.Error(err)
	}
	if _, err := net.InterfaceByName("mft0"); err == nil {
		t.Error("the test's own namespace got the device")
	}
}
