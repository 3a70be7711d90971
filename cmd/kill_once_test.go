package cmd_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"mft/internal/commandtest"
	"mft/internal/kafkatest"
)

// TestKilledReceiverPlacesOnce kills a receiver again and again, at random
// moments. Its
// command takes each file away to a name of its own: a file that is placed twice
// is there twice, one whose command is forgotten is not there.
func TestKilledReceiverPlacesOnce(t *testing.T) {
	t.Run("mft", func(t *testing.T) { killedReceiver(t, startBroker(t).Addr, 12) })
	t.Run("kafka", func(t *testing.T) { killedReceiver(t, kafkatest.Start(t, 1, nil).Brokers(), 6) })
}

func killedReceiver(t *testing.T, brokers string, kills int) {
	if runtime.GOOS == "windows" {
		t.Skip("the command of this test is a shell script")
	}
	const files = 400
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	source, dir, taken := t.TempDir(), t.TempDir(), t.TempDir()
	for i := range files {
		commandtest.RandomFile(t, filepath.Join(source, fmt.Sprintf("f%04d", i)), rng.Int64N(20<<10), uint64(i))
	}
	script := filepath.Join(t.TempDir(), "take")
	if err := os.WriteFile(script, []byte(`mv "$MFT_FILE" "$1/$MFT_FILE_NAME.$$" 2>/dev/null || true`), 0o600); err != nil {
		t.Fatal(err)
	}
	consume := func(args ...string) *commandtest.Process {
		return commands.Start(t, nil, "mft-consume", append([]string{"-b", brokers, "-t", "once", "--dir", dir, "-g", "g",
			"--exec-parallel", "2", "--exec", "sh " + script + " " + taken}, args...)...)
	}
	commands.Run(t, "mft-produce", "-b", brokers, "-t", "once", source+string(filepath.Separator))
	count := func() int {
		list, err := os.ReadDir(taken)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	for range kills {
		c := consume()
		deadline := time.Now().Add(2 * time.Minute)
		for moment := min(count()+1+rng.IntN(2*files/kills), files); count() < moment; {
			select {
			case <-time.After(time.Millisecond):
			case <-c.Done():
				t.Fatalf("mft-consume ended: %v\n%s", c.Err(), c.Stderr.String())
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d of %d files in two minutes\n%s", count(), files, c.Stderr.String())
			}
		}
		c.KillNow()
	}
	last := consume("--once")
	if err := last.WaitFor(3 * time.Minute); err != nil {
		t.Fatalf("mft-consume: %v\n%s", err, last.Stderr.String())
	}
	copies := make(map[string]int)
	list, err := os.ReadDir(taken)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range list {
		name, _, _ := strings.Cut(entry.Name(), ".")
		copies[name]++
		want, err := commandtest.Sum(filepath.Join(source, name))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := commandtest.Sum(filepath.Join(taken, entry.Name())); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", entry.Name(), got, err, want)
		}
	}
	for i := range files {
		if name := fmt.Sprintf("f%04d", i); copies[name] != 1 {
			t.Errorf("%s was placed, and taken away, %d times", name, copies[name])
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("not taken away: %q, %v", left, err)
	}
}
