package terminal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	var p pace
	start := time.Unix(1000, 0)
	if got := p.rate(start, 5); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
	for i := range 100 { // 100 B/s, then ten times that
		moved := int64(i * 100)
		if i > 50 {
			moved = 5000 + int64(i-50)*1000
		}
		p.note(start.Add(time.Duration(i)*time.Second), moved)
		p.note(start.Add(time.Duration(i)*time.Second+time.Millisecond), moved+1) // too soon for a sample
		if i == 50 {
			if got := p.rate(start.Add(50*time.Second), 5000); got != 100 {
				t.Errorf("at first: %v", got)
			}
		}
	}
	if got := p.rate(start.Add(99*time.Second), 54_000); got != 1000 {
		t.Errorf("of late: %v", got)
	}
	if got := p.rate(start.Add(200*time.Second), 54_000); got > 100 {
		t.Errorf("after a long rest: %v", got)
	}
	for _, c := range []struct {
		rest int64
		rate float64
		want time.Duration
	}{{100, 10, 10 * time.Second}, {0, 10, 0}, {-5, 10, 0}, {100, 0, 0}} {
		if got := left(c.rest, c.rate); got != c.want {
			t.Errorf("%d at %v: %v", c.rest, c.rate, got)
		}
	}
}

func TestState(t *testing.T) {
	var out, events bytes.Buffer
	p := New(Options{Err: &out, JSON: &events, Verb: "sent", Interval: time.Nanosecond})
	p.start = p.start.Add(-10 * time.Second)
	p.Expect(15, 15_000_000)
	for i := range 14 {
		id := fmt.Sprint(i)
		p.Begin(id, "file-"+id, 1_000_000, false)
		p.items[id].began = time.Now().Add(-10 * time.Second)
	}
	p.Begin("dir", "a directory", 0, true)
	p.Begin("big", "the big one", 5_000_000, false)
	p.items["big"].began = time.Now().Add(-10 * time.Second)
	p.Advance("big", 2_000_000)
	p.Advance("3", 1_000_000)
	p.Done("3", "")
	got := p.State("to topic t: connected")
	for _, want := range []string{
		"sent 1 of 15 files, 3.0 MB of 15 MB (20 %), 300 kB/s, 40s left, in 10",
		"\n  the big one: 2.0 MB of 5.0 MB (40 %), 200 kB/s, 15s left\n",
		"\n  file-0: 0 B of 1.0 MB (0 %), 0 B/s\n",
		"\n  and 4 files more\n",
		"\n  to topic t: connected",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
	if strings.Contains(got, "directory") {
		t.Errorf("directories are not on their way:\n%s", got)
	}
	var last Event
	for _, line := range strings.Split(strings.TrimSpace(events.String()), "\n") {
		var e Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if e.Event == "progress" {
			last = e
		}
	}
	if last.OfFiles == nil || *last.OfFiles != 15 || last.OfBytes == nil || *last.OfBytes != 15_000_000 || last.Rate == nil || *last.Rate < 200_000 || last.Left < 10 {
		t.Errorf("progress: %+v", last)
	}
	p.Close()
	idle := New(Options{Err: &out, Verb: "received"})
	if got := idle.State(); !strings.Contains(got, "no file is on its way") {
		t.Error(got)
	}
	idle.Close()
}

// Large files have bars of their own, while there are few of them.
func TestFileBars(t *testing.T) {
	var out lockedBuffer
	p := New(Options{Err: &out, Verb: "sent"})
	p.bar = newBar(&out, p)
	p.Expect(9, 9*largeFile)
	for i := range 6 {
		p.Begin(fmt.Sprint(i), fmt.Sprintf("large-%d", i), largeFile, false)
	}
	p.Begin("small", "small", largeFile-1, false)
	p.Advance("0", largeFile/2)
	if got := len(p.bar.files); got != maxFileBars {
		t.Errorf("%d bars", got)
	}
	waitFor(t, func() bool {
		text := out.String()
		return strings.Contains(text, "large-0") && strings.Contains(text, "(50 %)") && strings.Contains(text, "large-3")
	})
	p.Done("0", "")
	p.Fail("1", "large-1", fmt.Errorf("gone"))
	if got := len(p.bar.files); got != maxFileBars-2 {
		t.Errorf("%d bars when two files are done with", got)
	}
	p.Close()
}

func waitFor(t *testing.T, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain")
		}
	}
}
