package cmd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"mft/internal/commandtest"
)

// What is limited takes its time on both sides, and arrives. A second's
// --timeout does not end a sender whose limit lets a chunk take longer.
func TestLimitRate(t *testing.T) {
	t.Parallel()
	const size, rate = 1_500_000, 500_000
	broker := startBroker(t)
	dir := t.TempDir()
	commandtest.RandomFile(t, filepath.Join(dir, "out", "file"), size, 1)
	least := 1900 * time.Millisecond // of 3 s: what a burst and the sockets' buffers take at once is let through

	began := time.Now()
	commands.Run(t, "mft-produce", "-b", broker.Addr, "-t", "limited", "--limit-rate", fmt.Sprint(rate), "--timeout", "1s", filepath.Join(dir, "out")+"/")
	if took := time.Since(began); took < least {
		t.Errorf("sending %d bytes at %d a second took %v", size, rate, took)
	}
	began = time.Now()
	commands.Run(t, "mft-consume", "-b", broker.Addr, "-t", "limited", "--dir", filepath.Join(dir, "in"), "--once", "--limit-rate", "500kB")
	if took := time.Since(began); took < least {
		t.Errorf("receiving %d bytes at %d a second took %v", size, rate, took)
	}
	commandtest.SameTree(t, filepath.Join(dir, "out"), filepath.Join(dir, "in"))

	// A schedule of transfer.yml that holds all day, and a flag that lifts it.
	config := filepath.Join(dir, "transfer.yml")
	text := fmt.Sprintf(`transfers: [{name: limited, topic: scheduled, source: %q, limit: [{from: "00:00", to: "12:00", rate: 500kB}, {from: "12:00", to: "24:00", rate: 500kB}]}]`,
		filepath.Join(dir, "out"))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	commands.Run(t, "mft-produce", "-b", broker.Addr, "-c", config)
	took := time.Since(began)
	if took < least {
		t.Errorf("sending %d bytes with the schedule took %v", size, took)
	}
	began = time.Now()
	commands.Run(t, "mft-produce", "-b", broker.Addr, "-c", config, "--limit-rate", "0")
	if lifted := time.Since(began); lifted > took {
		t.Errorf("without the limit it took %v, with it %v", lifted, took)
	}
}
