package cmd_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mft/internal/commandtest"
)

// port is an address of a broker that counts what comes through it.
type port struct {
	net.Listener
	to   atomic.Value // string: the listener behind it
	in   atomic.Int64 // bytes to the broker
	out  atomic.Int64 // bytes from it
	open sync.WaitGroup
}

func newPort(t *testing.T) *port {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &port{Listener: ln}
	p.open.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			p.open.Go(func() { p.serve(nc) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		p.open.Wait() // the clients and the broker are gone
	})
	return p
}

func (p *port) serve(nc net.Conn) {
	defer nc.Close()
	behind, err := net.Dial("tcp", p.to.Load().(string))
	if err != nil {
		return // and so the client sees it
	}
	defer behind.Close()
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(counted{nc, &p.out}, behind)
		_ = nc.Close()
	})
	_, _ = io.Copy(counted{behind, &p.in}, nc)
	_ = behind.Close()
	back.Wait()
}

type counted struct {
	io.Writer
	n *atomic.Int64
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	c.n.Add(int64(n))
	return n, err
}

// startBrokerOnPorts starts a broker with a listener behind each of n ports.
func startBrokerOnPorts(t *testing.T, n int) []*port {
	t.Helper()
	ports := make([]*port, n)
	text := "broker:\n  listen:\n"
	for i := range ports {
		ports[i] = newPort(t)
		text += fmt.Sprintf("    - {address: '127.0.0.1:0', advertised: '%s'}\n", ports[i].Addr())
	}
	file := filepath.Join(t.TempDir(), "transfer.yml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	b := commands.Start(t, nil, "mft-broker", "-c", file, "--data", filepath.Join(t.TempDir(), "data"), "--log-format", "json")
	ctx := withDeadline(t, time.Minute)
	for i, at := 0, 0; i < n; {
		line, next, err := b.Stderr.Line(ctx, at)
		if err != nil {
			t.Fatalf("mft-broker does not listen: %v\n%s", err, b.Stderr.String())
		}
		at = next
		var event struct{ Addr, Message string }
		if json.Unmarshal([]byte(line), &event) == nil && event.Message == "listening" {
			ports[i].to.Store(event.Addr)
			i++
		}
	}
	return ports
}

// sentAndReceived sends source and compares what comes out.
func sentAndReceived(t *testing.T, source string, produce, consume []string) {
	t.Helper()
	out := t.TempDir()
	commands.Run(t, "mft-produce", append(produce, source+string(filepath.Separator))...)
	commands.Run(t, "mft-consume", append(consume, "--dir", out, "--once")...)
	commandtest.SameTree(t, source, out)
}

// TestStreamsUseAllPorts sends a large file, and many small ones, over four
// streams to a broker with two ports: each carries a good part of it.
func TestStreamsUseAllPorts(t *testing.T) {
	ports := startBrokerOnPorts(t, 2)
	brokers := ports[0].Addr().String() + "," + ports[1].Addr().String()
	const size = 48 << 20
	large, small := t.TempDir(), t.TempDir()
	commandtest.RandomFile(t, filepath.Join(large, "large"), size, 1)
	commandtest.RandomTree(t, small, 400, 256<<10, 2)
	for topic, source := range map[string]string{"large": large, "small": small} {
		var before [2][2]int64
		for i, p := range ports {
			before[i] = [2]int64{p.in.Load(), p.out.Load()}
		}
		sentAndReceived(t, source, []string{"-b", brokers, "-t", topic, "--streams", "4"}, []string{"-b", brokers, "-t", topic, "--streams", "4"})
		var in, out [2]int64
		for i, p := range ports {
			in[i], out[i] = p.in.Load()-before[i][0], p.out.Load()-before[i][1]
		}
		if min(in[0], in[1]) < max(in[0], in[1])/4 || min(out[0], out[1]) < max(out[0], out[1])/8 {
			t.Errorf("%s: the ports carried %d bytes to the broker, and %d from it", topic, in, out)
		}
	}
}

// TestStreamsGoRoundAPortThatIsDead has one of two ports refuse connections.
func TestStreamsGoRoundAPortThatIsDead(t *testing.T) {
	b := startBroker(t)
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	source := t.TempDir()
	commandtest.RandomFile(t, filepath.Join(source, "file"), 20<<20, 1)
	brokers := dead.Addr().String() + "," + b.Addr
	sentAndReceived(t, source, []string{"-b", brokers, "-t", "files", "--streams", "3"}, []string{"-b", brokers, "-t", "files", "--streams", "3"})
}

// TestStreamsEncrypted sends encrypted files whose chunks arrive in any order.
func TestStreamsEncrypted(t *testing.T) {
	b := startBroker(t)
	source, key := t.TempDir(), filepath.Join(t.TempDir(), "key")
	commands.Run(t, "mft-admin", "keygen", "-o", key)
	commandtest.RandomFile(t, filepath.Join(source, "large"), 40<<20, 1)
	commandtest.RandomTree(t, source, 50, 4<<20, 2)
	sentAndReceived(t, source, []string{"-b", b.Addr, "-t", "files", "--streams", "4", "--encrypt-key", key},
		[]string{"-b", b.Addr, "-t", "files", "--streams", "4", "--decrypt-key", key})
}

// TestStreamsSurviveKills kills broker, producer and consumer of a transfer
// over four streams, in turn.
func TestStreamsSurviveKills(t *testing.T) {
	source, out, data := t.TempDir(), t.TempDir(), t.TempDir()
	commandtest.RandomFile(t, filepath.Join(source, "large"), 200<<20, 1)
	commandtest.RandomTree(t, source, 200, 3<<20, 2)
	b := commands.StartBroker(t, data, "")
	addr := b.Addr
	produce := func() *commandtest.Process {
		return commands.Start(t, nil, "mft-produce", "-b", addr, "-t", "files", "--streams", "4", "--compress", "none", source+string(filepath.Separator))
	}
	consume := func(args ...string) *commandtest.Process {
		return commands.Start(t, nil, "mft-consume", append([]string{"-b", addr, "-t", "files", "--streams", "4", "--dir", out}, args...)...)
	}
	p, c := produce(), consume()
	for i := range 9 {
		if growBy(t, data, 20<<20, p) { // an event in the middle of the sending
			if err := p.Err(); err != nil {
				t.Fatalf("mft-produce: %v\n%s", err, p.Stderr.String())
			}
			p = produce()
		}
		switch i % 3 {
		case 0:
			b.KillNow()
			b = commands.StartBroker(t, data, addr)
		case 1:
			p.KillNow()
			p = produce()
		case 2:
			c.KillNow()
			c = consume()
		}
	}
	if err := p.WaitFor(3 * time.Minute); err != nil {
		t.Fatalf("mft-produce: %v\n%s", err, p.Stderr.String())
	}
	c.KillNow()
	last := consume("--once")
	if err := last.WaitFor(3 * time.Minute); err != nil && exitCode(err) != 3 { // 3: what killed producers left unfinished
		t.Fatalf("mft-consume: %v\n%s", err, last.Stderr.String())
	}
	commandtest.SameTree(t, source, out)
}

// growBy waits until a broker's directory has grown by n bytes, or p has ended,
// of which it returns true.
func growBy(t *testing.T, data string, n int64, p *commandtest.Process) bool {
	t.Helper()
	size := func() (sum int64) {
		logs, err := filepath.Glob(filepath.Join(data, "topics", "files-*", "*.log"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range logs {
			if info, err := os.Stat(path); err == nil {
				sum += info.Size()
			}
		}
		return sum
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for want := size() + n; ; {
		select {
		case <-p.Done():
			return true
		case <-tick.C:
			if size() >= want {
				return false
			}
		}
	}
}

func TestStreamsMistakes(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"--streams 33 x", "33 streams: use 1 to 32"},
		{"--streams=-1 x", "-1 streams: use 1 to 32"},
		{"--streams 4", "--streams does not apply to the standard input"},
		{"--streams 4 -f x", "--streams does not apply to the lines of a file"},
	} {
		p := commands.Start(t, nil, "mft-produce", append([]string{"-t", "x"}, strings.Fields(test.args)...)...)
		if err := p.WaitFor(time.Minute); exitCode(err) != 2 || !strings.Contains(p.Stderr.String(), test.want) {
			t.Errorf("%s: %v, %s", test.args, err, p.Stderr.String())
		}
	}
}
