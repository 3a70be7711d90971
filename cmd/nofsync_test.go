package cmd_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mft/internal/commandtest"
)

// TestNoFsync has strace count the syncs of a receiver: with --no-fsync they do not grow with what is received, and receipts say so.
func TestNoFsync(t *testing.T) {
	strace := straceOrSkip(t)
	source := t.TempDir()
	for i := range 60 {
		commandtest.RandomFile(t, filepath.Join(source, fmt.Sprintf("d%d", i%7), fmt.Sprintf("f%d", i)), 5000, uint64(i))
	}
	commandtest.RandomFile(t, filepath.Join(source, "large"), 3<<20, 100)
	b := startBroker(t)
	commands.Run(t, "mft-produce", "-b", b.Addr, "-t", "files", source+string(filepath.Separator))

	syncs := func(dir string, args ...string) int {
		t.Helper()
		log := filepath.Join(t.TempDir(), "trace")
		args = append([]string{"-f", "-o", log, "-e", "trace=fsync,fdatasync,syncfs,sync_file_range", commands.Path("mft-consume"),
			"-b", b.Addr, "-t", "files", "--dir", dir, "--once"}, args...)
		if out, err := exec.Command(strace, args...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		commandtest.SameTree(t, source, dir)
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(text), "sync")
	}
	durable, not := syncs(t.TempDir()), syncs(t.TempDir(), "--no-fsync")
	t.Logf("%d syncs, with --no-fsync %d", durable, not)
	if not > 4 || durable <= 4 { // of the work directory itself
		t.Errorf("%d syncs, with --no-fsync %d", durable, not)
	}
	receipts := commands.Run(t, "mft-consume", "-b", b.Addr, "-t", "files.receipts")
	if all, unsynced := strings.Count(receipts, `"state":"delivered"`), strings.Count(receipts, `"unsynced":true`); unsynced == 0 || all != 2*unsynced {
		t.Errorf("%d receipts, %d of them unsynced", all, unsynced)
	}
}
