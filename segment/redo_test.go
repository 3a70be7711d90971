package segment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"mft/protocol"
)

// toJournal are options with which everything small goes to the journal.
func toJournal() Options { return Options{journalFrom: 1} }

// journalFile is the youngest generation's file.
func journalFile(t testing.TB, dir string) string {
	t.Helper()
	found, err := generations(filepath.Join(dir, journalName))
	must(t, err)
	return generationFile(filepath.Join(dir, journalName), found[len(found)-1])
}

// A log whose records are in the journal, while its files lost what was never fsynced, in every way in which a power failure can do that, is
// restored, and goes on. Where more is gone than that, it is refused.
func TestRedo(t *testing.T) {
	batch := func(i int) protocol.Batch {
		return batchOf(t, 2, 450, int64(i), &protocol.BatchProducer{ID: 7, Sequence: int32(2 * i)})
	}
	size := len(batch(0))
	config := LogConfig{SegmentBytes: 22 << 10, IndexIntervalBytes: 1 << 10} // 24 batches

	// build makes a directory: batches up to checkpoint are in a snapshot, up to synced fdatasynced since, the others only in the journal.
	build := func(checkpoint, synced, total int) (dir string, want []byte) {
		s := openStore(t, t.TempDir(), toJournal())
		l := openLog(t, s, testTopic, config)
		n := 0
		add := func(upTo int) {
			for ; n < upTo; n++ {
				appendBatch(t, l, batch(n))
				waitDurable(t, l)
			}
		}
		add(checkpoint)
		if checkpoint > 0 {
			must(t, s.Checkpoint(context.Background()))
		}
		add(synced)
		if synced > checkpoint {
			must(t, l.sync())
		}
		add(total)
		propose(t, s, "flush the notes")
		dir, want = copyDir(t, s.Dir()), contents(t, l)
		closeStore(t, s)
		return dir, want
	}
	fresh, freshWant := build(0, 0, 10)   // never fsynced
	mixed, mixedWant := build(4, 8, 12)   // 4 in the snapshot, 8 fdatasynced, ranges on both sides
	rolled, rolledWant := build(4, 4, 30) // 24 in the first segment, 6 in the second
	wants := map[string][]byte{fresh: freshWant, mixed: mixedWant, rolled: rolledWant}
	logDir := func(d string) string { return filepath.Join(d, topicsName, testTopic.dirName()) }
	zero := func(from, to int) func([]byte) []byte {
		return func(b []byte) []byte { clear(b[from:min(to, len(b))]); return b }
	}
	cutTo := func(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:n] } }

	for _, tc := range []struct {
		name    string
		from    string
		corrupt func(d string)
		left    int
		damaged bool
	}{
		{"fresh: nothing lost", fresh, func(string) {}, 10, false},
		{"fresh: file empty", fresh, func(d string) { edit(t, logFile(t, d, 0), cutTo(0)) }, 10, false},
		{"fresh: tail lost", fresh, func(d string) { edit(t, logFile(t, d, 0), cutTo(3*size+100)) }, 10, false},
		{"fresh: one byte lost", fresh, func(d string) { edit(t, logFile(t, d, 0), cutBy(1)) }, 10, false},
		{"fresh: first page lost", fresh, func(d string) { edit(t, logFile(t, d, 0), zero(0, 4096)) }, 10, false},
		{"fresh: middle torn at 512 bytes", fresh, func(d string) { edit(t, logFile(t, d, 0), zero(1024, 1536)) }, 10, false},
		{"fresh: all pages lost, size kept", fresh, func(d string) { edit(t, logFile(t, d, 0), zero(0, 1<<20)) }, 10, false},
		{"fresh: garbage behind", fresh, func(d string) { edit(t, logFile(t, d, 0), with(1, 2, 3)) }, 10, false},
		{"fresh: file missing", fresh, func(d string) { must(t, os.Remove(logFile(t, d, 0))) }, 10, false},
		{"fresh: metadata missing", fresh, func(d string) { must(t, os.Remove(filepath.Join(logDir(d), metadataName))) }, 10, false},
		{"fresh: metadata torn", fresh, func(d string) { edit(t, filepath.Join(logDir(d), metadataName), cutTo(5)) }, 10, false},
		{"fresh: directory missing", fresh, func(d string) { must(t, os.RemoveAll(logDir(d))) }, 10, false},
		{"fresh: last group of the journal torn, and the file as before it", fresh, func(d string) {
			edit(t, journalFile(t, d), cutBy(60)) // the proposal, and some of the last range
			edit(t, logFile(t, d, 0), cutTo(0))
		}, 9, false},
		{"fresh: journal damaged in the middle", fresh, func(d string) { edit(t, journalFile(t, d), flipped(3*size)) }, 0, true},

		{"mixed: nothing lost", mixed, func(string) {}, 12, false},
		{"mixed: tail lost up to the fdatasync", mixed, func(d string) { edit(t, logFile(t, d, 0), cutTo(8*size)) }, 12, false},
		{"mixed: pages lost behind the fdatasync", mixed, func(d string) { edit(t, logFile(t, d, 0), zero(8*size, 10*size)) }, 12, false},
		{"mixed: older ranges rewrite the same", mixed, func(d string) { edit(t, logFile(t, d, 0), zero(5*size, 6*size)) }, 12, false},
		{"mixed: less than the snapshot vouches for", mixed, func(d string) { edit(t, logFile(t, d, 0), cutTo(4*size-1)) }, 0, true},
		{"mixed: file missing", mixed, func(d string) { must(t, os.Remove(logFile(t, d, 0))) }, 0, true},
		{"mixed: directory missing", mixed, func(d string) { must(t, os.RemoveAll(logDir(d))) }, 0, true},
		{"mixed: metadata missing", mixed, func(d string) { must(t, os.Remove(filepath.Join(logDir(d), metadataName))) }, 0, true},

		{"rolled: second segment empty", rolled, func(d string) { edit(t, logFile(t, d, 1), cutTo(0)) }, 30, false},
		{"rolled: second segment torn", rolled, func(d string) { edit(t, logFile(t, d, 1), zero(512, 4096)) }, 30, false},
		{"rolled: second segment missing", rolled, func(d string) { must(t, os.Remove(logFile(t, d, 1))) }, 0, true},
		{"rolled: first segment cut", rolled, func(d string) { edit(t, logFile(t, d, 0), cutBy(1)) }, 0, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := copyDir(t, tc.from)
			tc.corrupt(d)
			want := wants[tc.from][:tc.left*size]
			s, err := Open(d, toJournal())
			if err != nil {
				if !tc.damaged || !isCorruption(err) {
					t.Fatal(err)
				}
				return
			}
			t.Cleanup(func() { must(t, s.Close()) })
			l, err := s.OpenLog(testTopic, config)
			if tc.damaged {
				if !isCorruption(err) {
					t.Fatalf("opened, or %v", err)
				}
				// A checkpoint deletes the generation that says what was durable; what it said must stay known.
				must(t, s.Checkpoint(context.Background()))
				must(t, s.Close())
				s = openStore(t, d, toJournal())
				if _, err := s.OpenLog(testTopic, config); !isCorruption(err) {
					t.Fatalf("opened after a checkpoint, or %v", err)
				}
				return
			}
			must(t, err)
			if got := contents(t, l); !bytes.Equal(got, want) {
				t.Fatalf("%d bytes, want %d, or others", len(got), len(want))
			}
			if l.DurableOffset() != l.EndOffset() {
				t.Errorf("durable %d, end %d", l.DurableOffset(), l.EndOffset())
			}
			checkTimes(t, l)
			// As the crash left it, again: replaying twice does no harm, not even when the first restore is lost again.
			once := copyDir(t, d)
			for next := tc.left; next < tc.left+20; next++ {
				if a := appendBatch(t, l, batch(next-1)); !a.Duplicate {
					t.Fatalf("retry of batch %d: %+v", next-1, a)
				}
				if a := appendBatch(t, l, batch(next)); a.BaseOffset != int64(2*next) {
					t.Fatalf("batch %d: %+v", next, a)
				}
				waitDurable(t, l)
			}
			got := contents(t, l)
			more := copyDir(t, d)
			closeStore(t, s)
			for at, want := range map[string][]byte{once: want, more: got, d: got} {
				s := openStore(t, at, toJournal())
				l := openLog(t, s, testTopic, config)
				if !bytes.Equal(contents(t, l), want) {
					t.Errorf("%s: %d bytes after another restart, want %d", at, l.Size(), len(want))
				}
			}
		})
	}
}

// What was restored for a log that nobody opened survives checkpoints, which delete the generation that it came from.
func TestRedoOfUnopenedLogs(t *testing.T) {
	s := openStore(t, t.TempDir(), toJournal())
	l := openLog(t, s, testTopic, LogConfig{})
	fillLog(t, l, 10, 100)
	want := contents(t, l)
	crashed := copyDir(t, s.Dir())
	edit(t, logFile(t, crashed, 0), func([]byte) []byte { return nil })
	for range 2 {
		s := openStore(t, crashed, toJournal())
		must(t, s.Checkpoint(context.Background()))
		closeStore(t, s)
	}
	s = openStore(t, crashed, toJournal())
	if got := contents(t, openLog(t, s, testTopic, LogConfig{})); !bytes.Equal(got, want) {
		t.Errorf("%d bytes, want %d", len(got), len(want))
	}
}

// The data of deleted topics stays away, whether the deletion came as far as the directory or not, and does not get into a topic of the same name.
func TestRedoOfDeletedTopics(t *testing.T) {
	s := openStore(t, t.TempDir(), toJournal())
	l := openLog(t, s, testTopic, LogConfig{})
	fillLog(t, l, 10, 100)
	alive := copyDir(t, s.Dir())
	must(t, s.DeleteLog(testTopic))
	other := testTopic
	other.TopicID[4] = 9
	fillLog(t, openLog(t, s, other, LogConfig{}), 2, 10)
	again := copyDir(t, s.Dir())
	must(t, s.DeleteLog(other))
	fillLog(t, openLog(t, s, testTopic, LogConfig{}), 1, 10) // the same id once more
	same := copyDir(t, s.Dir())
	must(t, s.DeleteLog(testTopic))
	propose(t, s, "flush the notes")
	gone := copyDir(t, s.Dir())
	closeStore(t, s)

	must(t, os.RemoveAll(filepath.Join(alive, topicsName, testTopic.dirName()))) // deleted, the note of it lost
	for name, tc := range map[string]struct {
		dir  string
		id   LogID
		ends int64
	}{
		"directory gone, note lost": {alive, other, 0},
		"another of the same name":  {again, other, 3},
		"the same id once more":     {same, testTopic, 1},
		"all deleted":               {gone, other, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, tc.dir, toJournal())
			_, err := s.RemoveOrphans(func(id LogID) bool { return tc.ends > 0 && id == tc.id })
			must(t, err)
			if l := openLog(t, s, tc.id, LogConfig{}); l.EndOffset() != tc.ends {
				t.Errorf("ends at %d, want %d", l.EndOffset(), tc.ends)
			}
			must(t, s.Checkpoint(context.Background()))
			if n := len(s.unopened()); n > 0 {
				t.Errorf("%d logs are still waited for", n)
			}
		})
	}
}

// What the start removes of a deleted topic is removed for good, too: of a topic created after it with the same name the next crash may leave
// nothing but its metadata.
func TestRedoOfOrphans(t *testing.T) {
	s := openStore(t, t.TempDir(), toJournal())
	fillLog(t, openLog(t, s, testTopic, LogConfig{}), 10, 100)
	dir := copyDir(t, s.Dir())
	closeStore(t, s)

	s = openStore(t, dir, toJournal())
	_, err := s.RemoveOrphans(func(LogID) bool { return false })
	must(t, err)
	other := testTopic
	other.TopicID[4] = 9
	openLog(t, s, other, LogConfig{})
	propose(t, s, "the other topic")
	dir = copyDir(t, s.Dir())
	closeStore(t, s)
	must(t, os.RemoveAll(filepath.Join(dir, topicsName, other.dirName())))

	s = openStore(t, dir, toJournal())
	if l := openLog(t, s, other, LogConfig{}); l.EndOffset() != 0 {
		t.Errorf("the other topic's log ends at %d", l.EndOffset())
	}
}

// A crash between any two steps of a checkpoint leaves everything that was durable, when the files keep nothing that was not fsynced.
func TestRedoAcrossCheckpoints(t *testing.T) {
	s := openStore(t, t.TempDir(), toJournal())
	l := openLog(t, s, testTopic, LogConfig{})
	add := func() {
		appendBatch(t, l, batchOf(t, 2, 300, 0, nil))
		waitDurable(t, l)
	}
	add()
	first := copyDir(t, s.Dir())
	must(t, s.Checkpoint(context.Background()))
	second := copyDir(t, s.Dir())
	add()
	add()
	last, want := copyDir(t, s.Dir()), contents(t, l)
	one := want[:len(want)/3]
	copyGeneration := func(to, from string, g uint64) {
		data, err := os.ReadFile(generationFile(filepath.Join(from, journalName), g))
		must(t, err)
		must(t, os.MkdirAll(filepath.Dir(generationFile(filepath.Join(to, journalName), g)), 0o755))
		must(t, os.WriteFile(generationFile(filepath.Join(to, journalName), g), data, 0o644))
	}
	// The next generation exists, empty; the old one may end with a torn group.
	begun := copyDir(t, first)
	must(t, os.MkdirAll(filepath.Join(begun, journalName, "2"), 0o755))
	must(t, os.WriteFile(generationFile(filepath.Join(begun, journalName), 2), nil, 0o644))
	torn := copyDir(t, begun)
	edit(t, generationFile(filepath.Join(torn, journalName), 1), with([]byte("the beginning of a group")...))
	// There are records in it already, no file is fsynced, the snapshot is the old one.
	both := copyDir(t, first)
	copyGeneration(both, last, 2)
	// The snapshot is the new one, the old generation is still there.
	kept := copyDir(t, last)
	copyGeneration(kept, first, 1)

	for name, tc := range map[string]struct {
		dir    string
		synced int // bytes of the file that were fsynced
		want   []byte
	}{
		"before": {first, 0, one}, "begun": {begun, 0, one}, "torn": {torn, 0, one}, "both": {both, 0, want},
		"kept": {kept, len(one), want}, "after": {second, len(one), one}, "later": {last, len(one), want},
	} {
		t.Run(name, func(t *testing.T) {
			edit(t, logFile(t, tc.dir, 0), func(b []byte) []byte { return b[:tc.synced] })
			for range 2 {
				s := openStore(t, tc.dir, toJournal())
				if got := contents(t, openLog(t, s, testTopic, LogConfig{})); !bytes.Equal(got, tc.want) {
					t.Fatalf("%d bytes, want %d", len(got), len(tc.want))
				}
				propose(t, s, "more")
				closeStore(t, s)
			}
		})
	}
}

// Few logs, and much data, go to their files at once; many logs with little go into the journal.
func TestWhatGoesIntoTheJournal(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{JournalBytes: 1 << 30})
	size := func() int64 {
		info, err := os.Stat(journalFile(t, s.Dir()))
		must(t, err)
		return info.Size()
	}
	logs := make([]*Log, 32)
	for i := range logs {
		logs[i] = openLog(t, s, LogID{"many", [16]byte{1}, int32(i)}, LogConfig{})
	}
	large := batchOf(t, 1, 1<<20, 0, nil)
	for range 4 {
		appendBatch(t, logs[0], large)
	}
	waitDurable(t, logs[0])
	for range 20 {
		appendBatch(t, logs[1], batchOf(t, 1, 1000, 0, nil))
		waitDurable(t, logs[1])
	}
	if n := size(); n > 1000 {
		t.Errorf("%d bytes of one log at a time are in the journal", n)
	}
	// Held up by the lock, the logs come in one batch.
	small := batchOf(t, 1, 1000, 0, nil)
	s.committer.mu.Lock()
	for _, l := range logs {
		go func() {
			if _, err := l.Append(slices.Clone(small)); err != nil {
				t.Error(err)
			}
		}()
	}
	eventually(t, "all have appended", func() bool {
		return !slices.ContainsFunc(logs[2:], func(l *Log) bool { return l.EndOffset() == 0 }) && logs[0].EndOffset() == 5 && logs[1].EndOffset() == 21
	})
	s.committer.mu.Unlock()
	for _, l := range logs {
		waitDurable(t, l)
	}
	// On a busy machine they come in several batches, and the last few of them one by one.
	if n := size(); n < 4_000 || n > 60_000 {
		t.Errorf("%d bytes are in the journal of 32 logs with 1000 each", n)
	}
}

// A journal that takes no more leaves the logs to fdatasync: acks go on.
func TestJournalFullDisk(t *testing.T) {
	if !inChild(t) {
		return
	}
	o := toJournal()
	o.JournalBytes = 1 << 30
	s := openStore(t, t.TempDir(), o)
	var logs []*Log
	for i := range int32(3) {
		l := openLog(t, s, LogID{"some", [16]byte{1}, i}, LogConfig{})
		fillLog(t, l, 10, 500)
		logs = append(logs, l)
	}
	info, err := os.Stat(journalFile(t, s.Dir()))
	must(t, err)
	err = withFileLimit(t, uint64(info.Size()+100), func() error {
		for i := range 5 {
			for _, l := range logs {
				if _, err := l.Append(batchOf(t, 1, 500, int64(i), nil)); err != nil {
					return err
				}
				waitDurable(t, l)
			}
		}
		var storage *StorageError
		if err := s.Propose(context.Background(), make([]byte, 1000)); !errors.As(err, &storage) {
			return fmt.Errorf("a proposal: %w", err)
		}
		return nil
	})
	must(t, err)
	must(t, s.Err())
	crashed := copyDir(t, s.Dir())
	for i, l := range logs {
		fillLog(t, l, 1, 500)
		s := openStore(t, crashed, o)
		if r := openLog(t, s, LogID{"some", [16]byte{1}, int32(i)}, LogConfig{}); r.EndOffset() != l.EndOffset()-1 {
			t.Errorf("ends at %d, want %d", r.EndOffset(), l.EndOffset()-1)
		}
		closeStore(t, s)
	}
}

// A failed fdatasync of the journal is the end: nothing is acked on the strength of it.
func TestFailedJournalSyncOfData(t *testing.T) {
	s := openStore(t, t.TempDir(), toJournal())
	l := openLog(t, s, testTopic, LogConfig{})
	s.fail(errors.New("the journal's fdatasync, for instance"))
	if _, err := l.Append(batchOf(t, 1, 10, 0, nil)); err == nil {
		t.Error("appended after the failure")
	}
	if err := l.Wait(context.Background(), 1); err != s.Err() || l.HighWatermark() != 0 {
		t.Errorf("%v, high watermark %d", err, l.HighWatermark())
	}
}

// FuzzRange: what is encoded is decoded, and no payload breaks the decoder.
func FuzzRange(f *testing.F) {
	f.Add("topic", int32(3), true, int64(7), int64(9), []byte("data"), []byte("\x00\x00\x00\x01x"))
	f.Fuzz(func(t *testing.T, topic string, partition int32, named bool, base, position int64, data, garbage []byte) {
		want := logRange{id: LogID{topic, testTopic.TopicID, partition}, named: named, base: base, position: position, data: data}
		got, err := parseRange(append(appendRange(nil, want), data...))
		if legal := want.id.check() == nil && base >= 0 && position >= 0; legal != (err == nil) {
			t.Fatalf("%+v: %v", want, err)
		}
		if err == nil && (got.id != want.id || got.named != named || got.base != base || got.position != position || !bytes.Equal(got.data, data)) {
			t.Fatalf("%+v, want %+v", got, want)
		}
		if x, err := parseRange(garbage); err == nil && !bytes.Equal(append(appendRange(nil, x), x.data...), garbage) {
			if len(garbage) > 0 { // other flags than ours
				x2, err := parseRange(append(appendRange(nil, x), x.data...))
				if err != nil || x2.id != x.id {
					t.Fatalf("%+v, %v", x2, err)
				}
			}
		}
	})
}

// A range that is on its way into the journal while its log is deleted must not bring the log back: a topic of the same name may have taken
// its place, of which nothing is in the journal yet.
func TestRangeBehindTheDeletionOfItsLog(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	l := openLog(t, s, testTopic, LogConfig{})
	appendBatch(t, l, batchOf(t, 3, 100, 0, nil))
	// What a committer does, with the deletion in between. The log's own committer may have been faster.
	h := l.active().h.acquire()
	late := young{log: l, upTo: l.end, h: h}
	payload, err := late.append(nil)
	must(t, err)
	must(t, h.release())
	must(t, s.DeleteLog(testTopic))
	must(t, s.propose(t.Context(), &proposal{records: []record{{recordRange, payload}}, logs: []*Log{l}, done: make(chan error, 1)}))
	next := testTopic
	next.TopicID[0]++
	openLog(t, s, next, LogConfig{})

	s = openStore(t, copyDir(t, dir), Options{})
	if l := openLog(t, s, next, LogConfig{}); l.EndOffset() != 0 {
		t.Errorf("the new log ends at %d", l.EndOffset())
	}
}
