package segment

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"mft/protocol"
)

// These benchmarks compare the log with what it is made of, a plain write, a checksum, an fdatasync, taking turns in the same run, since a
// machine is seldom as fast as it was a minute ago. The metric "ratio" is the log's rate divided by that of the baseline. docs/performance.md
// says what they reach, and what is aimed at.
//
//	go test -run '^$' -bench 'Append|Durable|Recovery|Acks' ./segment

// turns calls the functions in turn, each for a number of operations, until the first has done b.N, and returns the time that each took
// for one operation.
func turns(b *testing.B, each int, functions ...func(n int)) (perOp []time.Duration) {
	b.Helper()
	total := make([]time.Duration, len(functions))
	done := 0
	for done < b.N {
		n := min(each, b.N-done)
		for i, f := range functions {
			begun := time.Now()
			f(n)
			total[i] += time.Since(begun)
		}
		done += n
	}
	for _, t := range total {
		perOp = append(perOp, t/time.Duration(done))
	}
	b.ReportMetric(float64(perOp[0].Nanoseconds()), "ns/op")
	return perOp
}

func ratio(baseline, own time.Duration) float64 { return float64(baseline) / float64(own) }

// BenchmarkAppend is an append with write caching, with the check of the batch's CRC that the broker makes before it; the baseline is a plain write
// to a file and the same CRC. Both write the same number of bytes to one file; what a file of a GiB is made of is not deleted in between.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			batch := batchOf(b, 1, size, 0, nil)
			s := openStore(b, b.TempDir(), Options{Logger: zerolog.Nop()})
			l := openLog(b, s, testTopic, LogConfig{WriteCaching: true})
			f, err := os.Create(filepath.Join(b.TempDir(), "f"))
			must(b, err)
			b.ResetTimer()
			t := turns(b, max(1, 16<<20/size),
				func(n int) {
					for range n {
						must(b, batch.CheckCRC())
						appendBatch(b, l, batch)
					}
				},
				func(n int) {
					for range n {
						crc32.Checksum(batch[21:], castagnoli)
						if _, err := f.Write(batch); err != nil {
							b.Fatal(err)
						}
					}
				})
			b.ReportMetric(float64(len(batch))/t[0].Seconds()/1e6, "MB/s")
			b.ReportMetric(ratio(t[1], t[0]), "ratio")
			must(b, f.Close())
		})
	}
}

// appendDurably appends a batch n times, in turn to each of the logs, from a number of producers that each wait for the ack.
func appendDurably(b *testing.B, logs []*Log, batch protocol.Batch, producers, n int, latency func(time.Duration)) {
	b.Helper()
	var left atomic.Int64
	left.Store(int64(n))
	var wg sync.WaitGroup
	for p := range producers {
		own := slices.Clone(batch)
		wg.Go(func() {
			for i := p; left.Add(-1) >= 0; i += producers {
				l := logs[i%len(logs)]
				begun := time.Now()
				a, err := l.Append(own)
				if err == nil {
					err = l.Wait(context.Background(), a.LastOffset+1)
				}
				if err != nil {
					b.Error(err)
					return
				}
				if latency != nil {
					latency(time.Since(begun))
				}
			}
		})
	}
	wg.Wait()
}

// benchLogs opens n logs with something in them.
func benchLogs(b *testing.B, n int) []*Log {
	b.Helper()
	s := openStore(b, b.TempDir(), Options{Logger: zerolog.Nop()})
	logs := make([]*Log, n)
	for i := range logs {
		logs[i] = openLog(b, s, LogID{"bench", [16]byte{1}, int32(i)}, LogConfig{})
		appendBatch(b, logs[i], batchOf(b, 1, 1000, 0, nil))
	}
	for _, l := range logs {
		waitDurable(b, l)
	}
	must(b, s.Checkpoint(context.Background()))
	return logs
}

// BenchmarkDurableAppend is an append of 1 KiB to each of 1,000 logs and the wait for its ack, by 64 producers. "x-fdatasync" is the rate
// divided by that of one writer that goes round 1,000 files with an fdatasync each, "x-64-fdatasyncs" by that of 64 such writers, and "ratio" by
// that with one log.
func BenchmarkDurableAppend(b *testing.B) {
	const producers, files = 64, 1000
	batch := batchOf(b, 1, 950, 0, nil)
	many, one := benchLogs(b, files), benchLogs(b, 1)
	plain := make([]*os.File, files)
	dir := b.TempDir()
	for i := range plain {
		f, err := os.Create(filepath.Join(dir, strconv.Itoa(i)))
		must(b, err)
		b.Cleanup(func() { must(b, f.Close()) })
		plain[i] = f
	}
	const share = 10 // the fdatasyncs are too slow for as many
	syncEach := func(writers int) func(n int) {
		return func(n int) {
			var wg sync.WaitGroup
			for p := range writers {
				wg.Go(func() {
					for i := p; i < n/share; i += writers {
						f := plain[i%files]
						if _, err := f.Write(batch); err != nil {
							b.Error(err)
						}
						if err := syncData(f); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
		}
	}
	b.Run("logs=1000", func(b *testing.B) {
		t := turns(b, 20_000,
			func(n int) { appendDurably(b, many, batch, producers, n, nil) },
			func(n int) { appendDurably(b, one, batch, producers, n, nil) },
			syncEach(producers), syncEach(1))
		b.ReportMetric(1/t[0].Seconds(), "acks/s")
		b.ReportMetric(1/t[1].Seconds(), "one-log/s")
		b.ReportMetric(ratio(t[1], t[0]), "ratio")
		b.ReportMetric(ratio(t[2]*share, t[0]), "x-64-fdatasyncs")
		b.ReportMetric(ratio(t[3]*share, t[0]), "x-fdatasync")
	})
}

// BenchmarkDurableBulk is batches of 1 MiB made durable with up to 5 in flight; the baseline is write and an fdatasync for every 16 MiB.
func BenchmarkDurableBulk(b *testing.B) {
	batch := batchOf(b, 1, 1<<20, 0, nil)
	s := openStore(b, b.TempDir(), Options{Logger: zerolog.Nop()})
	l := openLog(b, s, testTopic, LogConfig{})
	f, err := os.Create(filepath.Join(b.TempDir(), "f"))
	must(b, err)
	b.ResetTimer()
	t := turns(b, 64,
		func(n int) {
			for range n {
				a := appendBatch(b, l, batch)
				must(b, l.Wait(context.Background(), a.BaseOffset-4))
			}
			waitDurable(b, l)
		},
		func(n int) {
			for i := range n {
				if _, err := f.Write(batch); err != nil {
					b.Fatal(err)
				}
				if i%16 == 15 || i == n-1 {
					must(b, syncData(f))
				}
			}
		})
	b.ReportMetric(float64(len(batch))/t[0].Seconds()/1e6, "MB/s")
	b.ReportMetric(ratio(t[1], t[0]), "ratio")
	must(b, f.Close())
}

// BenchmarkAcksDuringCheckpoints is the time from an append of 1 KiB to its ack, with 64 producers and 1,000 logs that checkpoints have to
// fdatasync all the time. "bare-max-ms" is the longest write and fdatasync of another file meanwhile: what the disk does to anybody.
func BenchmarkAcksDuringCheckpoints(b *testing.B) {
	logs := benchLogs(b, 1000)
	batch := batchOf(b, 1, 950, 0, nil)
	b.Run("logs=1000", func(b *testing.B) {
		f, err := os.Create(filepath.Join(b.TempDir(), "f"))
		must(b, err)
		var longest time.Duration
		stop := make(chan struct{})
		var bare sync.WaitGroup
		bare.Go(func() {
			for tick := time.NewTicker(5 * time.Millisecond); ; {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				begun := time.Now()
				if _, err := f.Write(batch); err != nil {
					b.Error(err)
				}
				if err := syncData(f); err != nil {
					b.Error(err)
				}
				longest = max(longest, time.Since(begun))
			}
		})
		var mu sync.Mutex
		all := make([]time.Duration, 0, b.N)
		appendDurably(b, logs, batch, 64, b.N, func(d time.Duration) {
			mu.Lock()
			all = append(all, d)
			mu.Unlock()
		})
		close(stop)
		bare.Wait()
		must(b, f.Close())
		b.ReportMetric(float64(longest.Microseconds())/1000, "bare-max-ms")
		slices.Sort(all)
		for name, at := range map[string]float64{"p50-ms": .5, "p99-ms": .99, "p99.9-ms": .999, "max-ms": 1} {
			b.ReportMetric(float64(all[int(at*float64(len(all)-1))].Microseconds())/1000, name)
		}
	})
}

// BenchmarkRecovery opens a log of 10 GiB after a kill, 64 MiB of which are younger than the last checkpoint and not fsynced. The segments
// before are sparse files: recovery does not read them.
func BenchmarkRecovery(b *testing.B) {
	batch := batchOf(b, 1, 1<<20, 0, nil)
	for b.Loop() {
		b.StopTimer()
		s := openStore(b, b.TempDir(), Options{Logger: zerolog.Nop(), CheckpointBytes: 1 << 40})
		l := openLog(b, s, testTopic, LogConfig{WriteCaching: true, SegmentBytes: int64(len(batch)), FlushInterval: time.Hour, FlushBytes: 1 << 40})
		for range 11 {
			appendBatch(b, l, batch)
		}
		for _, seg := range l.segments[:10] {
			must(b, os.Truncate(l.path(logName(seg.base)), 1<<30))
		}
		must(b, s.Checkpoint(context.Background()))
		l.SetConfig(LogConfig{WriteCaching: true, FlushInterval: time.Hour, FlushBytes: 1 << 40})
		for range 64 {
			appendBatch(b, l, batch)
		}
		killed := b.TempDir()
		linkDir(b, s.Dir(), killed)
		b.StartTimer()
		after, err := Open(killed, Options{Logger: zerolog.Nop()})
		must(b, err)
		r := openLog(b, after, testTopic, LogConfig{})
		b.StopTimer()
		if r.EndOffset() != 75 || r.Recovery().Scanned < 64<<20 {
			b.Fatalf("ends at %d, %+v", r.EndOffset(), r.Recovery())
		}
		closeStore(b, after)
		closeStore(b, s)
		b.StartTimer()
	}
}

// linkDir makes a second name for every file: what a process that is killed now leaves behind, in the page cache too.
func linkDir(b *testing.B, from, to string) {
	b.Helper()
	must(b, filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		rel, rerr := filepath.Rel(from, path)
		if err = errors.Join(err, rerr); err != nil || d.Name() == "LOCK" {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		return os.Link(path, filepath.Join(to, rel))
	}))
}

// BenchmarkRead is a sequential read of batches of 1 KiB in ranges of 1 MiB, and reads of single batches at offsets all over the log.
func BenchmarkRead(b *testing.B) {
	s := openStore(b, b.TempDir(), Options{Logger: zerolog.Nop()})
	l := openLog(b, s, testTopic, LogConfig{WriteCaching: true, SegmentBytes: 16 << 20})
	batch := batchOf(b, 1, 950, 0, nil)
	for range 100_000 {
		appendBatch(b, l, batch)
	}
	read := func(b *testing.B, offset int64, n int) int64 {
		r, err := l.Read(offset, n, true)
		must(b, err)
		size, err := r.WriteTo(io.Discard)
		must(b, err)
		must(b, r.Release())
		return size
	}
	b.Run("sequential", func(b *testing.B) {
		b.SetBytes(1 << 20)
		offset := int64(0)
		for b.Loop() {
			offset = (offset + read(b, offset, 1<<20)/int64(len(batch))) % l.EndOffset()
		}
	})
	b.Run("random", func(b *testing.B) {
		offset := int64(0)
		for b.Loop() {
			read(b, offset, 1)
			offset = (offset + 7919) % l.EndOffset()
		}
	})
	b.Run("copy", func(b *testing.B) { // the baseline of sequential
		f, err := os.Open(l.path(logName(0)))
		must(b, err)
		buf := make([]byte, copyBufferLen)
		b.SetBytes(copyBufferLen)
		for i := int64(0); b.Loop(); i++ {
			if _, err := f.ReadAt(buf, i%40*copyBufferLen); err != nil {
				b.Fatal(err)
			}
		}
		must(b, f.Close())
	})
}

// BenchmarkOpenLog opens logs that were closed cleanly.
func BenchmarkOpenLog(b *testing.B) {
	dir := b.TempDir()
	const n = 10_000
	s := openStore(b, dir, Options{Logger: zerolog.Nop()})
	batch := batchOf(b, 1, 100, 0, nil)
	for i := range int32(n) {
		appendBatch(b, openLog(b, s, LogID{"many", [16]byte{1}, i}, LogConfig{WriteCaching: true}), batch)
	}
	closeStore(b, s)
	for b.Loop() {
		s := openStore(b, dir, Options{Logger: zerolog.Nop()})
		for i := range int32(n) {
			openLog(b, s, LogID{"many", [16]byte{1}, i}, LogConfig{})
		}
		b.StopTimer()
		closeStore(b, s)
		b.StartTimer()
	}
}
