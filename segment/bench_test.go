package segment

import (
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rs/zerolog"
)

// BenchmarkAppend is an append with write caching, with the check of the batch's CRC that the broker makes before it; the baseline is a plain write
// to a file and the same CRC.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10, 1 << 20} {
		batch := batchOf(b, 1, size, 0, nil)
		b.Run(fmt.Sprintf("size=%d/log", size), func(b *testing.B) {
			s := openStore(b, b.TempDir(), Options{Logger: zerolog.Nop()})
			l := openLog(b, s, testTopic, LogConfig{WriteCaching: true})
			b.SetBytes(int64(len(batch)))
			for b.Loop() {
				must(b, batch.CheckCRC())
				if _, err := l.Append(batch); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("size=%d/write", size), func(b *testing.B) {
			f, err := os.Create(filepath.Join(b.TempDir(), "f"))
			must(b, err)
			b.SetBytes(int64(len(batch)))
			for b.Loop() {
				crc32.Checksum(batch, castagnoli)
				if _, err := f.Write(batch); err != nil {
					b.Fatal(err)
				}
			}
			must(b, f.Close())
		})
	}
}

// BenchmarkDurableAppend is an append of 1 KiB and the wait for its ack, by many at a time; the baseline is one writer that writes and fdatasyncs.
func BenchmarkDurableAppend(b *testing.B) {
	for _, tc := range []struct{ logs, producers int }{{1, 1}, {1, 64}, {64, 64}, {1000, 64}} {
		b.Run(fmt.Sprintf("logs=%d/producers=%d", tc.logs, tc.producers), func(b *testing.B) {
			s := openStore(b, b.TempDir(), Options{Logger: zerolog.Nop()})
			logs := make([]*Log, tc.logs)
			for i := range logs {
				logs[i] = openLog(b, s, LogID{"bench", [16]byte{1}, int32(i)}, LogConfig{})
				appendBatch(b, logs[i], batchOf(b, 1, 1000, 0, nil))
			}
			for _, l := range logs {
				waitDurable(b, l)
			}
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			b.ResetTimer()
			for p := range tc.producers {
				batch := batchOf(b, 1, 950, 0, nil)
				wg.Go(func() {
					for i := p; left.Add(-1) >= 0; i += tc.producers {
						l := logs[i%len(logs)]
						a, err := l.Append(batch)
						if err == nil {
							err = l.Wait(context.Background(), a.LastOffset+1)
						}
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "acks/s")
		})
	}
	b.Run("fdatasync", func(b *testing.B) {
		f, err := os.Create(filepath.Join(b.TempDir(), "f"))
		must(b, err)
		batch := batchOf(b, 1, 950, 0, nil)
		for b.Loop() {
			if _, err := f.Write(batch); err != nil {
				b.Fatal(err)
			}
			must(b, syncData(f))
		}
		must(b, f.Close())
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "acks/s")
	})
}

// BenchmarkDurableBulk is batches of 1 MiB made durable with up to 5 in flight; the baseline is write and an fdatasync for every 16 MiB.
func BenchmarkDurableBulk(b *testing.B) {
	batch := batchOf(b, 1, 1<<20, 0, nil)
	b.Run("log", func(b *testing.B) {
		s := openStore(b, b.TempDir(), Options{Logger: zerolog.Nop()})
		l := openLog(b, s, testTopic, LogConfig{})
		b.SetBytes(int64(len(batch)))
		for b.Loop() {
			a, err := l.Append(batch)
			if err == nil {
				err = l.Wait(context.Background(), a.BaseOffset-4)
			}
			must(b, err)
		}
	})
	b.Run("write", func(b *testing.B) {
		f, err := os.Create(filepath.Join(b.TempDir(), "f"))
		must(b, err)
		b.SetBytes(int64(len(batch)))
		for i := 0; b.Loop(); i++ {
			if _, err := f.Write(batch); err != nil {
				b.Fatal(err)
			}
			if i%16 == 15 {
				must(b, syncData(f))
			}
		}
		must(b, f.Close())
	})
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
