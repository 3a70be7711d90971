package cmd_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// The original utility's file with realtimeflag is all that both ends need.
func TestRealtimeOfTheOriginal(t *testing.T) {
	b := startBroker(t)
	dir := t.TempDir()
	config, source, inbox := filepath.Join(dir, "transfer.yml"), filepath.Join(dir, "app.log"), filepath.Join(dir, "in")
	write(t, config, fmt.Sprintf("transfer:\n  destinationfolder: %s\n  sourcefilepath: %s\n  sourcefilename: app.log\n  realtimeflag: true\n", inbox, dir))
	write(t, source, "one ")
	commands.Start(t, nil, "mft-consume", "-c", config, "-b", b.Addr)
	p := commands.Start(t, nil, "mft-produce", "-c", config, "-b", b.Addr, "--state", "none")
	mirror := filepath.Join(inbox, "app.log")
	awaitEqual(t, mirror, []byte("one "), p.Stderr.String)
	write(t, source, "one two ")
	awaitEqual(t, mirror, []byte("one two "), p.Stderr.String)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Two directories of one group: when the receiver of one is killed for good,
// the other one makes the mirror from its beginning.
func TestRealtimeTakenOver(t *testing.T) {
	b := startBroker(t)
	source := filepath.Join(t.TempDir(), "app.log")
	write(t, source, "one ")
	p := commands.Start(t, nil, "mft-produce", "-b", b.Addr, "-t", "mirror", "--realtime", "--state", t.TempDir(), source)
	consume := func(dir string) func() {
		c := commands.Start(t, nil, "mft-consume", "-b", b.Addr, "-t", "mirror", "--dir", dir, "-g", "both")
		return c.KillNow
	}
	first, second := t.TempDir(), t.TempDir()
	kill := consume(first)
	awaitEqual(t, filepath.Join(first, "app.log"), []byte("one "), p.Stderr.String)
	consume(second)
	kill()
	write(t, source, "one two ")
	awaitEqual(t, filepath.Join(second, "app.log"), []byte("one two "), p.Stderr.String)
}

// TestRealtimeLatency measures how long a small append takes to be in the
// mirror, durable on the broker in between. It tells, and judges nothing.
func TestRealtimeLatency(t *testing.T) {
	b := startBroker(t)
	dir, state := t.TempDir(), t.TempDir()
	source, out := filepath.Join(dir, "app.log"), t.TempDir()
	write(t, source, "")
	p := commands.Start(t, nil, "mft-produce", "-b", b.Addr, "-t", "mirror", "--realtime", "--state", state, source)
	commands.Start(t, nil, "mft-consume", "-b", b.Addr, "-t", "mirror", "--dir", out)
	mirror := filepath.Join(out, "app.log")
	awaitEqual(t, mirror, nil, p.Stderr.String)

	from, err := os.OpenFile(source, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.Open(mirror)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	const samples = 300
	var took []time.Duration
	var text [100]byte
	for i := range samples {
		binary.BigEndian.PutUint64(text[:], uint64(i))
		began := time.Now()
		if _, err := from.Write(text[:]); err != nil {
			t.Fatal(err)
		}
		for at, deadline := int64(i)*100, began.Add(time.Minute); ; {
			var got [100]byte
			if n, _ := to.ReadAt(got[:], at); n == len(got) && got == text {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("append %d did not arrive\n%s", i, p.Stderr.String())
			}
			time.Sleep(50 * time.Microsecond)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("an append of 100 bytes is in the mirror after %v (median), %v (99 of 100), %v (worst of %d)",
		took[samples/2], took[samples*99/100], took[samples-1], samples)
}

func TestRealtimeUsage(t *testing.T) {
	for _, args := range [][]string{{"--realtime"}, {"--realtime", "--key", "k", "x"}, {"--realtime", "-f", "x"}} {
		p := commands.Start(t, nil, "mft-produce", append([]string{"-b", "127.0.0.1:1", "-t", "t"}, args...)...)
		if err := p.WaitFor(time.Minute); exitCode(err) != 2 {
			t.Errorf("%s: %v\n%s", strings.Join(args, " "), err, p.Stderr.String())
		}
	}
}
