package segment

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"mft/protocol"
)

// BenchmarkCompaction compacts 64 MiB of records of 512 bytes, written under 10,000 keys in turn: bytes of records a second, before compression.
func BenchmarkCompaction(b *testing.B) {
	const total, perBatch = 64 << 20, 100
	value := bytes.Repeat([]byte("abcdefgh"), 64)
	for _, codec := range []protocol.Codec{protocol.None, protocol.Zstd} {
		b.Run(codec.String(), func(b *testing.B) {
			b.SetBytes(total)
			for range b.N {
				b.StopTimer()
				s := openStore(b, b.TempDir(), Options{CleanInterval: -1})
				l := openLog(b, s, testTopic, LogConfig{SegmentBytes: 16 << 20, Compact: true, WriteCaching: true})
				for i := 0; i < total/len(value); i += perBatch {
					var records [perBatch]protocol.Record
					for j := range records {
						records[j] = protocol.Record{Key: fmt.Append(nil, "key", (i+j)%10_000), Value: value}
					}
					batch, err := protocol.EncodeBatch(protocol.BatchOptions{Codec: codec}, records[:])
					must(b, err)
					appendBatch(b, l, batch)
				}
				must(b, l.roll())
				must(b, s.Checkpoint(context.Background()))
				before := l.Size()
				b.StartTimer()
				must(b, s.Clean(context.Background()))
				b.StopTimer()
				if l.Size() > before/5 {
					b.Fatalf("%d bytes of %d are left", l.Size(), before)
				}
				closeStore(b, s)
			}
		})
	}
}
