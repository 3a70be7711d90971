package segment

import (
	"bytes"
	"context"
	"errors"
	"testing"
)

// Writes that the system cuts short or refuses are undone: the log is as before, reads go on, and so do appends once there is room.
func TestAppendCutShort(t *testing.T) {
	if !inChild(t) {
		return
	}
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	l := openLog(t, s, testTopic, LogConfig{})
	fillLog(t, l, 10, 100)
	want := contents(t, l)
	b := batchOf(t, 3, 1000, 0, nil)
	for _, room := range []int64{0, 1, 60, 61, 62, int64(len(b)) - 1} {
		err := withFileLimit(t, uint64(l.Size()+room), func() error {
			_, err := l.Append(b)
			if !bytes.Equal(contents(t, l), want) {
				t.Error("other contents while the disk is full")
			}
			return err
		})
		var storage *StorageError
		if !errors.As(err, &storage) {
			t.Fatalf("room for %d bytes: %v", room, err)
		}
	}
	file := copyDir(t, dir) // nothing is left of the failures
	for next := l.EndOffset(); next < 40; next = l.EndOffset() {
		if a := appendBatch(t, l, b); a.BaseOffset != next {
			t.Fatalf("%+v, want %d", a, next)
		}
	}
	waitDurable(t, l)
	for at, size := range map[string]int64{dir: l.Size(), file: int64(len(want))} {
		if at == dir {
			closeStore(t, s)
		}
		s := openStore(t, at, Options{})
		if l := openLog(t, s, testTopic, LogConfig{}); l.Size() != size || l.Recovery().Cut != 0 {
			t.Errorf("%d bytes, want %d; %+v", l.Size(), size, l.Recovery())
		}
	}
}

// A full disk stops nothing for good: appends, rolls, proposals, checkpoints and new logs fail with StorageError or go without, and work again when there
// is room.
func TestDiskFull(t *testing.T) {
	dir, free := smallDisk(t)
	var m ledger
	o := m.options()
	o.CheckpointBytes, o.JournalBytes = 64<<10, 4<<10
	s := openStore(t, dir, o)
	l := openLog(t, s, testTopic, LogConfig{SegmentBytes: 50 << 10, IndexIntervalBytes: 1 << 10})
	b := batchOf(t, 1, 3000, 0, nil)
	entry := bytes.Repeat([]byte("e"), 500)
	entries := 0
	for round := range 3 {
		var storage *StorageError
		var failed int
		for failed < 20 {
			_, err := l.Append(b)
			if perr := s.Propose(context.Background(), entry); perr == nil {
				entries++
			} else if !errors.As(perr, &storage) {
				t.Fatal(perr)
			}
			if err == nil {
				continue
			}
			failed++
			if !errors.As(err, &storage) {
				t.Fatal(err)
			}
			if s.Err() != nil {
				t.Fatal(s.Err())
			}
		}
		if _, err := s.OpenLog(LogID{"new", [16]byte{8}, int32(round)}, LogConfig{}); err == nil {
			t.Log("a log could be created on a full disk")
		}
		want := contents(t, l)
		free()
		end := l.EndOffset()
		if a := appendBatch(t, l, b); a.BaseOffset != end {
			t.Fatalf("%+v, want offset %d", a, end)
		}
		waitDurable(t, l)
		if err := s.Propose(context.Background(), entry); err != nil {
			t.Fatal(err)
		}
		entries++
		must(t, s.Checkpoint(context.Background()))
		if got := contents(t, l); len(got) != len(want)+len(b) || !bytes.HasPrefix(got, want) {
			t.Fatal("other contents")
		}
		checkTimes(t, l)
	}
	size := l.Size()
	closeStore(t, s)
	s = openStore(t, dir, o)
	if l = openLog(t, s, testTopic, LogConfig{}); l.Size() != size {
		t.Errorf("%d bytes after restart, want %d", l.Size(), size)
	}
	if len(m.entries) != entries {
		t.Errorf("%d entries, want %d", len(m.entries), entries)
	}
	checkTimes(t, l)
}
