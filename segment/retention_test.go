package segment

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mft/protocol"
)

// testClock is a clock that tests set.
type testClock struct{ ms atomic.Int64 }

func (c *testClock) now() time.Time { return time.UnixMilli(c.ms.Load()) }

// manual are options of a store that cleans only when told to.
func (c *testClock) manual() Options { return Options{Clock: c.now, CleanInterval: -1} }

func clean(t testing.TB, s *Store) {
	t.Helper()
	must(t, s.Clean(context.Background()))
}

func logFiles(t testing.TB, l *Log) (names []string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(l.Dir(), "*.log*"))
	must(t, err)
	for _, path := range found {
		names = append(names, filepath.Base(path))
	}
	return names
}

func segmentCount(l *Log) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.segments)
}

// Segments go by their greatest timestamp, oldest first, the active one too when all of it has expired; the start offset moves with them
// and survives a crash.
func TestRetentionByTime(t *testing.T) {
	var clock testClock
	dir := t.TempDir()
	s := openStore(t, dir, clock.manual())
	config := LogConfig{SegmentBytes: 1000, Delete: true, RetentionTime: 100 * time.Millisecond}
	l := openLog(t, s, testTopic, config)
	fillLog(t, l, 60, 100) // 1000 to 1590 ms
	all := readAll(t, l, 0, 1<<20)

	clock.ms.Store(1100)
	clean(t, s)
	if l.StartOffset() != 0 {
		t.Fatalf("start %d before anything has expired", l.StartOffset())
	}
	r, err := l.Read(0, 1<<20, true)
	must(t, err)
	before := make([]byte, r.Len())
	if _, err := r.ReadAt(before, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	for _, now := range []int64{1101, 1300, 1500} {
		clock.ms.Store(now)
		clean(t, s)
		start := l.StartOffset()
		for _, b := range all {
			if b.BaseOffset() < start && b.MaxTimestamp() >= now-100 {
				t.Fatalf("at %d: a batch of %d is gone", now, b.MaxTimestamp())
			}
		}
		l.mu.Lock()
		first := l.segments[0]
		l.mu.Unlock()
		if latest, err := l.latest(first); err != nil || latest.UnixMilli() < now-100 {
			t.Fatalf("at %d: the first segment has expired at %v: %v", now, latest, err)
		}
		if _, err := l.Read(start-1, 100, true); start > 0 && !errors.Is(err, ErrOffsetOutOfRange) {
			t.Fatalf("read before the start: %v", err)
		}
		readAll(t, l, start, 1<<20)
	}
	if l.StartOffset() == 0 {
		t.Fatal("nothing was deleted")
	}
	// Who reads deleted records goes on reading them.
	after := make([]byte, r.Len())
	if _, err := r.ReadAt(after, 0); err != nil && err != io.EOF || !bytes.Equal(before, after) {
		t.Fatalf("the range has changed: %v", err)
	}
	must(t, r.Release())

	crashed := copyDir(t, dir)
	func() {
		s := openStore(t, crashed, clock.manual())
		defer closeStore(t, s)
		again := openLog(t, s, testTopic, config)
		if again.StartOffset() != l.StartOffset() || !bytes.Equal(contents(t, again), contents(t, l)) {
			t.Errorf("after a crash the log begins at %d, want %d", again.StartOffset(), l.StartOffset())
		}
	}()

	end := l.EndOffset()
	clock.ms.Store(10_000)
	clean(t, s)
	if l.StartOffset() != end || l.Size() != 0 {
		t.Errorf("start %d, %d bytes, want %d and none", l.StartOffset(), l.Size(), end)
	}
	eventually(t, "only the active file is left", func() bool { return len(logFiles(t, l)) == 1 })
	clean(t, s)
	if a := appendBatch(t, l, batchOf(t, 1, 10, 9_990, nil)); a.BaseOffset != end || a.StartOffset != end {
		t.Errorf("%+v, want %d", a, end)
	}
	waitDurable(t, l)
	crashed = copyDir(t, dir)
	s2 := openStore(t, crashed, clock.manual())
	if l := openLog(t, s2, testTopic, config); l.StartOffset() != end || l.EndOffset() != end+1 {
		t.Errorf("after a crash: %d to %d, want %d to %d", l.StartOffset(), l.EndOffset(), end, end+1)
	}
}

func TestRetentionByBytes(t *testing.T) {
	var clock testClock
	s := openStore(t, t.TempDir(), clock.manual())
	l := openLog(t, s, testTopic, LogConfig{SegmentBytes: 1000, Delete: true, RetentionBytes: 5000})
	fillLog(t, l, 100, 100)
	clean(t, s)
	l.mu.Lock()
	first := l.segments[0].size
	l.mu.Unlock()
	if size := l.Size(); size < 5000 || size-first >= 5000 {
		t.Errorf("%d bytes are left, the first segment has %d", size, first)
	}
	readAll(t, l, l.StartOffset(), 1<<20)
	l.SetConfig(LogConfig{SegmentBytes: 1000, Delete: true, RetentionBytes: 1})
	clean(t, s)
	if segmentCount(l) != 1 {
		t.Errorf("%d segments are left", segmentCount(l))
	}
}

// Without Delete nothing is deleted, but for what lies before the start offset that was set.
func TestSetStart(t *testing.T) {
	var clock testClock
	clock.ms.Store(1e12)
	dir := t.TempDir()
	s := openStore(t, dir, clock.manual())
	l := openLog(t, s, testTopic, LogConfig{SegmentBytes: 1000, RetentionTime: 1, RetentionBytes: 1})
	fillLog(t, l, 50, 100)
	clean(t, s)
	if l.StartOffset() != 0 {
		t.Fatalf("start %d", l.StartOffset())
	}
	if _, err := l.SetStart(l.EndOffset() + 1); !errors.Is(err, ErrOffsetOutOfRange) {
		t.Fatalf("start behind the end: %v", err)
	}
	for _, want := range []int64{7, 7, 33, l.EndOffset()} {
		n := segmentCount(l)
		if start, err := l.SetStart(want); err != nil || start != want {
			t.Fatalf("start %d, want %d: %v", start, want, err)
		}
		clean(t, s)
		if _, err := l.Read(want-1, 100, true); !errors.Is(err, ErrOffsetOutOfRange) {
			t.Errorf("read before the start: %v", err)
		}
		if l.StartOffset() != want || want > 7 && segmentCount(l) >= n {
			t.Errorf("start %d, want %d; %d segments of %d", l.StartOffset(), want, segmentCount(l), n)
		}
		if batches := readAll(t, l, want, 1<<20); len(batches) > 0 && batches[0].LastOffset() < want {
			t.Errorf("reading begins at %d", batches[0].BaseOffset())
		}
	}
	if start, err := l.SetStart(3); err != nil || start != l.EndOffset() {
		t.Errorf("the start went back to %d: %v", start, err)
	}
	closeStore(t, s)
	s = openStore(t, dir, clock.manual())
	if l := openLog(t, s, testTopic, LogConfig{}); l.StartOffset() != l.EndOffset() {
		t.Errorf("start %d after a restart, want %d", l.StartOffset(), l.EndOffset())
	}
}

func TestSegmentAge(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{CleanInterval: -1})
	config := LogConfig{SegmentAge: time.Second}
	l := openLog(t, s, testTopic, config)
	for _, step := range []struct {
		ts       int64
		segments int
	}{{1000, 1}, {2000, 1}, {500, 1}, {2001, 2}, {3001, 2}, {3002, 3}, {-1, 3}} {
		appendBatch(t, l, batchOf(t, 1, 10, step.ts, nil))
		if n := segmentCount(l); n != step.segments {
			t.Errorf("after a batch of %d: %d segments, want %d", step.ts, n, step.segments)
		}
	}
	l.SetConfig(LogConfig{})
	appendBatch(t, l, batchOf(t, 1, 10, 1e6, nil))
	if n := segmentCount(l); n != 3 {
		t.Errorf("%d segments, want 3", n)
	}
}

// A view that was made before its segment was deleted or replaced, and opens the file only afterwards, still sees what was there.
func TestViewOutlivesItsSegment(t *testing.T) {
	for _, indexed := range []bool{true, false} {
		var clock testClock
		s := openStore(t, t.TempDir(), clock.manual())
		l := openLog(t, s, testTopic, LogConfig{SegmentBytes: 2000, IndexIntervalBytes: 200, Compact: true})
		for i := range 60 {
			appendBatch(t, l, keyed(t, protocol.None, nil, int64(i), kv{"same", strings.Repeat("x", 50)}))
		}
		waitDurable(t, l)
		must(t, s.Checkpoint(context.Background()))
		want := readAll(t, l, 0, 1<<20)
		v, err := l.view(5)
		must(t, err)
		l.SetConfig(LogConfig{SegmentBytes: 20_000, IndexIntervalBytes: 200, Compact: true})
		clean(t, s)
		if segmentCount(l) > 3 {
			t.Fatalf("%d segments", segmentCount(l))
		}
		if !indexed {
			must(t, errors.Join(os.Remove(l.offsetsPath(v.seg)), os.Remove(l.timesPath(v.seg))))
		}
		must(t, l.fill(v, 5, 1<<20, true))
		data := make([]byte, v.Len())
		if _, err := v.ReadAt(data, 0); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		b, _, err := protocol.NextBatch(data)
		if err != nil || !bytes.Equal(b, want[5]) {
			t.Errorf("other bytes at offset 5: %v", err)
		}
		must(t, v.Release())
		eventually(t, "nothing deleted is left", func() bool { return len(logFiles(t, l)) == segmentCount(l) })
		closeStore(t, s)
	}
}
