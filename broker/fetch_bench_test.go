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
	"time"

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
//
// The baseline is sendfile of the same file to a client that does the same,
// asks for as many bytes with one byte, and takes its turn after each fetch,
// so that whatever else the machine does slows both. of-sendfile is the
// baseline's time for a byte over that of Fetch: 1 is as fast as sendfile.
func BenchmarkFetch(b *testing.B) {
	if !canSendfile {
		b.Skip("needs sendfile: Linux")
	}
	r, l := filledLog(b, 64<<10)
	scratch := make([]byte, 1<<20)
	for _, size := range []int{64 << 10, 1 << 20, 16 << 20} {
		b.Run(fmt.Sprintf("max=%d", size), func(b *testing.B) {
			baseline := sendfileServer(b, l, size)
			nc := r.dial()
			var (
				head            [fetchHead]byte
				offset, fetched int64
				fetch, sendfile time.Duration
			)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				began := time.Now()
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
				discard(b, nc, scratch, n)
				offset += n / int64(benchBatchLen(l)) // all batches hold one record and are of one size
				fetched += n
				turn := time.Now()
				if _, err := baseline.Write([]byte{1}); err != nil {
					b.Fatal(err)
				}
				discard(b, baseline, scratch, int64(size))
				fetch, sendfile = fetch+turn.Sub(began), sendfile+time.Since(turn)
			}
			rate := float64(fetched) / fetch.Seconds()
			baselineRate := float64(b.N) * float64(size) / sendfile.Seconds()
			b.ReportMetric(rate/1e6, "fetch-MB/s")
			b.ReportMetric(baselineRate/1e6, "sendfile-MB/s")
			b.ReportMetric(rate/baselineRate, "of-sendfile")
		})
	}
}

// sendfileServer sends a log's file by sendfile, piece after piece of a size,
// one for each byte that comes in. It returns the client's end.
func sendfileServer(b *testing.B, l *segment.Log, size int) net.Conn {
	b.Helper()
	f, length := logFile(b, l)
	server, client := loopbackPair(b)
	go func() {
		var ask [1]byte
		for pos := int64(0); ; pos += int64(size) {
			if _, err := io.ReadFull(server, ask[:]); err != nil {
				return // the benchmark is over
			}
			if pos+int64(size) > length {
				pos = 0
			}
			if err := sendFile(server.(*net.TCPConn), f, pos, int64(size)); err != nil {
				b.Error(err)
				return
			}
		}
	}()
	return client
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

// BenchmarkFetchSend finds the size of a range from which sendfile wins: they
// go out by it and through memory in turns, each when the last has arrived.
// of-memory is the time through memory over that by sendfile.
func BenchmarkFetchSend(b *testing.B) {
	if !canSendfile {
		b.Skip("needs sendfile: Linux")
	}
	r, l := filledLog(b, 8<<10)
	scratch := make([]byte, 1<<20)
	for size := 16 << 10; size <= 4<<20; size *= 2 {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			server, client := loopbackPair(b)
			c := newConn(r.listeners[0], server)
			c.ctx = b.Context()
			go serveRanges(b, c, l, size)
			var took [2]time.Duration
			b.ResetTimer()
			for range b.N {
				for way := range took {
					began := time.Now()
					if _, err := client.Write([]byte{byte(way)}); err != nil {
						b.Fatal(err)
					}
					var n [8]byte
					if _, err := io.ReadFull(client, n[:]); err != nil {
						b.Fatal(err)
					}
					discard(b, client, scratch, int64(binary.BigEndian.Uint64(n[:])))
					took[way] += time.Since(began)
				}
			}
			b.ReportMetric(float64(took[1])/float64(took[0]), "of-memory")
			b.ReportMetric(float64(took[0].Nanoseconds())/float64(b.N), "sendfile-ns")
			b.ReportMetric(float64(took[1].Nanoseconds())/float64(b.N), "memory-ns")
			b.ReportMetric(0, "ns/op") // of both, means nothing
		})
	}
}

// serveRanges sends a range of about size bytes, its length in front, for each
// byte that comes in: by sendfile for 0, through memory for 1.
func serveRanges(b *testing.B, c *conn, l *segment.Log, size int) {
	w := recordWriter{c: c, buf: copyPool.Get().(*[]byte)}
	defer copyPool.Put(w.buf)
	var way [1]byte
	for offset := int64(0); ; {
		if _, err := io.ReadFull(c.nc, way[:]); err != nil {
			return // the benchmark is over
		}
		w.sendfileFrom = int64(way[0]) << 40
		r, err := l.Read(offset, size, true)
		if err != nil {
			b.Error(err)
			return
		}
		if offset += r.Len() / int64(benchBatchLen(l)); offset > l.EndOffset()-int64(size/benchBatchLen(l)) {
			offset = 0
		}
		err = w.bytes(binary.BigEndian.AppendUint64(nil, uint64(r.Len())))
		if err := errors.Join(err, w.records(r), w.flush(), r.Release()); err != nil {
			b.Error(err)
			return
		}
	}
}
