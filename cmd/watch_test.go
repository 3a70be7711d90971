package cmd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mft/internal/commandtest"
)

// awaitFiles waits until a directory holds n regular files.
func awaitFiles(t *testing.T, dir string, n int, limit time.Duration) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		found := 0
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && !strings.Contains(path, ".mft-partial") {
				found++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if found == n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s holds %d files, want %d", dir, found, n)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// A directory is a queue between two processes: 10,000 small files dropped in
// go through and are gone, in about as many seconds as SendFiles would take.
func TestWatchManyFiles(t *testing.T) {
	const files = 10_000
	broker := startBroker(t)
	dir := t.TempDir()
	out, in, state := filepath.Join(dir, "out"), filepath.Join(dir, "in"), filepath.Join(dir, "state")
	if err := os.MkdirAll(out, 0o755); err != nil {
		t.Fatal(err)
	}
	consume := commands.Start(t, nil, "mft-consume", "-b", broker.Addr, "-t", "queue", "--dir", in, "--json")
	produce := commands.Start(t, nil, "mft-produce", "-b", broker.Addr, "-t", "queue", "--watch", "--settle", "300ms", "--after", "delete", "--state", state, "--json", out+"/")
	began := time.Now()
	commandtest.RandomTree(t, out, files-1, 1000, 1) // and one empty file
	dropped := time.Since(began)
	awaitFiles(t, in, files, 5*time.Minute)
	awaitFiles(t, out, 0, time.Minute)
	t.Logf("%d files written in %v, received %v after the first was", files, dropped, time.Since(began))
	stopWell(t, produce)
	stopWell(t, consume)
	if got := strings.Count(produce.Stdout.String(), `"event":"done"`); got != files {
		t.Errorf("%d files were sent, want %d", got, files)
	}
	ledgers, err := filepath.Glob(filepath.Join(state, "watch", "*.ledger"))
	if err != nil || len(ledgers) != 1 {
		t.Fatal(ledgers, err)
	}
}

// stopWell stops a command as Ctrl-C does; it ends with 0.
func stopWell(t *testing.T, p *commandtest.Process) {
	t.Helper()
	if err := p.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := p.WaitFor(time.Minute); err != nil {
		t.Errorf("%v\n%s", err, p.Stderr.String())
	}
}

// A watching sender is killed again and again; what it had noted as sent is
// not sent again, and everything arrives.
func TestWatchKilled(t *testing.T) {
	const files = 1000
	broker := startBroker(t)
	dir := t.TempDir()
	out, in, state := filepath.Join(dir, "out"), filepath.Join(dir, "in"), filepath.Join(dir, "state")
	commandtest.RandomTree(t, out, files-1, 5000, 2)
	start := func() *commandtest.Process {
		return commands.Start(t, nil, "mft-produce", "-b", broker.Addr, "-t", "killed", "--watch", "--settle", "20ms", "--state", state, "--json", "--limit-rate", "1500kB", out+"/")
	}
	sent := 0
	for range 3 {
		p := start()
		for at := 0; sent < files; { // until it has sent some more, and then it dies
			line, next, err := p.Stdout.Line(withDeadline(t, time.Minute), at)
			if err != nil {
				t.Fatal(err, p.Stderr.String())
			}
			at = next
			if strings.Contains(line, `"event":"done"`) {
				if sent++; sent%200 == 0 {
					break
				}
			}
		}
		p.KillNow()
	}
	last := start()
	commands.Start(t, nil, "mft-consume", "-b", broker.Addr, "-t", "killed", "--dir", in)
	awaitFiles(t, in, files, time.Minute)
	stopWell(t, last)
	commandtest.RandomFile(t, filepath.Join(out, "marker"), 10, 3)
	last = start() // sends this one only
	awaitFiles(t, in, files+1, time.Minute)
	stopWell(t, last)
	if got := strings.Count(last.Stdout.String(), `"event":"done"`); got != 1 {
		t.Errorf("a restart sent %d files, want the new one", got)
	}
}

// transfer.yml drives it, and the mode of what was moved away to another file
// system is kept.
func TestWatchByConfiguration(t *testing.T) {
	broker := startBroker(t)
	dir := t.TempDir()
	out, in := filepath.Join(dir, "out"), filepath.Join(dir, "in")
	away, err := os.MkdirTemp("/dev/shm", "mft-watch-")
	if err != nil {
		t.Skip("a second file system is needed: ", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(away) })
	config := filepath.Join(dir, "transfer.yml")
	text := fmt.Sprintf(`
state: %q
transfers:
  - name: queue
    source: {path: %q, watch: true, settle: 50ms, scan_every: 300ms, after: %q, exclude: ["*.tmp"]}
    destination: %q
    retries: 5
`, filepath.Join(dir, "state"), out+"/", "move="+away, in)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	commands.Start(t, nil, "mft-consume", "-b", broker.Addr, "-c", config)
	p := commands.Start(t, nil, "mft-produce", "-b", broker.Addr, "-c", config)
	commandtest.RandomTree(t, filepath.Join(out), 20, 100_000, 4)
	awaitFiles(t, in, 21, time.Minute)
	awaitFiles(t, away, 21, time.Minute)
	awaitFiles(t, out, 0, time.Minute)
	stopWell(t, p)
	for _, name := range []string{"d000/f00000", "d000/f00019", "empty/file"} {
		a, err1 := commandtest.Sum(filepath.Join(in, name))
		b, err2 := commandtest.Sum(filepath.Join(away, name))
		if err1 != nil || err2 != nil || a != b {
			t.Errorf("%s: %v, %v, equal: %v", name, err1, err2, a == b)
		}
		one, err1 := os.Stat(filepath.Join(in, name))
		two, err2 := os.Stat(filepath.Join(away, name))
		if err1 != nil || err2 != nil || one.Mode() != two.Mode() || !one.ModTime().Equal(two.ModTime()) {
			t.Errorf("%s: %v, %v: %v and %v", name, err1, err2, one, two)
		}
	}
}

// A directory that files are moved to and that is full is told, and waited for;
// nothing is sent twice for it.
func TestWatchMoveTargetFull(t *testing.T) {
	t.Parallel()
	away, fill, free := smallDisk(t, 2<<20)
	if err := os.Mkdir(away, 0o755); err != nil {
		t.Fatal(err)
	}
	broker := startBroker(t)
	dir := t.TempDir()
	out, in := filepath.Join(dir, "out"), filepath.Join(dir, "in")
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	p := commands.Start(t, nil, "mft-produce", "-b", broker.Addr, "-t", "full", "--watch", "--settle", "20ms", "--scan-every", "200ms",
		"--state", filepath.Join(dir, "state"), "--json", "--after", "move="+away, out+"/")
	commands.Start(t, nil, "mft-consume", "-b", broker.Addr, "-t", "full", "--dir", in)
	commandtest.RandomFile(t, filepath.Join(out, "first"), 100, 1)
	awaitFiles(t, out, 0, time.Minute) // it has begun, and made sure that the directory can be used
	fill()
	commandtest.RandomFile(t, filepath.Join(out, "second"), 100_000, 2)
	awaitFiles(t, in, 2, time.Minute)
	awaitText(t, p, "could not be taken away")
	awaitFiles(t, out, 1, time.Minute)
	free()
	awaitFiles(t, out, 0, time.Minute)
	stopWell(t, p)
	if n := strings.Count(p.Stdout.String(), `"event":"done"`); n != 2 {
		t.Errorf("%d files were sent, want 2", n)
	}
	if n := strings.Count(p.Stderr.String(), "could not be taken away"); n != 1 {
		t.Errorf("it was told %d times: %s", n, p.Stderr.String())
	}
}

// awaitText waits until a command has said something on its standard error.
func awaitText(t *testing.T, p *commandtest.Process, text string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !strings.Contains(p.Stderr.String(), text); time.Sleep(20 * time.Millisecond) {
		select {
		case <-p.Done():
			t.Fatalf("it ended: %v\n%s", p.Err(), p.Stderr.String())
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("%q was not said: %s", text, p.Stderr.String())
		}
	}
}

// said checks the words of a command that has ended.
func said(t *testing.T, p *commandtest.Process, text string) {
	t.Helper()
	if !strings.Contains(p.Stderr.String(), text) {
		t.Errorf("%q was not said: %s", text, p.Stderr.String())
	}
}
