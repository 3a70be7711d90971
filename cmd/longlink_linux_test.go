package cmd_test

import (
	"path/filepath"
	"testing"
	"time"

	"mft/internal/commandtest"
	"mft/internal/longlink"
)

// longLink is a broker behind a link of 50 ms each way that loses one packet
// in a thousand. Its congestion control is Reno, which every namespace may
// choose and which CUBIC, most machines' default, is like under such losses:
// one connection gets half a megabyte a second.
type longLink struct {
	t         *testing.T
	near, far *longlink.End
	addr      string
}

func newLongLink(t *testing.T) *longLink {
	t.Helper()
	link, err := longlink.New(longlink.Config{Delay: 50 * time.Millisecond, Loss: 0.001, Seed: 1, Congestion: "reno"})
	if err != nil {
		t.Skipf("no emulated link here: %v", err)
	}
	t.Cleanup(func() {
		if err := link.Close(); err != nil {
			t.Error(err)
		}
	})
	l := &longLink{t: t, near: link.Ends[0], far: link.Ends[1], addr: link.Ends[1].Addr.String() + ":9999"}
	var b *commandtest.Broker
	if err := l.far.Do(func() { b = commands.BeginBroker(t, filepath.Join(t.TempDir(), "data"), l.addr) }); err != nil {
		t.Fatal(err)
	}
	if err := b.WaitServing(); err != nil {
		t.Fatal(err)
	}
	return l
}

// start starts a command at an end of the link.
func (l *longLink) start(at *longlink.End, name string, args ...string) (p *commandtest.Process) {
	l.t.Helper()
	if err := at.Do(func() { p = commands.Start(l.t, nil, name, append([]string{"-b", l.addr}, args...)...) }); err != nil {
		l.t.Fatal(err)
	}
	return p
}

// run runs a command at an end of the link to its end.
func (l *longLink) run(at *longlink.End, name string, args ...string) {
	l.t.Helper()
	p := l.start(at, name, args...)
	if err := p.WaitFor(5 * time.Minute); err != nil {
		l.t.Fatalf("%s: %v\n%s", name, err, p.Stderr.String())
	}
}

// rate runs a command for a while and returns the bytes a second that arrive
// at an end, once TCP has found out how fast it may be.
func (l *longLink) rate(at *longlink.End, name string, args ...string) float64 {
	l.t.Helper()
	p := l.start(l.near, name, args...)
	defer p.KillNow()
	wait := func(d time.Duration) {
		select {
		case <-time.After(d):
		case <-p.Done():
			l.t.Fatalf("%s ended too early: %v\n%s", name, p.Err(), p.Stderr.String())
		}
	}
	wait(3 * time.Second)
	began, before := time.Now(), at.Arrived()
	wait(5 * time.Second)
	return float64(at.Arrived()-before) / time.Since(began).Seconds()
}

// TestStreamsFillALongLink sends and receives one large file with one stream
// and with eight: eight carry at least four times as much. Both are measured in
// one run, and again should the machine have been busy with something else.
func TestStreamsFillALongLink(t *testing.T) {
	const aim = 4
	l := newLongLink(t)
	dir := t.TempDir()
	large, small := filepath.Join(dir, "large"), filepath.Join(dir, "small", "file")
	commandtest.RandomFile(t, large, 256<<20, 1)
	commandtest.RandomFile(t, small, 6<<20, 2)
	atLeast := func(what string, rate func(streams string) float64) {
		t.Helper()
		for range 3 {
			one, eight := rate("1"), rate("8")
			t.Logf("%s: one stream carries %.2f MB/s, eight carry %.2f MB/s: %.1f times as much", what, one/1e6, eight/1e6, eight/one)
			if eight >= aim*one {
				return
			}
		}
		t.Errorf("%s: eight streams do not carry %d times what one does", what, aim)
	}
	atLeast("sending", func(streams string) float64 {
		return l.rate(l.far, "mft-produce", "-t", "given-up", "--streams", streams, large)
	})
	l.run(l.far, "mft-produce", "-t", "there", large)
	atLeast("receiving", func(streams string) float64 {
		return l.rate(l.near, "mft-consume", "-t", "there", "--streams", streams, "--dir", t.TempDir())
	})
	l.run(l.near, "mft-produce", "-t", "small", "--streams", "8", small)
	out := t.TempDir()
	l.run(l.near, "mft-consume", "-t", "small", "--streams", "8", "--dir", out, "--once")
	commandtest.SameTree(t, filepath.Dir(small), out)
}
