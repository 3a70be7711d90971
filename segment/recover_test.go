package segment

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"mft/protocol"
)

// logFile returns the path of the n-th .log file of the test topic, from the end if n is negative.
func logFile(t testing.TB, dir string, n int) string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, topicsName, testTopic.dirName(), "*.log"))
	must(t, err)
	if n < 0 {
		n += len(paths)
	}
	return paths[n]
}

// A log with a checkpoint in its second segment and records behind it, damaged in every way, either recovers the longest valid prefix,
// which holds all that the checkpoint vouches for, and goes on, or is refused as damaged.
func TestRecovery(t *testing.T) {
	dir := t.TempDir()
	config := LogConfig{SegmentBytes: 12 << 10, IndexIntervalBytes: 1 << 10}
	s := openStore(t, dir, Options{})
	l := openLog(t, s, testTopic, config)
	batch := func(i int) protocol.Batch {
		return batchOf(t, 2, 450, int64(i), &protocol.BatchProducer{ID: 7, Sequence: int32(2 * i)})
	}
	size := len(batch(0))
	n := 0
	add := func(count int) {
		for range count {
			appendBatch(t, l, batch(n))
			n++
		}
		waitDurable(t, l)
	}
	add(20) // 12 in the first segment
	must(t, s.Checkpoint(context.Background()))
	add(20) // up to 24 in the second, 36 in the third, 4 in the fourth
	whole := copyDir(t, dir)
	want := contents(t, l)
	closed := func() string { closeStore(t, s); return dir }()
	const durable = 20 // of 40

	for _, tc := range []struct {
		name    string
		from    string
		corrupt func(dir string)
		left    int   // batches
		cut     int64 // bytes
		damaged bool
	}{
		{"nothing", whole, func(string) {}, 40, 0, false},
		{"nothing, closed cleanly", closed, func(string) {}, 40, 0, false},
		{"tail cut by a byte", whole, func(d string) { edit(t, logFile(t, d, -1), cutBy(1)) }, 39, int64(size) - 1, false},
		{"tail cut to a header", whole, func(d string) { edit(t, logFile(t, d, -1), cutBy(size-61)) }, 39, 61, false},
		{"tail cut to one byte", whole, func(d string) { edit(t, logFile(t, d, -1), cutBy(size-1)) }, 39, 1, false},
		{"tail gone", whole, func(d string) { edit(t, logFile(t, d, -1), cutBy(size)) }, 39, 0, false},
		{"last segment empty", whole, func(d string) { edit(t, logFile(t, d, -1), cutBy(4*size)) }, 36, 0, false},
		{"trailing zeros", whole, func(d string) { edit(t, logFile(t, d, -1), with(make([]byte, 5000)...)) }, 40, 5000, false},
		{"trailing garbage", whole, func(d string) { edit(t, logFile(t, d, -1), with(bytes.Repeat([]byte{0xaa}, 200)...)) }, 40, 200, false},
		{"an old batch again", whole, func(d string) {
			edit(t, logFile(t, d, -1), func(b []byte) []byte { return append(b, b[:size]...) })
		}, 40, int64(size), false},
		{"a batch that leaves a gap", whole, func(d string) {
			edit(t, logFile(t, d, -1), func(b []byte) []byte {
				gap := slices.Clone(b[:size])
				protocol.Batch(gap).SetBaseOffset(81)
				return append(b, gap...)
			})
		}, 40, int64(size), false},
		{"a batch of a later epoch", whole, func(d string) {
			edit(t, logFile(t, d, -1), func(b []byte) []byte {
				later := slices.Clone(b[:size])
				protocol.Batch(later).SetBaseOffset(80)
				protocol.Batch(later).SetPartitionLeaderEpoch(99)
				return append(b, later...)
			})
		}, 40, int64(size), false},
		{"a whole batch that was not acked", whole, func(d string) {
			edit(t, logFile(t, d, -1), func(b []byte) []byte {
				next := batch(40)
				next.SetBaseOffset(80)
				next.SetPartitionLeaderEpoch(1)
				return append(b, next...)
			})
		}, 41, 0, false},
		{"last data bit flipped", whole, func(d string) { edit(t, logFile(t, d, -1), flipped(-1)) }, 39, int64(size), false},
		{"a huge length at the tail", whole, func(d string) {
			edit(t, logFile(t, d, -1), func(b []byte) []byte { b[3*size+8] = 0x7f; return b })
		}, 39, int64(size), false},
		{"active segment missing", whole, func(d string) { must(t, os.Remove(logFile(t, d, -1))) }, 0, 0, true},
		{"both segments since the checkpoint missing", whole, func(d string) {
			must(t, os.Remove(logFile(t, d, 3)))
			must(t, os.Remove(logFile(t, d, 2)))
		}, 0, 0, true},
		{"a closed segment cut", whole, func(d string) { edit(t, logFile(t, d, 2), cutBy(1)) }, 0, 0, true},
		{"a closed segment damaged", whole, func(d string) { edit(t, logFile(t, d, 2), flipped(3*size)) }, 0, 0, true},
		{"a closed segment missing", whole, func(d string) { must(t, os.Remove(logFile(t, d, 2))) }, 0, 0, true},
		{"the checkpoint's segment missing", whole, func(d string) { must(t, os.Remove(logFile(t, d, 1))) }, 0, 0, true},
		{"all segments missing", whole, func(d string) {
			for range 4 {
				must(t, os.Remove(logFile(t, d, 0)))
			}
		}, 0, 0, true},
		{"cut before the checkpoint", whole, func(d string) {
			must(t, os.Remove(logFile(t, d, 3)))
			must(t, os.Remove(logFile(t, d, 2)))
			edit(t, logFile(t, d, 1), func(b []byte) []byte { return b[:(durable-12)*size-1] })
		}, 0, 0, true},
		{"cut by a byte after a clean stop", closed, func(d string) { edit(t, logFile(t, d, -1), cutBy(1)) }, 0, 0, true},
		{"the directory missing", whole, func(d string) {
			must(t, os.RemoveAll(filepath.Join(d, topicsName, testTopic.dirName())))
		}, 0, 0, true},
		{"partition.metadata missing", whole, func(d string) {
			must(t, os.Remove(filepath.Join(d, topicsName, testTopic.dirName(), metadataName)))
		}, 0, 0, true},
		{"another topic's directory", whole, func(d string) {
			must(t, writeMetadata(filepath.Join(d, topicsName, testTopic.dirName()), [16]byte{9}))
		}, 0, 0, true},
		{"index files missing", whole, func(d string) {
			paths, err := filepath.Glob(filepath.Join(d, topicsName, "*", "*index"))
			must(t, err)
			for _, p := range paths {
				must(t, os.Remove(p))
			}
		}, 40, 0, false},
		{"temporary files left", whole, func(d string) {
			must(t, os.WriteFile(filepath.Join(d, topicsName, testTopic.dirName(), temporaryPrefix+"1"), nil, 0o644))
		}, 40, 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := copyDir(t, tc.from)
			tc.corrupt(d)
			s := openStore(t, d, Options{})
			l, err := s.OpenLog(testTopic, config)
			if tc.damaged {
				var c *CorruptionError
				if !errors.As(err, &c) || c.Dir == "" || c.Reason == "" {
					t.Fatalf("opened, or %v", err)
				}
				return
			}
			must(t, err)
			if l.Recovery().Cut != tc.cut {
				t.Errorf("%d bytes cut, want %d", l.Recovery().Cut, tc.cut)
			}
			got := contents(t, l)
			if !bytes.Equal(got[:min(len(got), len(want))], want[:min(tc.left, 40)*size]) || len(got) != tc.left*size {
				t.Fatalf("%d batches, want %d, or others", len(got)/size, tc.left)
			}
			if l.EndOffset() != int64(2*tc.left) || l.DurableOffset() != l.EndOffset() {
				t.Errorf("end %d, durable %d", l.EndOffset(), l.DurableOffset())
			}
			// A retry of the last batch is a duplicate, and the next one goes on, here and after another restart.
			for next := tc.left; next < tc.left+20; next++ {
				a := appendBatch(t, l, batch(next-1))
				if !a.Duplicate || a.BaseOffset != int64(2*(next-1)) {
					t.Fatalf("retry of batch %d: %+v", next-1, a)
				}
				if a := appendBatch(t, l, batch(next)); a.BaseOffset != int64(2*next) || a.Duplicate {
					t.Fatalf("batch %d: %+v", next, a)
				}
			}
			waitDurable(t, l)
			got = contents(t, l)
			checkTimes(t, l)
			again := copyDir(t, d)
			closeStore(t, s)
			for _, at := range []string{d, again} {
				s := openStore(t, at, Options{})
				l := openLog(t, s, testTopic, config)
				if !bytes.Equal(contents(t, l), got) || l.Recovery().Cut != 0 {
					t.Errorf("after another restart: %d bytes, want %d; %+v", l.Size(), len(got), l.Recovery())
				}
				checkTimes(t, l)
			}
		})
	}
}

// A batch that cannot be read is reported with its place, and the others can be read.
func TestDamageWhileReading(t *testing.T) {
	dir := t.TempDir()
	config := LogConfig{IndexIntervalBytes: 1 << 10}
	s := openStore(t, dir, Options{})
	l := openLog(t, s, testTopic, config)
	b := batchOf(t, 1, 450, 0, nil)
	for range 20 {
		appendBatch(t, l, b)
	}
	waitDurable(t, l)
	at := 11 * len(b)
	edit(t, logFile(t, dir, 0), func(data []byte) []byte { data[at+16] = 7; return data })
	for offset := range int64(20) {
		r, err := l.Read(offset, 12*len(b), true)
		var c *CorruptionError
		if offset == 11 {
			if !errors.As(err, &c) || c.Offset != int64(at) || c.Dir != l.Dir() || c.File != logName(0) {
				t.Errorf("read at %d: %v", offset, err)
			}
			continue
		}
		if errors.As(err, &c) && offset > 11 && offset < 16 {
			continue // its index entry leads before the damage
		}
		must(t, err)
		must(t, r.Release())
	}
}

func TestOpenLogChecksNames(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	for _, id := range []LogID{{Topic: ""}, {Topic: ".."}, {Topic: "../x"}, {Topic: "a/b"}, {Topic: "a", Partition: -1}, {Topic: string(make([]byte, 250))}} {
		if _, err := s.OpenLog(id, LogConfig{}); err == nil {
			t.Errorf("%q opened", id.Topic)
		}
	}
	l := openLog(t, s, testTopic, LogConfig{})
	if again := openLog(t, s, testTopic, LogConfig{}); again != l {
		t.Error("another log")
	}
	other := testTopic
	other.TopicID[0]++
	if _, err := s.OpenLog(other, LogConfig{}); err == nil {
		t.Error("opened with another topic id")
	}
}

func TestManyLogsOpenFast(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	const n = 300
	for i := range int32(n) {
		l := openLog(t, s, LogID{"many", [16]byte{1}, i}, LogConfig{})
		if i%3 > 0 {
			appendBatch(t, l, batchOf(t, 1, 10, 0, nil))
		}
	}
	crashed := copyDir(t, dir)
	closeStore(t, s)
	for _, at := range []string{dir, crashed} {
		s := openStore(t, at, Options{})
		for i := range int32(n) {
			l := openLog(t, s, LogID{"many", [16]byte{1}, i}, LogConfig{})
			if want := int64(min(i%3, 1)); l.EndOffset() != want {
				t.Fatalf("log %d ends at %d", i, l.EndOffset())
			}
			if at == dir && l.Recovery().Scanned > 0 {
				t.Error("a log was read after a clean stop")
			}
		}
	}
}

// FuzzRecovery: whatever follows whole batches in an active segment, they survive, only whole batches that go on are added to them, and the log goes on.
func FuzzRecovery(f *testing.F) {
	b := batchOf(f, 2, 20, 0, nil)
	b.SetBaseOffset(6)
	f.Add(uint8(3), true, []byte{})
	f.Add(uint8(3), false, make([]byte, 1000))
	f.Add(uint8(3), true, []byte(b))
	f.Add(uint8(3), true, []byte(b[:len(b)-1]))
	f.Add(uint8(0), false, []byte(b))
	f.Add(uint8(3), false, append(slices.Clone([]byte(b)), 0, 0, 0))
	huge := slices.Clone([]byte(b))
	binary.BigEndian.PutUint32(huge[8:], 1<<31-1)
	f.Add(uint8(3), true, huge)
	type base struct {
		dir      string
		contents []byte
	}
	bases := map[string]base{} // what the tail is put behind
	makeBase := func(n uint8, checkpoint bool) base {
		dir := f.TempDir()
		s := openStore(f, dir, Options{})
		l := openLog(f, s, testTopic, LogConfig{})
		for range n {
			appendBatch(f, l, batchOf(f, 2, 20, 0, nil))
		}
		waitDurable(f, l)
		if checkpoint {
			must(f, s.Checkpoint(context.Background()))
		}
		b := base{copyDir(f, dir), contents(f, l)}
		closeStore(f, s)
		return b
	}
	for n := range uint8(8) {
		for _, checkpoint := range []bool{true, false} {
			bases[fmt.Sprint(n, checkpoint)] = makeBase(n, checkpoint)
		}
	}
	f.Fuzz(func(t *testing.T, n uint8, checkpoint bool, tail []byte) {
		from := bases[fmt.Sprint(n%8, checkpoint)]
		want := from.contents
		crashed := copyDir(t, from.dir)
		edit(t, logFile(t, crashed, -1), with(tail...))
		s := openStore(t, crashed, Options{})
		l := openLog(t, s, testTopic, LogConfig{})
		got := contents(t, l)
		if !bytes.HasPrefix(got, want) || !bytes.HasPrefix(tail, got[len(want):]) {
			t.Fatalf("%d bytes where %d were, and not those", len(got), len(want))
		}
		if l.Recovery().Cut != int64(len(tail)-(len(got)-len(want))) {
			t.Fatalf("%d bytes cut", l.Recovery().Cut)
		}
		end := l.EndOffset()
		if a := appendBatch(t, l, batchOf(t, 1, 5, 0, nil)); a.BaseOffset != end {
			t.Fatalf("went on at %d instead of %d", a.BaseOffset, end)
		}
		waitDurable(t, l)
		if n := len(contents(t, l)); int64(n) != l.Size() {
			t.Fatalf("%d of %d bytes can be read", n, l.Size())
		}
	})
}
