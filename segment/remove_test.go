package segment

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// eventually waits for the background, which nothing tells of.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not so after 30 s: " + what)
		}
	}
}

func topicDirs(t *testing.T, s *Store) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.Dir(), topicsName))
	must(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestDeleteLog(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	l := openLog(t, s, testTopic, LogConfig{SegmentBytes: 1000})
	fillLog(t, l, 20, 100)
	want := contents(t, l)
	var ranges []*Range
	for next := int64(0); next < l.HighWatermark(); {
		r, err := l.Read(next, 1<<20, true)
		must(t, err)
		ranges = append(ranges, r)
		next = l.cursors[(l.cursor+len(l.cursors)-1)%len(l.cursors)].offset
	}
	must(t, s.DeleteLog(testTopic))
	if slices.Contains(topicDirs(t, s), testTopic.dirName()) {
		t.Error("the directory is still there")
	}
	if s.files.byUse.Len() > 0 {
		t.Error("files are still open")
	}
	again := testTopic
	again.TopicID[5] = 1
	l2 := openLog(t, s, again, LogConfig{})
	if l2.EndOffset() != 0 {
		t.Errorf("the new log ends at %d", l2.EndOffset())
	}
	var got bytes.Buffer
	for _, r := range ranges { // readable until released
		if _, err := r.WriteTo(&got); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Error("ranges have changed")
	}
	for _, r := range ranges {
		must(t, r.Release())
	}
	eventually(t, "the deleted files are gone", func() bool { return len(topicDirs(t, s)) == 1 })
	must(t, s.DeleteLog(testTopic)) // the old id: nothing happens to the new log
	appendBatch(t, l2, batchOf(t, 1, 1, 0, nil))
	waitDurable(t, l2)
}

func TestDeleteLogThatIsNotOpen(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	fillLog(t, openLog(t, s, testTopic, LogConfig{}), 3, 10)
	closeStore(t, s)
	s = openStore(t, dir, Options{})
	other := testTopic
	other.TopicID[0]++
	must(t, s.DeleteLog(other))
	if len(topicDirs(t, s)) != 1 {
		t.Error("another topic's log was deleted")
	}
	must(t, s.DeleteLog(testTopic))
	eventually(t, "the deleted files are gone", func() bool { return len(topicDirs(t, s)) == 0 })
	if l := openLog(t, s, testTopic, LogConfig{}); l.EndOffset() != 0 {
		t.Errorf("end %d", l.EndOffset())
	}
}

func TestRemoveOrphans(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	gone := LogID{"gone", [16]byte{7}, 3}
	for _, id := range []LogID{testTopic, gone} {
		fillLog(t, openLog(t, s, id, LogConfig{}), 3, 10)
	}
	closeStore(t, s)
	topics := filepath.Join(dir, topicsName)
	mkdir := func(name string, files ...string) {
		must(t, os.Mkdir(filepath.Join(topics, name), 0o755))
		for _, f := range files {
			must(t, os.WriteFile(filepath.Join(topics, name, f), []byte("data"), 0o644))
		}
	}
	mkdir("half-1.0011223344556677-delete", "00000000000000000000.log")
	mkdir("torn-0")
	mkdir("unreadable-0", "00000000000000000000.log")
	mkdir("notes", "00000000000000000000.log")
	must(t, os.WriteFile(filepath.Join(topics, "README"), nil, 0o644))

	s = openStore(t, dir, Options{})
	strange, err := s.RemoveOrphans(func(id LogID) bool { return id == testTopic })
	must(t, err)
	for i := range strange {
		strange[i] = strings.TrimPrefix(strange[i], topics+string(filepath.Separator))
	}
	if !slices.Equal(strange, []string{"README", "notes", "unreadable-0"}) {
		t.Errorf("strange: %q", strange)
	}
	eventually(t, "the orphans are gone", func() bool {
		return slices.Equal(topicDirs(t, s), []string{"README", testTopic.dirName(), "notes", "unreadable-0"})
	})
	if l := openLog(t, s, testTopic, LogConfig{}); l.EndOffset() != 6 {
		t.Errorf("end %d", l.EndOffset())
	}
}

func TestRemoveInPieces(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	dir := filepath.Join(s.Dir(), topicsName, "large-0.x-delete")
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "f"), nil, 0o644))
	must(t, os.Truncate(filepath.Join(dir, "f"), 10*removePiece+1))
	must(t, s.remover.remove(dir))
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
