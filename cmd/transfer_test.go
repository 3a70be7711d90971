package cmd_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mft/internal/commandtest"
)

// transfer sends what is in source through a broker and compares what comes
// out at the other end.
func transfer(t *testing.T, b *commandtest.Broker, source string) {
	t.Helper()
	out := t.TempDir()
	start := time.Now()
	commands.Run(t, "mft-produce", "-b", b.Addr, "-t", "files", source+string(filepath.Separator))
	sent := time.Since(start)
	commands.Run(t, "mft-consume", "-b", b.Addr, "-t", "files", "--dir", out, "--once")
	t.Logf("sent in %v, received in %v", sent.Round(time.Millisecond), (time.Since(start) - sent).Round(time.Millisecond))
	commandtest.SameTree(t, source, out)
}

func TestTransferOneGiB(t *testing.T) {
	size := int64(1 << 30)
	if testing.Short() {
		size = 64 << 20
	}
	source := t.TempDir()
	commandtest.RandomFile(t, filepath.Join(source, "big.bin"), size, 1)
	transfer(t, startBroker(t), source)
}

func TestTransferTenThousandFiles(t *testing.T) {
	source := t.TempDir()
	for i := range 10_000 {
		commandtest.RandomFile(t, filepath.Join(source, "d"+string(rune('a'+i%26)), "f"+strings.Repeat("x", i%5)+string(rune('a'+i/26%26))+string(rune('a'+i/676))), 10<<10, uint64(i))
	}
	transfer(t, startBroker(t), source)
}

func TestTransferSourceTree(t *testing.T) {
	source := t.TempDir()
	if err := os.CopyFS(source, os.DirFS("..")); err != nil {
		t.Fatal(err)
	}
	transfer(t, startBroker(t, "--partitions", "4"), source)
}
