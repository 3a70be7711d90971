package cmd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"mft/internal/commandtest"
)

// peak is the most memory that a process had resident (VmHWM), in bytes; 0 when
// it is gone.
func peak(pid int) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	number, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	kib, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return 0
	}
	return kib << 10
}

// runMeasured runs a command to its end and returns how long it took and what
// its memory came to.
func runMeasured(t *testing.T, name string, args ...string) (time.Duration, int64) {
	t.Helper()
	start := time.Now()
	p := commands.Start(t, nil, name, args...)
	var most int64
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for ended := false; !ended; {
		most = max(most, peak(p.Pid()))
		select {
		case <-p.Done():
			ended = true
		case <-tick.C:
		}
	}
	if err := p.Err(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, p.Stderr.String())
	}
	return time.Since(start), most
}

// number is what a variable says, or else what this test does by itself.
func number(t *testing.T, variable string, otherwise int64) int64 {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s: give a number", variable, text)
	}
	return n
}

// memory is what each process of a transfer came to, in bytes.
type memory struct{ broker, produce, consume int64 }

func (m memory) String() string {
	return fmt.Sprintf("broker %d, produce %d, consume %d MiB", m.broker>>20, m.produce>>20, m.consume>>20)
}

// transferMeasured sends and receives a tree, each with a fresh broker.
func transferMeasured(t *testing.T, source string) memory {
	t.Helper()
	b := startBroker(t)
	out := filepath.Join(t.TempDir(), "out")
	sent, produce := runMeasured(t, "mft-produce", "-b", b.Addr, "-t", "t", source+"/")
	received, consume := runMeasured(t, "mft-consume", "-b", b.Addr, "-t", "t", "--dir", out, "--once")
	m := memory{peak(b.Pid()), produce, consume}
	t.Logf("%s: sent in %v, received in %v; %v", filepath.Base(source), sent.Round(time.Millisecond), received.Round(time.Millisecond), m)
	if m.broker == 0 || m.produce == 0 || m.consume == 0 {
		t.Fatal("the memory of a process was not to be had")
	}
	commandtest.SameTree(t, source, out)
	return m
}

// Memory has a bound that does not depend on the number of files: neither
// names, nor directories, nor what is on its way pile up anywhere.
// MFT_TEST_FILES sends another number than 8,000.
func TestMemoryOfManyFiles(t *testing.T) {
	base := t.TempDir()
	many := number(t, "MFT_TEST_FILES", 8000)
	make := func(name string, files int64) string {
		dir := filepath.Join(base, name)
		for i := range files {
			path := filepath.Join(dir, fmt.Sprintf("d%d", i/1000), fmt.Sprintf("a file with a name of some length %d", i))
			if i%1000 == 0 {
				must(t, os.MkdirAll(filepath.Dir(path), 0o755))
			}
			must(t, os.WriteFile(path, fmt.Appendf(nil, "%d %s", i, strings.Repeat("content ", 64)), 0o644))
		}
		return dir
	}
	few := transferMeasured(t, make(fmt.Sprint(many/8, " files"), many/8))
	all := transferMeasured(t, make(fmt.Sprint(many, " files"), many))
	for _, c := range []struct {
		name            string
		few, all, bound int64 // MiB
	}{{"broker", few.broker >> 20, all.broker >> 20, 96}, {"produce", few.produce >> 20, all.produce >> 20, 224}, {"consume", few.consume >> 20, all.consume >> 20, 320}} {
		if c.all > c.bound {
			t.Errorf("%s: %d MiB for %d files, %d MiB for %d, which is beyond %d MiB", c.name, c.few, many/8, c.all, many, c.bound)
		}
	}
}

// A sparse file travels in the time and memory of what is in it.
// MFT_TEST_SPARSE_GIB makes it of another size than 2 GiB.
func TestMemoryOfOneLargeFile(t *testing.T) {
	size := number(t, "MFT_TEST_SPARSE_GIB", 2) << 30
	source := filepath.Join(t.TempDir(), "sparse")
	must(t, os.Mkdir(source, 0o755))
	file := filepath.Join(source, "large")
	sparseFile(t, file, size, [2]int64{size / 2, 4 << 20}, [2]int64{size - 5, 5})
	if allocated(t, file) > 64<<20 {
		t.Skip("the file system makes no holes")
	}
	b := startBroker(t)
	out := filepath.Join(t.TempDir(), "out")
	sent, produce := runMeasured(t, "mft-produce", "-b", b.Addr, "-t", "t", source+"/")
	received, consume := runMeasured(t, "mft-consume", "-b", b.Addr, "-t", "t", "--dir", out, "--once")
	m := memory{peak(b.Pid()), produce, consume}
	t.Logf("%d GiB: sent in %v, received in %v; %v", size>>30, sent.Round(time.Millisecond), received.Round(time.Millisecond), m)
	if m.broker > 96<<20 || m.produce > 224<<20 || m.consume > 224<<20 {
		t.Errorf("%v", m)
	}
	info, err := os.Stat(filepath.Join(out, "large"))
	if err != nil || info.Size() != size {
		t.Fatalf("%v, %v", info, err)
	}
	if got := allocated(t, filepath.Join(out, "large")); got > 64<<20 {
		t.Errorf("it takes %d bytes of the disk", got)
	}
	for _, at := range []int64{0, size/2 - 10, size/2 + 4<<20 - 10, size - 20} { // all of it is covered by its digest
		want, got := make([]byte, 20), make([]byte, 20)
		for path, buf := range map[string][]byte{file: want, filepath.Join(out, "large"): got} {
			f, err := os.Open(path)
			must(t, err)
			_, err = f.ReadAt(buf, at)
			must(t, err, f.Close())
		}
		if string(want) != string(got) {
			t.Errorf("at %d: %q, want %q", at, got, want)
		}
	}
}
