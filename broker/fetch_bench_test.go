package broker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"mft/internal/loopback"
	"mft/protocol"
	"mft/segment"
)

// benchLog is about how many bytes the benchmarks' log has: all of them are in
// the page cache.
const benchLog = 256 << 20

// filledLog is a topic "t" of one partition with benchLog bytes in batches of
// a size, of one record each.
func filledLog(b *testing.B, size int) (*running, *segment.Log) {
	b.Helper()
	r := startBroker(b, func(c *Config) { c.TopicDefaults = map[string]string{"write.caching": "true"} })
	t, err := r.topics.create(testContext(b), mustTopic(b, r, "t"))
	if err != nil {
		b.Fatal(err)
	}
	batch := testBatch(b, protocol.None, strings.Repeat("x", size-protocol.BatchHeaderLen-16))
	for n := 0; n < benchLog; n += len(batch) {
		if _, err := t.log(0).Append(batch); err != nil {
			b.Fatal(err)
		}
	}
	return r, t.log(0)
}

// logFile is the open file of a log's only segment, and its size.
func logFile(b *testing.B, l *segment.Log) (*os.File, int64) {
	b.Helper()
	rec, err := l.Read(0, 1, true)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := rec.Release(); err != nil {
			b.Error(err)
		}
	})
	f, _ := rec.File()
	return f, l.Size()
}

// loopbackPair is a TCP connection through the loopback interface, both ends
// as the broker and its clients tune them.
func loopbackPair(b *testing.B) (server, client net.Conn) {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	if client, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		b.Fatal(err)
	}
	if server, err = ln.Accept(); err != nil {
		b.Fatal(err)
	}
	for _, nc := range []net.Conn{server, client} {
		if _, err := loopback.Tune(nc); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			if err := nc.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				b.Error(err)
			}
		})
	}
	return server, client
}

// BenchmarkFetch reads a log in the page cache from its beginning to its end,
// again and again, with bare Fetch requests on one connection, one at a time;
// the client throws the bytes away unread. max is max_bytes of the request.
// The baseline is sendfile of the same file to a client that does the same;
// "asked" in pieces of the same size, the next when the last has arrived, as
// Fetch must, "streamed" all at once.
func BenchmarkFetch(b *testing.B) {
	if !canSendfile {
		b.Skip("needs sendfile: Linux")
	}
	r, l := filledLog(b, 64<<10)
	scratch := make([]byte, 1<<20)
	b.Run("baseline/streamed", func(b *testing.B) {
		f, size := logFile(b, l)
		server, client := loopbackPair(b)
		b.SetBytes(size)
		go func() {
			for range b.N {
				if err := sendFile(server.(*net.TCPConn), f, 0, size); err != nil {
					b.Error(err)
					return
				}
			}
		}()
		discard(b, client, scratch, int64(b.N)*size)
	})
	for _, size := range []int{64 << 10, 1 << 20, 16 << 20} {
		b.Run(fmt.Sprintf("baseline/asked=%d", size), func(b *testing.B) {
			f, length := logFile(b, l)
			server, client := loopbackPair(b)
			b.SetBytes(int64(size))
			go func() {
				var ask [1]byte
				for i := range b.N {
					if _, err := io.ReadFull(server, ask[:]); err != nil {
						b.Error(err)
						return
					}
					pos := int64(i) * int64(size) % (length - int64(size))
					if err := sendFile(server.(*net.TCPConn), f, pos, int64(size)); err != nil {
						b.Error(err)
						return
					}
				}
			}()
			for range b.N {
				if _, err := client.Write([]byte{1}); err != nil {
					b.Fatal(err)
				}
				discard(b, client, scratch, int64(size))
			}
		})
		b.Run(fmt.Sprintf("fetch/max=%d", size), func(b *testing.B) {
			nc := r.dial()
			offset, bytes := int64(0), int64(0)
			var head [fetchHead]byte
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				if offset == l.EndOffset() {
					offset = 0
				}
				if _, err := nc.Write(fetchRequest("t", 0, offset, int32(size))); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(nc, head[:]); err != nil {
					b.Fatal(err)
				}
				n := int64(binary.BigEndian.Uint32(head[:])) - (fetchHead - 4)
				// The last batch's offset is not looked at: all batches hold
				// one record and are of one size.
				discard(b, nc, scratch, n)
				offset += n / int64(benchBatchLen(l))
				bytes += n
			}
			b.SetBytes(bytes / int64(b.N))
		})
	}
}

// benchBatchLen is the length of a batch of filledLog.
func benchBatchLen(l *segment.Log) int { return int(l.Size() / l.EndOffset()) }

// fetchHead is the length of a version 4 answer before the records, from
// topic "t" and one partition: length, correlation id, throttle time, topics,
// "t", partitions, partition, error, two offsets, aborted, length.
const fetchHead = 4 + 4 + 4 + 4 + 3 + 4 + 4 + 2 + 8 + 8 + 4 + 4

func fetchRequest(topic string, partition int32, offset int64, max int32) []byte {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 1000, 1, max
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = partition, offset, max
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return request(req, 4, 1)
}

// discard reads n bytes and throws them away.
func discard(b *testing.B, nc net.Conn, scratch []byte, n int64) {
	b.Helper()
	for n > 0 {
		got, err := nc.Read(scratch[:min(n, int64(len(scratch)))])
		if err != nil {
			b.Fatal(err)
		}
		n -= int64(got)
	}
}

// BenchmarkFetchSend finds where sendfile begins to win: ranges of a size go
// out by it and through memory, each when the last has arrived.
func BenchmarkFetchSend(b *testing.B) {
	if !canSendfile {
		b.Skip("needs sendfile: Linux")
	}
	_, l := filledLog(b, 8<<10)
	scratch := make([]byte, 1<<20)
	for size := 8 << 10; size <= 4<<20; size *= 2 {
		for name, from := range map[string]int64{"sendfile": 0, "memory": 1 << 40} {
			b.Run(fmt.Sprintf("size=%d/%s", size, name), func(b *testing.B) {
				server, client := loopbackPair(b)
				b.SetBytes(int64(size))
				go func() {
					w := recordWriter{nc: server, sendfileFrom: from, buf: copyPool.Get().(*[]byte)}
					var ask [1]byte
					per := size / benchBatchLen(l)
					for i := range b.N {
						if _, err := io.ReadFull(server, ask[:]); err != nil {
							b.Error(err)
							return
						}
						rec, err := l.Read(int64(i*per)%(l.EndOffset()-int64(per)), size, true)
						if err == nil {
							err = errors.Join(w.bytes(make([]byte, 80)), w.records(rec), w.flush())
							_, err2 := server.Write(make([]byte, int64(size)-rec.Len()))
							err = errors.Join(err, err2, rec.Release())
						}
						if err != nil {
							b.Error(err)
							return
						}
					}
				}()
				for range b.N {
					if _, err := client.Write([]byte{1}); err != nil {
						b.Fatal(err)
					}
					discard(b, client, scratch, int64(size)+80)
				}
			})
		}
	}
}
