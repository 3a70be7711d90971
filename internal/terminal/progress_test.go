package terminal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// drive moves two files and a directory, and fails a third file.
func drive(p *Progress) {
	p.Expect(3, 300)
	p.Begin("d", "sub", 0, true)
	p.Done("d", "")
	p.Begin("1", "a.txt", 100, false)
	p.Advance("1", 60)
	p.Advance("1", 40)
	p.Done("1", "abc")
	p.Begin("2", "b.txt", -1, false)
	p.Advance("2", 200)
	p.Done("2", "")
	p.Begin("3", "c.txt", 50, false)
	p.Advance("3", 10)
	p.Fail("3", "c.txt", errors.New("permission denied"))
	p.Begin("4", "d.txt", 50, false)
	p.Advance("4", 20)
	p.Drop("4", "d.txt", errors.New("another receiver has it"))
	p.Warn("link", "is a symlink: left out")
}

func check(t *testing.T, s Summary) {
	t.Helper()
	if s.Files != 2 || s.Dirs != 1 || s.Bytes != 300 || s.Failed != 1 {
		t.Errorf("summary: %+v", s)
	}
}

func TestLines(t *testing.T) {
	var out bytes.Buffer
	p := New(Options{Err: &out, Verb: "sent", Interval: time.Nanosecond})
	drive(p)
	check(t, p.Close())
	p.Close() // does nothing
	got := out.String()
	for _, want := range []string{
		"sent 1 of 3 files, 100 B of 300 B (33 %), ",
		"failed: c.txt: permission denied\n",
		"dropped: d.txt: another receiver has it\n",
		"link: is a symlink: left out\n",
		"sent 2 files, 1 directory, 300 B in ",
		", 1 failed\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if n := strings.Count(got, "1 directory"); n != 1 {
		t.Errorf("%d summaries in\n%s", n, got)
	}
}

func TestLinesAreRare(t *testing.T) {
	var out bytes.Buffer
	p := New(Options{Err: &out, Verb: "sent", Interval: time.Hour})
	drive(p)
	p.Close()
	if lines := strings.Count(out.String(), "\n"); lines != 4 { // failure, warning, summary
		t.Errorf("%d lines:\n%s", lines, out.String())
	}
}

func TestNever(t *testing.T) {
	var out bytes.Buffer
	p := New(Options{Err: &out, Verb: "sent", Mode: Never, Interval: time.Nanosecond})
	drive(p)
	check(t, p.Close())
	if lines := strings.Count(out.String(), "\n"); lines != 4 {
		t.Errorf("%d lines:\n%s", lines, out.String())
	}
}

func TestJSON(t *testing.T) {
	var out, events bytes.Buffer
	p := New(Options{Err: &out, JSON: &events, Verb: "sent", Interval: time.Nanosecond})
	drive(p)
	check(t, p.Close())
	seen := map[string]int{}
	for s := bufio.NewScanner(&events); s.Scan(); {
		var e Event
		if err := json.Unmarshal(s.Bytes(), &e); err != nil {
			t.Fatalf("%s: %v", s.Text(), err)
		}
		seen[e.Event]++
		switch e.Event {
		case "done":
			if e.Name == "a.txt" && (e.Digest != "abc" || *e.Bytes != 100) {
				t.Errorf("%+v", e)
			}
		case "failed":
			if e.Message != "permission denied" {
				t.Errorf("%+v", e)
			}
		case "summary":
			if *e.Files != 2 || *e.Dirs != 1 || *e.Failed != 1 || *e.Bytes != 300 {
				t.Errorf("%+v", e)
			}
		}
	}
	want := map[string]int{"begin": 5, "dropped": 1, "done": 3, "failed": 1, "warning": 1, "summary": 1}
	for event, n := range want {
		if seen[event] != n {
			t.Errorf("%d %s events, want %d", seen[event], event, n)
		}
	}
	if seen["progress"] == 0 {
		t.Error("no progress events")
	}
	if got := out.String(); strings.Contains(got, "sent") || !strings.Contains(got, "failed: c.txt") {
		t.Errorf("beside the events: %q", got)
	}
}

// The bar is driven on a writer that is no terminal, from many goroutines, with
// a log above it: nothing may block or be lost.
func TestBar(t *testing.T) {
	var out lockedBuffer
	p := New(Options{Err: &out, Mode: Never, Verb: "received"})
	p.show = true
	p.bar = newBar(&out, p)
	log := p.Writer()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 50 {
				id := fmt.Sprintf("%d-%d", g, i)
				p.Begin(id, "some/rather/long/directory/name/file-"+id, 1000, false)
				p.Expect(1, 1000)
				p.Advance(id, 500)
				p.Warn(id, "noted")
				fmt.Fprintf(log, "logged %s\n", id)
				p.Done(id, "")
			}
		})
	}
	wg.Wait()
	s := p.Close()
	fmt.Fprintln(log, "logged after the end")
	if s.Files != 400 || s.Bytes != 400_000 {
		t.Errorf("%+v", s)
	}
	got := out.String()
	for _, want := range []string{"7-49: noted\n", "logged 0-0\n", "received 400 files, 400 kB in ", "logged after the end\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in the output", want)
		}
	}
	if n := strings.Count(got, "noted"); n != 400 {
		t.Errorf("%d of 400 warnings", n)
	}
}

func TestBarColumns(t *testing.T) {
	p := New(Options{Err: &bytes.Buffer{}, Mode: Never})
	p.Expect(2, 2000)
	p.Begin("1", "a/very/long/path/to/some/file/at/its/end.txt", 1000, false)
	p.Advance("1", 500)
	if got := p.nameColumn(); !strings.HasPrefix(got, "…") || !strings.HasSuffix(got, "/end.txt ") || len([]rune(got)) != nameWidth+1 {
		t.Errorf("name %q", got)
	}
	if got := p.figures(p.start.Add(10 * time.Second)); got != " 25 %  500 B/2.0 kB  50 B/s  0/2 files  30s left" {
		t.Errorf("figures %q", got)
	}
}

func TestWords(t *testing.T) {
	for got, want := range map[string]string{
		Size(-1):                            "0 B",
		Size(1_234_567):                     "1.2 MB",
		Rate(1_000_000, 2*time.Second):      "500 kB/s",
		Seconds(42 * time.Millisecond):      "0.042 s",
		Seconds(3200 * time.Millisecond):    "3.2 s",
		Seconds(125 * time.Second):          "2m5s",
		Count(1, "file"):                    "1 file",
		Count(12000, "file"):                "12,000 files",
		Summary{Files: 1, Dirs: 2}.String(): "1 file, 2 directories, 0 B in 0.000 s (0 B/s)",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestModes(t *testing.T) {
	var m Mode
	for _, s := range []string{"auto", "always", "never"} {
		if err := m.Set(s); err != nil || m.String() != s {
			t.Errorf("%s: %v", s, err)
		}
	}
	if err := m.Set("often"); err == nil {
		t.Error("often is a mode")
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
