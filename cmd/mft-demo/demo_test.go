package main

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// A demo that cannot fail shows nothing: each way of not being equal is seen.
func TestDifferencesAreSeen(t *testing.T) {
	now := time.Now()
	sent := map[string]entry{
		"a":   {kind: "file", mode: 0o644, mtime: now, size: 1, digest: "x"},
		"dir": {kind: "directory", mode: 0o755, mtime: now},
	}
	for name, c := range map[string]struct {
		change func(arrived map[string]entry)
		want   string
	}{
		"equal":   {func(map[string]entry) {}, ""},
		"missing": {func(m map[string]entry) { delete(m, "dir") }, "dir did not arrive"},
		"extra":   {func(m map[string]entry) { m["b"] = entry{} }, "b was never sent"},
		"content": {func(m map[string]entry) { e := m["a"]; e.digest = "y"; m["a"] = e }, "digest y"},
		"size":    {func(m map[string]entry) { e := m["a"]; e.size = 2; m["a"] = e }, "2 bytes"},
		"kind":    {func(m map[string]entry) { e := m["dir"]; e.kind = "file"; m["dir"] = e }, "got a file"},
		"time":    {func(m map[string]entry) { e := m["a"]; e.mtime = now.Add(time.Millisecond); m["a"] = e }, "sent with time"},
	} {
		t.Run(name, func(t *testing.T) {
			arrived := map[string]entry{}
			for name, e := range sent {
				arrived[name] = e
			}
			c.change(arrived)
			err := difference(sent, arrived)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// What arrived as it was sent compares equal; a changed byte does not, nor
// does a file that nobody sent.
func TestCompare(t *testing.T) {
	d := &demo{screen: screen{out: io.Discard}, dir: t.TempDir(), size: 100_000}
	if err := d.makeFiles(); err != nil {
		t.Fatal(err)
	}
	// Made a second time, the tree is the same; the random file is copied.
	twin := &demo{screen: screen{out: io.Discard}, dir: d.path(received), size: 1}
	if err := os.Mkdir(twin.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := twin.makeFiles(); err != nil {
		t.Fatal(err)
	}
	random, err := os.ReadFile(d.path(fileName))
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(d.path(fileName))
	if err != nil {
		t.Fatal(err)
	}
	arrive := func() {
		t.Helper()
		if err := errors.Join(os.WriteFile(twin.path(fileName), random, 0o644), os.Chtimes(twin.path(fileName), info.ModTime(), info.ModTime())); err != nil {
			t.Fatal(err)
		}
	}
	arrive()
	if err := d.compare(); err != nil {
		t.Errorf("equal: %v", err)
	}
	random[50_000] ^= 1
	arrive()
	if err := d.compare(); err == nil || !strings.Contains(err.Error(), "random.bin is not the same") {
		t.Errorf("a changed byte: %v", err)
	}
	random[50_000] ^= 1
	arrive()
	if err := os.WriteFile(twin.path("stranger"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := d.compare(); err == nil || !strings.Contains(err.Error(), "stranger") {
		t.Errorf("a stranger: %v", err)
	}
}

func TestBrokerLogTellsTheAddress(t *testing.T) {
	addresses := make(chan string, 1)
	log := &brokerLog{tail: &tail{}, addresses: addresses}
	for _, part := range []string{
		"{\"level\":\"info\",\"message\":\"started\"}\nnot json\n{\"addr\":\"127.0.0",
		".1:4711\",\"message\":\"listening\"}\n{\"addr\":\"127.0.0.1:4712\",\"message\":\"listening\"}\n",
	} {
		if _, err := log.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if got := <-addresses; got != "127.0.0.1:4711" {
		t.Errorf("got %q", got)
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	var log tail
	for range 1000 {
		if _, err := io.WriteString(&log, "some line of a log\n"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.WriteString(&log, "the last"); err != nil {
		t.Fatal(err)
	}
	if got := log.String(); !strings.HasSuffix(got, "the last") || len(log.text) > tailBytes {
		t.Errorf("%d bytes, ending in %q", len(log.text), got[len(got)-20:])
	}
}

func TestFailureShowsTheEndOfTheOutput(t *testing.T) {
	err := failure(t.Context(), errors.New("exit status 1"), []byte(strings.Repeat("noise\n", 50)+"mft-produce: no broker\n"))
	if text := err.Error(); !strings.HasPrefix(text, "exit status 1\n") || !strings.HasSuffix(text, "mft-produce: no broker") || strings.Count(text, "noise") != 9 {
		t.Errorf("got %q", text)
	}
}
