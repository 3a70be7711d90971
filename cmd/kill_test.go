package cmd_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mft/internal/commandtest"
)

// TestKillAnything kills broker, producer and consumer in turn, 50 times, at
// random moments of a transfer of many files. Each is started again as a user
// would, and at the end the directories are equal.
func TestKillAnything(t *testing.T) {
	const kills = 50
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	source, out, data := t.TempDir(), t.TempDir(), t.TempDir()
	commandtest.RandomTree(t, source, 1500, 64<<10, 1)

	b := commands.StartBroker(t, data, "")
	addr := b.Addr
	produce := func() *commandtest.Process {
		return commands.Start(t, nil, "mft-produce", "-b", addr, "-t", "files", source+string(filepath.Separator))
	}
	consume := func(args ...string) *commandtest.Process {
		return commands.Start(t, nil, "mft-consume", append([]string{"-b", addr, "-t", "files", "--dir", out}, args...)...)
	}
	p, c := produce(), consume()
	for i := range kills {
		wait := time.NewTimer(time.Duration(20+rng.IntN(300)) * time.Millisecond)
		select {
		case <-wait.C:
		case <-p.Done(): // sent it all: send it all again
			if err := p.Err(); err != nil {
				t.Fatalf("mft-produce: %v\n%s", err, p.Stderr.String())
			}
			p = produce()
			<-wait.C
		case <-c.Done():
			t.Fatalf("kill %d: mft-consume ended: %v\n%s", i, c.Err(), c.Stderr.String())
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
	if err := p.WaitFor(2 * time.Minute); err != nil {
		t.Fatalf("mft-produce: %v\n%s", err, p.Stderr.String())
	}
	c.KillNow()
	// What the killed producers left unfinished is reported, not waited for.
	last := consume("--once")
	if err := last.WaitFor(2 * time.Minute); err != nil && exitCode(err) != 3 {
		t.Fatalf("mft-consume: %v\n%s", err, last.Stderr.String())
	}
	commandtest.SameTree(t, source, out)
}

// TestKillBrokerUnderRecords sends numbered lines while the broker is killed
// again and again: every line arrives, once, in order.
func TestKillBrokerUnderRecords(t *testing.T) {
	const lines, kills = 20_000, 8
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	data := t.TempDir()
	b := commands.StartBroker(t, data, "")
	addr := b.Addr

	in, feed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := commands.Start(t, in, "mft-produce", "-b", addr, "-t", "lines")
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	var feeding sync.WaitGroup
	next := make(chan struct{})
	feeding.Go(func() {
		w := bufio.NewWriter(feed)
		for i := range lines {
			if _, err := fmt.Fprintln(w, i); err != nil {
				t.Error(err)
				break
			}
			if i%(lines/(kills+1)) == 0 && i > 0 {
				if err := w.Flush(); err != nil {
					t.Error(err)
				}
				next <- struct{}{}
			}
		}
		close(next)
		if err := w.Flush(); err != nil {
			t.Error(err)
		}
		if err := feed.Close(); err != nil {
			t.Error(err)
		}
	})
	for range next {
		time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond) // the random moment
		b.KillNow()
		b = commands.StartBroker(t, data, addr)
	}
	feeding.Wait()
	if err := p.WaitFor(2 * time.Minute); err != nil {
		t.Fatalf("mft-produce: %v\n%s", err, p.Stderr.String())
	}
	got := strings.Fields(commands.Run(t, "mft-consume", "-b", addr, "-t", "lines", "--from", "beginning"))
	want := make([]string, lines)
	for i := range want {
		want[i] = fmt.Sprint(i)
	}
	if !slices.Equal(got, want) {
		for i := range got {
			if i >= len(want) || got[i] != want[i] {
				t.Fatalf("%d lines instead of %d; line %d is %q", len(got), lines, i, got[i])
			}
		}
		t.Fatalf("%d lines instead of %d", len(got), lines)
	}
}
