package segment

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReserve: room is reserved behind the end of a log that grows by much at a time, the file is not longer for it, and it is given back when the
// segment ends and when the log is closed.
func TestReserve(t *testing.T) {
	dir := t.TempDir()
	if !canReserve(dir) {
		t.Skip("needs ext4 for temporary files")
	}
	s := openStore(t, dir, Options{})
	l := openLog(t, s, testTopic, LogConfig{SegmentBytes: 8 << 20})
	look := func(base int64) (size, room int64) {
		t.Helper()
		var st unix.Stat_t
		must(t, unix.Stat(filepath.Join(l.dir, logName(base)), &st))
		return st.Size, st.Blocks*512 - st.Size
	}
	batch := batchOf(t, 1, 1<<20, 0, nil)
	appended := func(times int) (last int64) {
		t.Helper()
		for range times {
			a, err := l.Append(batch)
			must(t, err)
			must(t, l.Wait(t.Context(), a.LastOffset+1))
			last = a.LastOffset
		}
		return last
	}
	const slack = 64 << 10 // the rest of a block, and blocks that say where those of the file are
	appended(1)
	if size, room := look(0); size != int64(len(batch)) || room < reserveLeast/2 || room > reserveMost+slack {
		t.Errorf("a file of %d bytes after an append of %d, with room for %d more", size, len(batch), room)
	}
	last := appended(7) // the last one into the next segment
	if _, room := look(0); room > slack {
		t.Errorf("room for %d bytes behind a segment that has ended", room)
	}
	if _, room := look(last); room < reserveLeast/2 {
		t.Errorf("room for %d bytes behind the second segment", room)
	}
	must(t, s.Close())
	for _, base := range []int64{0, last} {
		if size, room := look(base); room > slack || size%int64(len(batch)) != 0 {
			t.Errorf("segment %d of a closed log has %d bytes, and room for %d", base, size, room)
		}
	}

	s = openStore(t, dir, Options{})
	l = openLog(t, s, testTopic, LogConfig{SegmentBytes: 8 << 20})
	if l.Recovery() != (Recovery{}) || l.EndOffset() != last+1 {
		t.Errorf("opened again: %+v, end %d, want %d", l.Recovery(), l.EndOffset(), last+1)
	}
	small := batchOf(t, 1, 100, 0, nil)
	_, before := look(last)
	_, err := l.Append(small)
	must(t, err)
	if _, room := look(last); room > before+slack {
		t.Errorf("room for %d bytes, %d before, for an append of %d", room, before, len(small))
	}
}

// TestRoomAfterAKill: what a killed run has reserved is given back when the next one ends.
func TestRoomAfterAKill(t *testing.T) {
	dir, copied := t.TempDir(), t.TempDir()
	if !canReserve(dir) {
		t.Skip("needs ext4 for temporary files")
	}
	s := openStore(t, dir, Options{})
	l := openLog(t, s, testTopic, LogConfig{})
	a := appendBatch(t, l, batchOf(t, 1, 1<<20, 0, nil))
	waitDurable(t, l)
	must(t, os.CopyFS(copied, os.DirFS(dir))) // as a kill leaves it, but for the room

	path := filepath.Join(copied, topicsName, testTopic.dirName(), logName(0))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	info, err := f.Stat()
	must(t, err)
	must(t, fallocate(f, info.Size(), 4<<20))
	must(t, f.Close())
	room := func() int64 {
		var st unix.Stat_t
		must(t, unix.Stat(path, &st))
		return st.Blocks*512 - st.Size
	}
	if room() < 4<<20 {
		t.Fatalf("room for %d bytes", room())
	}
	s = openStore(t, copied, Options{})
	l = openLog(t, s, testTopic, LogConfig{})
	if l.EndOffset() != a.LastOffset+1 {
		t.Fatalf("the log ends at %d, want %d", l.EndOffset(), a.LastOffset+1)
	}
	must(t, s.Close())
	if room() > 64<<10 {
		t.Errorf("room for %d bytes is left", room())
	}
}
