package segment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mft/protocol"
)

// kv is a record; the value "-" stands for none.
type kv struct{ key, value string }

func keyed(t testing.TB, codec protocol.Codec, p *protocol.BatchProducer, ts int64, list ...kv) protocol.Batch {
	t.Helper()
	records := make([]protocol.Record, len(list))
	for i, r := range list {
		records[i] = protocol.Record{TimestampDelta: int64(i), Key: []byte(r.key), Value: []byte(r.value)}
		if r.value == "-" {
			records[i].Value = nil
		}
	}
	b, err := protocol.EncodeBatch(protocol.BatchOptions{Codec: codec, BaseTimestamp: ts, Producer: p}, records)
	must(t, err)
	return b
}

// stored is a record as it is read back.
type stored struct {
	offset, timestamp int64
	kv
}

// readRecords reads a log from an offset on as a consumer does, in pieces, and checks that offsets ascend.
func readRecords(t testing.TB, l *Log, from int64, maxBytes int) (all []stored, batches []protocol.Batch) {
	t.Helper()
	for next := from; next < l.HighWatermark(); {
		r, err := l.Read(next, maxBytes, true)
		if err != nil {
			t.Fatalf("read at %d: %v", next, err)
		}
		data := make([]byte, r.Len())
		if n, err := r.ReadAt(data, 0); n < len(data) || err != nil && err != io.EOF {
			t.Fatalf("read %d of %d bytes: %v", n, len(data), err)
		}
		must(t, r.Release())
		for first := true; ; first = false {
			b, rest, err := protocol.NextBatch(data)
			if err == io.EOF && !first {
				break
			}
			if err == nil {
				err = b.CheckCRC()
			}
			if err != nil || b.LastOffset() < next {
				t.Fatalf("at offset %d: batch to %d, %v", next, b.LastOffset(), err)
			}
			must(t, b.Records(func(r protocol.Record) bool {
				s := stored{b.BaseOffset() + int64(r.OffsetDelta), b.Timestamp(r), kv{string(r.Key), string(r.Value)}}
				if r.Value == nil {
					s.value = "-"
				}
				if s.offset >= from {
					all = append(all, s)
				}
				return true
			}))
			batches = append(batches, slices.Clone(b))
			next, data = b.LastOffset()+1, rest
		}
	}
	return all, batches
}

// lastValues is what a consumer who reads everything believes in the end.
func lastValues(records []stored) map[string]string {
	last := map[string]string{}
	for _, r := range records {
		if r.value == "-" {
			delete(last, r.key)
		} else {
			last[r.key] = r.value
		}
	}
	return last
}

func TestCompactionKeepsTheLastRecordOfEachKey(t *testing.T) {
	var clock testClock
	clock.ms.Store(10_000)
	dir := t.TempDir()
	o := clock.manual()
	o.CleanerBytes = 24 * 16 // 12 keys at a time
	s := openStore(t, dir, o)
	config := LogConfig{SegmentBytes: 4000, Compact: true, TombstoneRetention: time.Second}
	l := openLog(t, s, testTopic, config)
	for i := range 600 {
		appendBatch(t, l, keyed(t, protocol.Codec(i%5), nil, int64(i), kv{fmt.Sprint("k", i%40), fmt.Sprint("v", i)}, kv{fmt.Sprint("only", i%90), "w"}))
	}
	waitDurable(t, l)
	before, _ := readRecords(t, l, 0, 1<<20)
	size := l.Size()
	clean(t, s)
	after, _ := readRecords(t, l, 0, 1<<20)
	if !maps.Equal(lastValues(before), lastValues(after)) {
		t.Error("other last values")
	}
	l.mu.Lock()
	active := l.active().base
	l.mu.Unlock()
	if n := slices.IndexFunc(after, func(r stored) bool { return r.offset >= active }); n != 130 {
		t.Errorf("%d records before the active segment, want one for each of 130 keys", n)
	}
	if l.Size() > size/2 {
		t.Errorf("%d bytes of %d are left", l.Size(), size)
	}
	clean(t, s) // nothing more to do
	eventually(t, "nothing deleted is left", func() bool { return len(logFiles(t, l)) == segmentCount(l) })
	closeStore(t, s)
	s = openStore(t, dir, o)
	l = openLog(t, s, testTopic, config)
	if again, _ := readRecords(t, l, 0, 300); !slices.Equal(again, after) {
		t.Error("other records after a restart")
	}
	if l.compactedTo() != active {
		t.Errorf("compacted up to %d, want %d", l.compactedTo(), active)
	}
}

// A tombstone stays for TombstoneRetention after the first compaction that has seen it, and goes with a later one.
func TestTombstones(t *testing.T) {
	var clock testClock
	clock.ms.Store(10_000)
	s := openStore(t, t.TempDir(), clock.manual())
	l := openLog(t, s, testTopic, LogConfig{SegmentBytes: 200, Compact: true, TombstoneRetention: time.Second})
	roll := func() {
		appendBatch(t, l, keyed(t, protocol.None, nil, 50, kv{"filler", strings.Repeat("x", 150)}))
		appendBatch(t, l, keyed(t, protocol.None, nil, 50, kv{"filler", strings.Repeat("x", 150)}))
		waitDurable(t, l)
	}
	find := func(key string) (found []stored) {
		all, _ := readRecords(t, l, 0, 1<<20)
		for _, r := range all {
			if r.key == key {
				found = append(found, r)
			}
		}
		return found
	}
	appendBatch(t, l, keyed(t, protocol.None, nil, 7, kv{"a", "1"}))
	appendBatch(t, l, keyed(t, protocol.None, nil, 8, kv{"a", "-"}))
	roll()
	for _, step := range []struct {
		now  int64
		want []stored
	}{
		{10_000, []stored{{1, 8, kv{"a", "-"}}}},
		{10_999, []stored{{1, 8, kv{"a", "-"}}}},
		{11_000, nil},
	} {
		clock.ms.Store(step.now)
		clean(t, s)
		if got := find("a"); !slices.Equal(got, step.want) {
			t.Errorf("at %d: %v, want %v", step.now, got, step.want)
		}
		roll()
	}
}

// Records younger than the lag stay, and so does everything behind the segment they are in; so does a log that is too clean.
func TestCompactionLagAndRatio(t *testing.T) {
	var clock testClock
	clock.ms.Store(1500)
	s := openStore(t, t.TempDir(), clock.manual())
	config := LogConfig{SegmentBytes: 1000, Compact: true, MinCompactionLag: time.Second}
	l := openLog(t, s, testTopic, config)
	for i := range 100 {
		appendBatch(t, l, keyed(t, protocol.None, nil, int64(10*i), kv{"k", strings.Repeat("v", 50)}))
	}
	waitDurable(t, l)
	clean(t, s)
	all, _ := readRecords(t, l, 0, 1<<20)
	for i, r := range all {
		if i > 0 && r.timestamp > 510 && all[i-1].offset != r.offset-1 {
			t.Errorf("the record before that of %d ms is gone", r.timestamp)
		}
	}
	if len(all) == 100 || len(all) < 50 {
		t.Errorf("%d records are left", len(all))
	}
	config.MinCompactionLag, config.MinDirtyRatio = 0, 1
	l.SetConfig(config)
	clean(t, s)
	if again, _ := readRecords(t, l, 0, 1<<20); len(again) != len(all) {
		t.Errorf("%d records are left, want %d", len(again), len(all))
	}
	config.MinDirtyRatio = 0.1
	l.SetConfig(config)
	clean(t, s)
	if again, _ := readRecords(t, l, 0, 1<<20); len(again) > 15 {
		t.Errorf("%d records are left", len(again))
	}
}

// Records without a key go, and the two policies work together.
func TestCompactAndDelete(t *testing.T) {
	var clock testClock
	s := openStore(t, t.TempDir(), clock.manual())
	l := openLog(t, s, testTopic, LogConfig{SegmentBytes: 1000, Compact: true, Delete: true, RetentionTime: time.Second})
	fillLog(t, l, 20, 100) // without keys, 1000 to 1190 ms
	for i := range 40 {
		appendBatch(t, l, keyed(t, protocol.None, nil, 2000, kv{fmt.Sprint(i), "v"}))
	}
	waitDurable(t, l)
	clock.ms.Store(2000)
	clean(t, s)
	if l.StartOffset() != 0 {
		t.Errorf("start %d", l.StartOffset())
	}
	all, batches := readRecords(t, l, 0, 1<<20)
	if all[0].key != "0" || len(all) != 40 {
		t.Errorf("%d records, the first has key %q", len(all), all[0].key)
	}
	if b := batches[0]; b.NumRecords() != 0 && b.BaseOffset() == 0 {
		t.Errorf("batch %v", b)
	}
	clock.ms.Store(time.Now().Add(time.Minute).UnixMilli()) // a segment without records is as old as its file
	clean(t, s)
	if l.StartOffset() != l.EndOffset() {
		t.Errorf("start %d, end %d", l.StartOffset(), l.EndOffset())
	}
}

// The last batch of each producer stays, if need be without records, with its sequence numbers.
func TestCompactionKeepsProducersLastBatch(t *testing.T) {
	var clock testClock
	dir := t.TempDir()
	s := openStore(t, dir, clock.manual())
	l := openLog(t, s, testTopic, LogConfig{SegmentBytes: 1000, Compact: true})
	var last protocol.Batch
	for i := range 20 {
		last = keyed(t, protocol.Zstd, &protocol.BatchProducer{ID: 5, Sequence: int32(2 * i)}, 1, kv{"a", "x"}, kv{"b", "y"})
		appendBatch(t, l, last)
	}
	for range 30 {
		appendBatch(t, l, keyed(t, protocol.None, nil, 2, kv{"a", strings.Repeat("z", 60)}, kv{"b", "z"}))
	}
	waitDurable(t, l)
	clean(t, s)
	_, batches := readRecords(t, l, 0, 1<<20)
	i := slices.IndexFunc(batches, func(b protocol.Batch) bool { return b.ProducerID() == 5 && b.LastSequence() == 39 })
	if i < 0 || batches[i].NumRecords() != 0 {
		t.Fatalf("batch %d of %d", i, len(batches))
	}
	if a := appendBatch(t, l, last); !a.Duplicate {
		t.Errorf("a retry was appended: %+v", a)
	}
	appendBatch(t, l, keyed(t, protocol.None, &protocol.BatchProducer{ID: 5, Sequence: 40}, 3, kv{"a", "x"}))
}

// A crash at any moment of a replacement leaves the old segments or the new one.
func TestCrashInASwap(t *testing.T) {
	var clock testClock
	dir := t.TempDir()
	s := openStore(t, dir, clock.manual())
	config := LogConfig{SegmentBytes: 1000, Compact: true}
	l := openLog(t, s, testTopic, config)
	for i := range 60 {
		appendBatch(t, l, keyed(t, protocol.None, nil, int64(i), kv{fmt.Sprint(i % 7), strings.Repeat("v", 50)}))
	}
	waitDurable(t, l)
	must(t, s.Checkpoint(context.Background()))
	config.SegmentBytes = 4000 // several become one
	l.SetConfig(config)
	before, _ := readRecords(t, l, 0, 1<<20)
	old := copyDir(t, dir)
	oldFiles := logFiles(t, l)
	clean(t, s)
	after, _ := readRecords(t, l, 0, 1<<20)
	eventually(t, "nothing deleted is left", func() bool { return len(logFiles(t, l)) == segmentCount(l) })
	newFiles := logFiles(t, l)
	rel := filepath.Join(topicsName, testTopic.dirName())
	compacted, err := os.ReadFile(l.path(newFiles[0]))
	must(t, err)
	end, err := l.endOffset(newFiles[0])
	must(t, err)
	var group []string
	for _, name := range oldFiles {
		if base, _ := parseSegmentName(name, ""); base < end {
			group = append(group, name)
		}
	}
	if len(group) < 3 || len(newFiles) < 2 {
		t.Fatalf("%v became %v", oldFiles, newFiles)
	}
	closeStore(t, s)
	type moment struct {
		name    string
		prepare func(at string) // in the log's directory
		done    bool
	}
	moments := []moment{
		{"while writing", func(at string) {
			must(t, os.WriteFile(filepath.Join(at, group[0]+cleanedSuffix), compacted[:len(compacted)/2], 0o644))
		}, false},
		{"before the rename", func(at string) {
			must(t, os.WriteFile(filepath.Join(at, group[0]+cleanedSuffix), compacted, 0o644))
		}, false},
	}
	for n := range len(group) + 1 {
		moments = append(moments, moment{fmt.Sprintf("%d of %d old segments gone", n, len(group)), func(at string) {
			must(t, os.WriteFile(filepath.Join(at, group[0]+swapSuffix), compacted, 0o644))
			for _, name := range group[:n] {
				must(t, os.Rename(filepath.Join(at, name), filepath.Join(at, name+".77"+removedSuffix)))
			}
		}, true})
	}
	for _, m := range moments {
		t.Run(m.name, func(t *testing.T) {
			at := copyDir(t, old)
			m.prepare(filepath.Join(at, rel))
			s := openStore(t, at, clock.manual())
			l := openLog(t, s, testTopic, config)
			got, _ := readRecords(t, l, 0, 1<<20)
			if !m.done && !slices.Equal(got, before) {
				t.Error("other records than before the crash")
			}
			if !maps.Equal(lastValues(got), lastValues(before)) {
				t.Error("other last values")
			}
			clean(t, s) // and it goes on
			if got, _ := readRecords(t, l, 0, 1<<20); !slices.Equal(got, after) {
				t.Error("other records after compacting")
			}
			eventually(t, "only segments are left", func() bool { return len(logFiles(t, l)) == segmentCount(l) })
			appendBatch(t, l, keyed(t, protocol.None, nil, 1, kv{"k", "v"}))
			waitDurable(t, l)
		})
	}
	// A replacement that is damaged is not made use of.
	at := copyDir(t, old)
	must(t, os.WriteFile(filepath.Join(at, rel, group[0]+swapSuffix), flipped(-1)(compacted), 0o644))
	s = openStore(t, at, clock.manual())
	if _, err := s.OpenLog(testTopic, config); !isCorruption(err) {
		t.Errorf("a damaged replacement: %v", err)
	}
}

// Damage is not compacted away.
func TestCompactionStopsAtDamage(t *testing.T) {
	var clock testClock
	s := openStore(t, t.TempDir(), clock.manual())
	l := openLog(t, s, testTopic, LogConfig{SegmentBytes: 1000, Compact: true})
	for i := range 60 {
		appendBatch(t, l, keyed(t, protocol.None, nil, int64(i), kv{fmt.Sprint(i % 7), strings.Repeat("v", 50)}))
	}
	waitDurable(t, l)
	files := logFiles(t, l)
	edit(t, l.path(files[1]), flipped(300))
	size := l.Size()
	if err := s.Clean(t.Context()); !isCorruption(err) {
		t.Fatalf("clean: %v", err)
	}
	if l.Size() != size || !slices.Equal(logFiles(t, l), files) {
		t.Errorf("%v became %v", files, logFiles(t, l))
	}
	clean(t, s) // is left alone for a while
	edit(t, l.path(files[1]), flipped(300))
	clock.ms.Add(cleanRetry.Milliseconds())
	clean(t, s)
	if l.Size() >= size {
		t.Error("nothing was compacted after the damage was mended")
	}
}

// compactionRun appends, compacts, restarts and crashes at random, and holds what is in the log against the history of all appends: the last
// value of each key is the same, and everything that is read was written at that offset.
func compactionRun(t *testing.T, seed uint64, steps int) {
	rng := rand.New(rand.NewPCG(seed, 42))
	var clock testClock
	clock.ms.Store(1_000_000)
	o := clock.manual()
	o.CleanerBytes = 24 * (4 + rng.IntN(40))
	dir := t.TempDir()
	config := LogConfig{SegmentBytes: 600 + int64(rng.IntN(3000)), IndexIntervalBytes: 1 + rng.IntN(500), Compact: true, TombstoneRetention: time.Duration(rng.IntN(300)) * time.Millisecond}
	s := openStore(t, dir, o)
	l := openLog(t, s, testTopic, config)
	var history []stored
	sequences := [3]int32{}
	check := func(step string) {
		t.Helper()
		waitDurable(t, l)
		got, _ := readRecords(t, l, 0, 1+rng.IntN(3000))
		if !maps.Equal(lastValues(got), lastValues(history)) {
			t.Fatalf("seed %d, after %s: other last values: %v, want %v", seed, step, lastValues(got), lastValues(history))
		}
		for i, r := range got {
			if r != history[r.offset] || i > 0 && got[i-1].offset >= r.offset {
				t.Fatalf("seed %d, after %s: %v was written as %v", seed, step, r, history[r.offset])
			}
		}
		if l.EndOffset() != int64(len(history)) {
			t.Fatalf("seed %d, after %s: the log ends at %d, want %d", seed, step, l.EndOffset(), len(history))
		}
		if len(got) == 0 {
			return
		}
		// From anywhere on, and by time.
		from := rng.Int64N(l.EndOffset())
		rest, _ := readRecords(t, l, from, 1<<20)
		want := slices.DeleteFunc(slices.Clone(got), func(r stored) bool { return r.offset < from })
		if !slices.Equal(rest, want) {
			t.Fatalf("seed %d, after %s: from %d: %d records, want %d", seed, step, from, len(rest), len(want))
		}
		ts := got[rng.IntN(len(got))].timestamp
		first := slices.IndexFunc(got, func(r stored) bool { return r.timestamp >= ts })
		offset, at, _, err := l.OffsetForTime(ts)
		if err != nil || offset != got[first].offset || at != got[first].timestamp {
			t.Fatalf("seed %d, after %s: time %d is at %d (%d): %v, want %v", seed, step, ts, offset, at, err, got[first])
		}
	}
	for range steps {
		switch n := rng.IntN(20); {
		case n < 14:
			list := make([]kv, 1+rng.IntN(6))
			for i := range list {
				list[i] = kv{fmt.Sprint("key", rng.IntN(30)), strings.Repeat("v", rng.IntN(50)) + fmt.Sprint(len(history)+i)}
				if rng.IntN(4) == 0 {
					list[i].value = "-"
				}
			}
			var p *protocol.BatchProducer
			if id := rng.IntN(6); id < 3 {
				p = &protocol.BatchProducer{ID: int64(id), Sequence: sequences[id]}
				sequences[id] += int32(len(list))
			}
			ts := clock.ms.Add(int64(rng.IntN(50))) - int64(rng.IntN(100))
			b := keyed(t, protocol.Codec(rng.IntN(5)), p, ts, list...)
			a := appendBatch(t, l, b)
			if a.BaseOffset != int64(len(history)) {
				t.Fatalf("%+v, want %d", a, len(history))
			}
			for i, r := range list {
				history = append(history, stored{a.BaseOffset + int64(i), ts + int64(i), r})
			}
			if p != nil && rng.IntN(5) == 0 {
				if again := appendBatch(t, l, b); !again.Duplicate || again.BaseOffset != a.BaseOffset {
					t.Fatalf("a retry was appended: %+v", again)
				}
			}
		case n < 17:
			waitDurable(t, l)
			clean(t, s)
			check("cleaning")
		case n == 17:
			waitDurable(t, l)
			must(t, s.Checkpoint(context.Background()))
		case n == 18: // a crash
			waitDurable(t, l)
			dir = copyDir(t, dir)
			closeStore(t, s)
			s = openStore(t, dir, o)
			l = openLog(t, s, testTopic, config)
			check("a crash")
		default:
			closeStore(t, s)
			s = openStore(t, dir, o)
			l = openLog(t, s, testTopic, config)
			check("a restart")
		}
	}
	check("all")
	closeStore(t, s)
}

func TestCompactionAgainstModel(t *testing.T) {
	for seed := range uint64(12) {
		compactionRun(t, seed, 150)
	}
}

func FuzzCompaction(f *testing.F) {
	f.Add(uint64(1000))
	f.Fuzz(func(t *testing.T, seed uint64) { compactionRun(t, seed, 80) })
}

// Readers, appends and compaction do not wait for each other, and readers never see anything but whole records in order.
func TestCompactionBesideReaders(t *testing.T) {
	var clock testClock
	s := openStore(t, t.TempDir(), clock.manual())
	l := openLog(t, s, testTopic, LogConfig{SegmentBytes: 3000, IndexIntervalBytes: 300, Compact: true})
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Second)
	defer stop()
	errs := make(chan error, 4)
	go func() {
		for i := 0; ctx.Err() == nil; i++ {
			b, err := protocol.EncodeBatch(protocol.BatchOptions{BaseTimestamp: int64(i)}, []protocol.Record{{Key: fmt.Append(nil, i%50), Value: bytes.Repeat([]byte("v"), i%200)}})
			if err == nil {
				var a Appended
				if a, err = l.Append(b); err == nil && i%20 == 0 {
					err = l.Wait(t.Context(), a.LastOffset+1)
				}
			}
			if err != nil {
				errs <- err
				return
			}
		}
		errs <- nil
	}()
	for range 2 {
		go func() { errs <- scanOverAndOver(ctx, l) }()
	}
	go func() {
		for ctx.Err() == nil {
			if err := s.Clean(t.Context()); err != nil {
				errs <- err
				return
			}
		}
		errs <- nil
	}()
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	waitDurable(t, l)
	clean(t, s)
	all, _ := readRecords(t, l, 0, 1<<20)
	if got := lastValues(all); len(got) != 50 {
		t.Errorf("%d keys are left", len(got))
	}
	eventually(t, "nothing deleted is left", func() bool { return len(logFiles(t, l)) == segmentCount(l) })
}

func scanOverAndOver(ctx context.Context, l *Log) error {
	for ctx.Err() == nil {
		for next := int64(0); next < l.HighWatermark(); {
			r, err := l.Read(next, 1000+int(next%3000), true)
			if err != nil {
				return fmt.Errorf("read at %d: %w", next, err)
			}
			data := make([]byte, r.Len())
			_, err = r.ReadAt(data, 0)
			if err == io.EOF {
				err = nil
			}
			if err = errors.Join(err, r.Release()); err != nil {
				return err
			}
			for len(data) > 0 {
				b, rest, err := protocol.NextBatch(data)
				if err == nil {
					err = b.CheckCRC()
				}
				if err != nil {
					return fmt.Errorf("at %d: %w", next, err)
				}
				if b.LastOffset() < next {
					return fmt.Errorf("a batch to %d after %d", b.LastOffset(), next)
				}
				next, data = b.LastOffset()+1, rest
			}
			if _, _, _, err := l.OffsetForTime(next / 2); err != nil {
				return err
			}
		}
	}
	return nil
}

// On a full disk compaction leaves things as they are, and retention makes room.
func TestCleaningAFullDisk(t *testing.T) {
	dir, _ := smallDisk(t)
	var clock testClock
	s := openStore(t, dir, clock.manual())
	config := LogConfig{SegmentBytes: 300 << 10, Compact: true}
	l := openLog(t, s, testTopic, config)
	value := strings.Repeat("v", 3000)
	for i := 0; ; i++ {
		_, err := l.Append(keyed(t, protocol.None, nil, int64(i), kv{fmt.Sprint(i), value}, kv{"again", value}))
		var storage *StorageError
		if errors.As(err, &storage) {
			break
		}
		must(t, err)
		if i == 100 { // while there is room for it: some of the log is settled
			waitDurable(t, l)
			must(t, s.Checkpoint(context.Background()))
		}
	}
	waitDurable(t, l)
	before, _ := readRecords(t, l, 0, 1<<20)
	files := segmentCount(l)
	if err := s.Clean(t.Context()); err == nil {
		t.Fatal("there was room for compaction")
	}
	must(t, s.Err())
	if after, _ := readRecords(t, l, 0, 1<<20); !slices.Equal(after, before) || len(logFiles(t, l)) != files {
		t.Errorf("%d records, want %d; %v", len(after), len(before), logFiles(t, l))
	}
	l.SetConfig(LogConfig{SegmentBytes: 300 << 10, Delete: true, RetentionBytes: 1})
	for n := 0; segmentCount(l) > 1; n++ {
		clock.ms.Add(cleanRetry.Milliseconds() + 1)
		if err := s.Clean(t.Context()); err != nil && n > 5 {
			t.Fatal(err)
		}
		eventually(t, "nothing deleted is left", func() bool { return len(logFiles(t, l)) == segmentCount(l) })
	}
	appendBatch(t, l, keyed(t, protocol.None, nil, 1, kv{"k", value}))
	waitDurable(t, l)
}
