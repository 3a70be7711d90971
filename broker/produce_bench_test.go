package broker

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"testing"

	"mft/protocol"
)

// BenchmarkProduce sends Produce requests through a real connection, up to 16
// under way, to a topic with write.caching, and looks at what the broker
// allocates: the client's side allocates nothing. Allocations must not depend
// on the number of records in a request.
func BenchmarkProduce(b *testing.B) {
	for _, codec := range []protocol.Codec{protocol.None, protocol.LZ4} {
		for _, records := range []int{1, 100, 10_000} {
			b.Run(fmt.Sprintf("codec=%s/records=%d", codec, records), func(b *testing.B) {
				r := startBroker(b, func(c *Config) {
					c.TopicDefaults = map[string]string{"write.caching": "true", "max.message.bytes": "4194304"}
				})
				if _, err := r.topics.create(testContext(b), mustTopic(b, r, "t")); err != nil {
					b.Fatal(err)
				}
				values := make([]string, records)
				for i := range values {
					values[i] = fmt.Sprintf("%08d%s", i, strings.Repeat("v", 92))
				}
				frame := produceRequest(b, 0, testBatch(b, codec, values...), -1)
				nc := r.dial()
				const window = 16
				room := make(chan struct{}, window)
				go func() {
					for range b.N {
						room <- struct{}{}
						if _, err := nc.Write(frame); err != nil {
							b.Error(err)
							return
						}
					}
				}()
				b.SetBytes(int64(len(frame)))
				b.ReportAllocs()
				b.ResetTimer()
				var answer [512]byte
				for range b.N {
					if _, err := io.ReadFull(nc, answer[:4]); err != nil {
						b.Fatal(err)
					}
					n := binary.BigEndian.Uint32(answer[:])
					if _, err := io.ReadFull(nc, answer[4:4+n]); err != nil {
						b.Fatal(err)
					}
					<-room
				}
				b.StopTimer()
				if end := r.topics.get("t").log(0).EndOffset(); end != int64(b.N)*int64(records) {
					b.Fatalf("%d records appended, want %d: %x", end, b.N*records, answer)
				}
				b.ReportMetric(float64(b.N*records)/b.Elapsed().Seconds(), "records/s")
			})
		}
	}
}
