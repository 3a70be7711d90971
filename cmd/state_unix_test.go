//go:build unix

package cmd_test

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mft/internal/commandtest"
)

// SIGUSR1 prints what is open, how far it is, and how it is with the broker.
func TestStateOnSignal(t *testing.T) {
	t.Parallel()
	broker := startBroker(t)
	dir := t.TempDir()
	commandtest.RandomFile(t, filepath.Join(dir, "out", "large file"), 20_000_000, 1)
	produce := commands.Start(t, nil, "mft-produce", "-b", broker.Addr, "-t", "state", "--limit-rate", "500kB", filepath.Join(dir, "out")+"/")
	ask(t, produce, "mft-produce: sent 0 of 1 file, ", "\n  large file: ", " of 20 MB (", " left\n",
		"\n  to topic state at "+broker.Addr+": connected, limited to 500 kB/s\n")
	consume := commands.Start(t, nil, "mft-consume", "-b", broker.Addr, "-t", "state", "--dir", filepath.Join(dir, "in"))
	ask(t, consume, "mft-consume: received 0 files, ", "\n  large file: ", " of 20 MB (", "\n  from topic state at "+broker.Addr+": connected\n")
	follow := commands.Start(t, nil, "mft-consume", "-b", broker.Addr, "-t", "other", "-f")
	ask(t, follow, "mft-consume: at work\n")
	broker.KillNow()
	ask(t, produce, broker.Addr+" is away for ")
	stopWell(t, consume)
}

// ask sends SIGUSR1 until the answer holds all texts.
func ask(t *testing.T, p *commandtest.Process, texts ...string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		select {
		case <-p.Done():
			t.Fatalf("it ended: %v\n%s", p.Err(), p.Stderr.String())
		case <-time.After(50 * time.Millisecond):
		}
		missing := ""
		all := p.Stderr.String()
		for _, text := range texts {
			if !strings.Contains(all, text) {
				missing = text
			}
		}
		if missing == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%q is missing in\n%s", missing, all)
		}
		if err := p.Process.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
	}
}
