package segment

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"mft/protocol"
)

func TestAppendAndRead(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	l := openLog(t, s, testTopic, LogConfig{})
	a := appendBatch(t, l, batchOf(t, 3, 10, 1000, nil))
	if a != (Appended{BaseOffset: 0, LastOffset: 2}) {
		t.Errorf("%+v", a)
	}
	two := append(batchOf(t, 1, 10, 2000, nil), batchOf(t, 2, 10, 3000, nil)...)
	if a, err := l.Append(two); err != nil || a != (Appended{BaseOffset: 3, LastOffset: 5}) {
		t.Errorf("%+v, %v", a, err)
	}
	waitDurable(t, l)
	if l.EndOffset() != 6 || l.DurableOffset() != 6 || l.HighWatermark() != 6 || l.StartOffset() != 0 {
		t.Errorf("end %d, durable %d, high watermark %d, start %d", l.EndOffset(), l.DurableOffset(), l.HighWatermark(), l.StartOffset())
	}
	batches := readAll(t, l, 0, 1<<20)
	if len(batches) != 3 {
		t.Fatalf("%d batches", len(batches))
	}
	for _, b := range batches {
		if b.PartitionLeaderEpoch() != s.Epoch() {
			t.Errorf("leader epoch %d", b.PartitionLeaderEpoch())
		}
	}
	file, err := os.ReadFile(filepath.Join(l.Dir(), "00000000000000000000.log"))
	if err != nil || !bytes.Equal(file, contents(t, l)) || int64(len(file)) != l.Size() {
		t.Errorf("the file has %d bytes, the log %d, %v", len(file), l.Size(), err)
	}
	if metadata, err := os.ReadFile(filepath.Join(l.Dir(), metadataName)); err != nil || string(metadata) != "version: 0\ntopic_id: AQIDAAAAAAAAAAAAAAAAAA\n" {
		t.Errorf("%q, %v", metadata, err)
	}
}

func TestAppendRefuses(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	l := openLog(t, s, testTopic, LogConfig{})
	b := batchOf(t, 1, 10, 0, nil)
	for name, bytes := range map[string][]byte{"nothing": nil, "half a batch": b[:len(b)-1], "a header": b[:61], "garbage": make([]byte, 100), "a batch and a bit": append(slices.Clone(b), 1)} {
		if _, err := l.Append(bytes); err == nil {
			t.Errorf("%s was appended", name)
		}
	}
	if l.EndOffset() != 0 || l.Size() != 0 {
		t.Errorf("end %d, %d bytes", l.EndOffset(), l.Size())
	}
}

func TestReadBounds(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	l := openLog(t, s, testTopic, LogConfig{})
	b := batchOf(t, 2, 100, 0, nil)
	size := len(b)
	for range 5 {
		appendBatch(t, l, b)
	}
	waitDurable(t, l)
	for _, tc := range []struct {
		offset     int64
		maxBytes   int
		atLeastOne bool
		base       int64 // of the first batch
		batches    int
		err        error
	}{
		{0, 10 * size, true, 0, 5, nil},
		{1, 10 * size, true, 0, 5, nil}, // the batch that contains it
		{2, 10 * size, true, 2, 4, nil},
		{9, 10 * size, true, 8, 1, nil},
		{10, 10 * size, true, 0, 0, nil},
		{11, 10 * size, true, 0, 0, ErrOffsetOutOfRange},
		{-1, 10 * size, true, 0, 0, ErrOffsetOutOfRange},
		{0, 5 * size, false, 0, 5, nil},
		{0, 5*size - 1, false, 0, 4, nil},
		{0, 2*size + 1, false, 0, 2, nil},
		{0, 2 * size, false, 0, 2, nil},
		{0, 2*size - 1, false, 0, 1, nil},
		{0, size, false, 0, 1, nil},
		{0, size - 1, false, 0, 0, nil},
		{0, size - 1, true, 0, 1, nil},
		{4, 0, true, 4, 1, nil},
		{4, 0, false, 4, 0, nil},
	} {
		r, err := l.Read(tc.offset, tc.maxBytes, tc.atLeastOne)
		if !errors.Is(err, tc.err) {
			t.Errorf("%+v: %v", tc, err)
		}
		if err != nil {
			continue
		}
		if r.Len() != int64(tc.batches*size) || r.HighWatermark != 10 || r.StartOffset != 0 {
			t.Errorf("%+v: %d bytes, high watermark %d", tc, r.Len(), r.HighWatermark)
		}
		var out bytes.Buffer
		if n, err := r.WriteTo(&out); err != nil || n != r.Len() || out.Len() != int(n) {
			t.Errorf("WriteTo: %d, %v", n, err)
		}
		if f, at := r.File(); r.Len() > 0 {
			direct := make([]byte, r.Len())
			if _, err := f.ReadAt(direct, at); err != nil || !bytes.Equal(direct, out.Bytes()) {
				t.Errorf("%+v: File differs from WriteTo, %v", tc, err)
			}
			if got := protocol.Batch(direct).BaseOffset(); got != tc.base {
				t.Errorf("%+v: begins at %d", tc, got)
			}
		} else if f != nil {
			t.Error("a file for an empty range")
		}
		if _, err := r.ReadAt(make([]byte, 1), r.Len()); err != io.EOF {
			t.Errorf("read behind the range: %v", err)
		}
		must(t, r.Release())
		must(t, r.Release())
	}
}

// Index and log agree however the batches are cut, over several segments, for every offset and many sizes; also after a restart.
func TestReadEverywhere(t *testing.T) {
	dir := t.TempDir()
	config := LogConfig{SegmentBytes: 30 << 10, IndexIntervalBytes: 1 << 10}
	s := openStore(t, dir, Options{})
	l := openLog(t, s, testTopic, config)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 300 {
		appendBatch(t, l, batchOf(t, 1+rng.IntN(4), rng.IntN(500), 1000+int64(i), nil))
	}
	waitDurable(t, l)
	check := func(l *Log) {
		t.Helper()
		all := readAll(t, l, 0, 10<<10)
		if !bytes.Equal(contents(t, l), slices.Concat(readAllBytes(all)...)) {
			t.Fatal("two reads differ")
		}
		if len(l.segments) < 8 {
			t.Fatalf("%d segments", len(l.segments))
		}
		for _, b := range all {
			for offset := b.BaseOffset(); offset <= b.LastOffset(); offset++ {
				r, err := l.Read(offset, 1+rng.IntN(5000), true)
				must(t, err)
				got := make([]byte, r.Len())
				if _, err := r.ReadAt(got, 0); err != nil {
					t.Fatal(err)
				}
				if !bytes.HasPrefix(got, b) {
					t.Fatalf("read at %d does not begin with its batch", offset)
				}
				must(t, r.Release())
			}
		}
	}
	check(l)
	want := contents(t, l)
	crashed := copyDir(t, dir)
	closeStore(t, s)
	for _, at := range []string{dir, crashed} {
		s := openStore(t, at, Options{})
		l := openLog(t, s, testTopic, config)
		if !bytes.Equal(contents(t, l), want) {
			t.Fatal("other contents after a restart")
		}
		check(l)
	}
	checkIndexFiles(t, dir)
}

// checkIndexFiles checks every index entry against the log as Kafka's DumpLogSegments does.
func checkIndexFiles(t *testing.T, dir string) {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(dir, topicsName, "*", "*.log"))
	must(t, err)
	entries := 0
	for _, path := range logs {
		var base int64
		if _, err := fmt.Sscanf(filepath.Base(path), "%d.log", &base); err != nil {
			t.Fatal(err)
		}
		at, times := map[int64]int64{}, map[int64]int64{}
		_, err := ScanSegment(path, func(position int64, b protocol.Batch) error {
			at[b.LastOffset()], times[b.LastOffset()] = position, b.MaxTimestamp()
			return nil
		})
		must(t, err)
		index, err := os.ReadFile(path[:len(path)-4] + ".index")
		if errors.Is(err, os.ErrNotExist) {
			continue // of an active segment that is too small
		}
		must(t, err)
		last := int64(-1)
		for i := 0; i+8 <= len(index); i += 8 {
			offset, position := base+int64(binary.BigEndian.Uint32(index[i:])), int64(binary.BigEndian.Uint32(index[i+4:]))
			if p, ok := at[offset]; !ok || p != position || offset <= last {
				t.Errorf("%s: entry %d says that offset %d is at %d", path, i/8, offset, position)
			}
			last = offset
			entries++
		}
		index, err = os.ReadFile(path[:len(path)-4] + ".timeindex")
		must(t, err)
		last = -1
		for i := 0; i+12 <= len(index); i += 12 {
			ts, offset := int64(binary.BigEndian.Uint64(index[i:])), base+int64(binary.BigEndian.Uint32(index[i+8:]))
			if when, ok := times[offset]; !ok || when != ts || ts <= last {
				t.Errorf("%s: time entry %d says that offset %d has %d", path, i/12, offset, ts)
			}
			last = ts
		}
		if len(index)%12 != 0 {
			t.Errorf("%s: time index of %d bytes", path, len(index))
		}
	}
	if entries == 0 {
		t.Error("no index entries")
	}
}

// A damaged, cut, emptied or missing index file costs a rebuild, never an answer.
func TestDamagedIndexes(t *testing.T) {
	dir := t.TempDir()
	config := LogConfig{SegmentBytes: 64 << 10, IndexIntervalBytes: 1 << 10}
	s := openStore(t, dir, Options{})
	l := openLog(t, s, testTopic, config)
	fillLog(t, l, 300, 150)
	want := contents(t, l)
	end := l.EndOffset()
	closeStore(t, s)
	for name, corrupt := range map[string]func(path string){
		"missing":     func(path string) { must(t, os.Remove(path)) },
		"empty":       func(path string) { edit(t, path, func([]byte) []byte { return nil }) },
		"half":        func(path string) { edit(t, path, func(b []byte) []byte { return b[:len(b)/24*12] }) },
		"odd":         func(path string) { edit(t, path, cutBy(3)) },
		"zeros":       func(path string) { edit(t, path, func(b []byte) []byte { return make([]byte, len(b)) }) },
		"ones":        func(path string) { edit(t, path, func(b []byte) []byte { return bytes.Repeat([]byte{255}, len(b)) }) },
		"first byte":  func(path string) { edit(t, path, flipped(3)) },
		"middle byte": func(path string) { edit(t, path, func(b []byte) []byte { return flipped(len(b) / 2)(b) }) },
		"last byte":   func(path string) { edit(t, path, flipped(-1)) },
	} {
		for _, suffix := range []string{".index", ".timeindex"} {
			t.Run(name+suffix, func(t *testing.T) {
				d := copyDir(t, dir)
				paths, err := filepath.Glob(filepath.Join(d, topicsName, "*", "*"+suffix))
				if err != nil || len(paths) < 2 {
					t.Fatal(paths, err)
				}
				for _, p := range paths {
					corrupt(p)
				}
				s := openStore(t, d, Options{})
				l := openLog(t, s, testTopic, config)
				for offset := end - 1; offset >= 0; offset -= 7 {
					r, err := l.Read(offset, 1, true)
					must(t, err)
					header := make([]byte, protocol.BatchHeaderLen)
					if _, err := r.ReadAt(header, 0); err != nil {
						t.Fatal(err)
					}
					if b := protocol.Batch(header); b.BaseOffset() > offset || b.LastOffset() < offset {
						t.Fatalf("read at %d begins with %d..%d", offset, b.BaseOffset(), b.LastOffset())
					}
					must(t, r.Release())
				}
				checkTimes(t, l)
				if !bytes.Equal(contents(t, l), want) {
					t.Error("other contents")
				}
			})
		}
	}
}

// checkTimes compares the time lookups with a search through all records.
func checkTimes(t *testing.T, l *Log) {
	t.Helper()
	type stamped struct {
		offset, ts int64
		epoch      int32
	}
	var all []stamped
	top := stamped{-1, -1, -1}
	for _, b := range readAll(t, l, l.StartOffset(), 1<<20) {
		must(t, b.Records(func(r protocol.Record) bool {
			all = append(all, stamped{b.BaseOffset() + int64(r.OffsetDelta), b.Timestamp(r), b.PartitionLeaderEpoch()})
			if last := all[len(all)-1]; last.ts > top.ts {
				top = last
			}
			return true
		}))
	}
	for ts := top.ts + 1; ts >= 0; ts -= 1 + top.ts/200 {
		want := stamped{-1, -1, -1}
		if i := slices.IndexFunc(all, func(r stamped) bool { return r.ts >= ts }); i >= 0 {
			want = all[i]
		}
		offset, got, epoch, err := l.OffsetForTime(ts)
		if err != nil || (stamped{offset, got, epoch}) != want {
			t.Fatalf("OffsetForTime(%d) = %d, %d, %d, %v, want %v", ts, offset, got, epoch, err, want)
		}
	}
	offset, ts, epoch, err := l.MaxTimestampOffset()
	if err != nil || (stamped{offset, ts, epoch}) != top {
		t.Fatalf("MaxTimestampOffset() = %d, %d, %d, %v, want %v", offset, ts, epoch, err, top)
	}
}

func TestTimes(t *testing.T) {
	dir := t.TempDir()
	config := LogConfig{SegmentBytes: 8 << 10, IndexIntervalBytes: 512}
	s := openStore(t, dir, Options{})
	l := openLog(t, s, testTopic, config)
	if offset, ts, epoch, err := l.OffsetForTime(0); offset != -1 || ts != -1 || epoch != -1 || err != nil {
		t.Errorf("empty log: %d, %d, %d, %v", offset, ts, epoch, err)
	}
	checkTimes(t, l)
	rng := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		appendBatch(t, l, batchOf(t, 1+rng.IntN(3), 100, 1000+rng.Int64N(5000), nil)) // in no order
	}
	waitDurable(t, l)
	checkTimes(t, l)
	closeStore(t, s)
	s = openStore(t, dir, Options{})
	checkTimes(t, openLog(t, s, testTopic, config))
}

func TestLeaderEpochs(t *testing.T) {
	dir := t.TempDir()
	ends := map[int32]int64{}
	for range 4 {
		s := openStore(t, dir, Options{})
		l := openLog(t, s, testTopic, LogConfig{})
		if s.Epoch() != 3 { // epoch 3 appends nothing
			fillLog(t, l, 2, 10)
		}
		ends[s.Epoch()] = l.EndOffset()
		if s.Epoch() == 2 {
			dir = copyDir(t, dir) // a crash
		}
		closeStore(t, s)
	}
	s := openStore(t, dir, Options{})
	l := openLog(t, s, testTopic, LogConfig{})
	for _, tc := range []struct {
		ask, epoch int32
		end        int64
	}{
		{-1, -1, -1}, {0, 0, 0}, {1, 1, ends[1]}, {2, 2, ends[2]}, {3, 2, ends[2]}, {4, 4, ends[4]}, {5, 5, ends[4]}, {6, -1, -1},
	} {
		if epoch, end := l.EndOffsetForEpoch(tc.ask); epoch != tc.epoch || end != tc.end {
			t.Errorf("end of epoch %d: %d, %d, want %d, %d", tc.ask, epoch, end, tc.epoch, tc.end)
		}
	}
}

func TestWriteCaching(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	l := openLog(t, s, testTopic, LogConfig{WriteCaching: true, FlushInterval: 1 << 40, FlushBytes: 10_000})
	a := appendBatch(t, l, batchOf(t, 1, 100, 0, nil))
	if l.HighWatermark() != 1 || l.DurableOffset() != 0 {
		t.Errorf("high watermark %d, durable %d", l.HighWatermark(), l.DurableOffset())
	}
	must(t, l.Wait(context.Background(), a.LastOffset+1))
	// Enough bytes are flushed.
	w := watchDurable(l)
	appendBatch(t, l, batchOf(t, 1, 10_000, 0, nil))
	w(t, 2)
	// Turning it off flushes.
	appendBatch(t, l, batchOf(t, 1, 100, 0, nil))
	l.SetConfig(LogConfig{})
	w(t, 3)
	if appendBatch(t, l, batchOf(t, 1, 100, 0, nil)); l.Config().WriteCaching {
		t.Error("still on")
	}
	waitDurable(t, l)
	// Time flushes.
	l.SetConfig(LogConfig{WriteCaching: true, FlushInterval: 1})
	for i := range int64(5) {
		appendBatch(t, l, batchOf(t, 1, 100, 0, nil))
		w(t, 5+i)
	}
}

// watchDurable returns a function that waits for the durable offset: nothing tells of it with write caching, so it looks again and again.
func watchDurable(l *Log) func(t *testing.T, offset int64) {
	return func(t *testing.T, offset int64) {
		t.Helper()
		for l.DurableOffset() < offset {
			if err := l.store.Err(); err != nil {
				t.Fatal(err)
			}
			yield()
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	dir := t.TempDir()
	o := Options{CheckpointBytes: 100 << 10}
	s := openStore(t, dir, o)
	config := LogConfig{SegmentBytes: 50 << 10, IndexIntervalBytes: 1 << 10}
	const appenders, each = 4, 60
	var logs []*Log
	for i := range 3 {
		config.WriteCaching = i == 2
		logs = append(logs, openLog(t, s, LogID{"many", [16]byte{9}, int32(i)}, config))
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var writers, readers sync.WaitGroup
	for _, l := range logs {
		for g := range appenders {
			writers.Go(func() {
				for i := range each {
					p := &protocol.BatchProducer{ID: int64(g), Sequence: int32(i)}
					a, err := l.Append(batchOf(t, 1, 500+i, int64(i), p))
					if err == nil {
						err = l.Wait(ctx, a.LastOffset+1)
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		readers.Go(func() {
			w := NewWaiter()
			l.Watch(w, 0)
			defer l.Unwatch(w)
			for next := int64(0); next < appenders*each; {
				if l.HighWatermark() == next {
					<-w.C
					continue
				}
				batches := readAll(t, l, next, 3000)
				next = batches[len(batches)-1].LastOffset() + 1
				if _, _, _, err := l.OffsetForTime(next % 60); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	readers.Wait()
	closeStore(t, s)
	s = openStore(t, dir, o)
	for i := range logs {
		l := openLog(t, s, LogID{"many", [16]byte{9}, int32(i)}, config)
		if n := len(readAll(t, l, 0, 1<<20)); n != appenders*each || l.Recovery().Scanned != 0 {
			t.Errorf("%d batches, recovery %+v", n, l.Recovery())
		}
	}
}

func TestFileCacheIsBounded(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	s.files = newFileCache(3)
	l := openLog(t, s, testTopic, LogConfig{SegmentBytes: 1})
	fillLog(t, l, 10, 10)
	r, err := l.Read(0, 1<<20, true) // stays readable while its file is evicted
	must(t, err)
	for range 3 {
		readAll(t, l, 0, 1<<20)
	}
	if n := s.files.byUse.Len(); n > 3 || n != len(s.files.index) {
		t.Errorf("%d files are open", n)
	}
	data := make([]byte, r.Len())
	if _, err := r.ReadAt(data, 0); err != nil || protocol.Batch(data).CheckCRC() != nil {
		t.Error(err)
	}
	must(t, r.Release())
}
