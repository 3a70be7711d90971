package broker

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	"mft/protocol"
)

// BenchmarkScale measures a broker in a process of its own with many
// partitions and connections. It takes minutes and a few hundred MB of disk.
//
// In "partitions=N": the time to create a topic of N partitions, to append to
// each, durably, to stop, to start after that, and to start after a kill -9
// after another append to each; resident memory, open files and goroutines
// of each partition and connection.
//
// In "closed": the time to start with 100 GiB in closed segments (sparse
// files), and without.
func BenchmarkScale(b *testing.B) {
	for _, partitions := range []int{1000, 10_000} {
		b.Run(fmt.Sprintf("partitions=%d", partitions), func(b *testing.B) {
			for range b.N {
				benchPartitions(b, partitions, 1000)
			}
		})
	}
	b.Run("closed=100GiB", func(b *testing.B) {
		for range b.N {
			benchClosed(b)
		}
	})
}

func benchPartitions(b *testing.B, partitions, connections int) {
	data := filepath.Join(b.TempDir(), "data")
	seconds := func(name string, f func()) {
		began := time.Now()
		f()
		b.ReportMetric(time.Since(began).Seconds(), name+"-s")
	}
	c := startChild(b, data)
	b.ReportMetric(c.started.Seconds(), "start-empty-s")
	empty := c.usage()
	seconds("create", func() { c.createTopic(partitions, nil) })
	created := c.usage()
	seconds("append", func() { c.produceToAll(partitions) })
	full := c.usage()
	perPartition := func(u usage) float64 { return float64(u.rss-empty.rss) / float64(partitions) }
	b.ReportMetric(perPartition(created), "B/new-partition")
	b.ReportMetric(perPartition(full), "B/partition")
	b.ReportMetric(float64(full.files-empty.files)/float64(partitions), "files/partition")
	b.ReportMetric(float64(full.goroutines-empty.goroutines)/float64(partitions), "goroutines/partition")
	b.ReportMetric(c.stop().Seconds(), "stop-s")

	c = startChild(b, data)
	b.ReportMetric(c.started.Seconds(), "start-stopped-s")
	full = c.usage()
	b.ReportMetric(perPartition(full), "B/started-partition")
	c.produceToAll(partitions)
	c.kill()

	c = startChild(b, data)
	b.ReportMetric(c.started.Seconds(), "start-killed-s")
	seconds("metadata", func() {
		if _, err := kadm.NewClient(c.client()).ListTopics(longContext(b)); err != nil {
			b.Fatal(err)
		}
	})
	seconds("list-offsets", func() {
		if _, err := kadm.NewClient(c.client()).ListEndOffsets(longContext(b), "t"); err != nil {
			b.Fatal(err)
		}
	})
	benchWakes(b, c, partitions)
	full = c.usage()
	c.connect(connections)
	connected := c.usage()
	b.ReportMetric(float64(connected.rss-full.rss)/float64(connections), "B/connection")
	b.ReportMetric(float64(connected.files-full.files)/float64(connections), "files/connection")
	b.ReportMetric(float64(connected.goroutines-full.goroutines)/float64(connections), "goroutines/connection")
	c.stop()
}

// benchWakes has one fetch of all partitions wait for more than there ever
// is, so that every append to any of them wakes it and it looks again.
func benchWakes(b *testing.B, c *child, partitions int) {
	const appends = 2000
	consumer, producer := c.dial(), c.dial()
	defer consumer.Close()
	defer producer.Close()
	fetch := kmsg.NewPtrFetchRequest()
	fetch.MaxWaitMillis, fetch.MinBytes, fetch.MaxBytes = 60_000, appends*61+1, 50<<20
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic = "t"
	for p := range partitions {
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = int32(p), 2, 1<<20
		rt.Partitions = append(rt.Partitions, rp)
	}
	fetch.Topics = append(fetch.Topics, rt)
	batch := testBatch(b, protocol.None, "v")
	appendAll := func() time.Duration {
		before := c.cpu()
		for i := range appends {
			if _, err := roundTrip(b, producer, produceRequest(b, int32(i%partitions), batch, -1)); err != nil {
				b.Fatal(err)
			}
		}
		return c.cpu() - before
	}
	alone := appendAll()
	for p := range fetch.Topics[0].Partitions {
		rp := &fetch.Topics[0].Partitions[p]
		rp.FetchOffset += int64((appends - p + partitions - 1) / partitions)
	}
	if _, err := consumer.Write(request(fetch, 4, 1)); err != nil {
		b.Fatal(err)
	}
	waited := appendAll()
	b.ReportMetric(float64(alone.Microseconds())/appends, "cpu-µs/append")
	b.ReportMetric(float64((waited-alone).Microseconds())/appends, "cpu-µs/wake")
	if _, err := roundTrip(b, producer, produceRequest(b, 0, testBatch(b, protocol.None, string(make([]byte, 200_000))), -1)); err != nil {
		b.Fatal(err)
	}
	if _, err := protocol.ReadFrame(consumer, nil, 100<<20); err != nil {
		b.Fatal(err)
	}
}

// benchClosed starts on 100 GiB of closed segments: 10 partitions with 10 of
// 1 GiB each.
func benchClosed(b *testing.B) {
	const partitions, segments = 10, 10
	data := filepath.Join(b.TempDir(), "data")
	c := startChild(b, data)
	size := "16384" // room for one batch
	c.createTopic(partitions, map[string]*string{"segment.bytes": &size})
	nc := c.dial()
	batch := testBatch(b, protocol.None, string(make([]byte, 10_000)))
	for p := range partitions {
		for range segments + 1 {
			if _, err := roundTrip(b, nc, produceRequest(b, int32(p), batch, -1)); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := nc.Close(); err != nil {
		b.Fatal(err)
	}
	c.stop()
	c = startChild(b, data)
	b.ReportMetric(c.started.Seconds(), "start-small-s")
	c.stop()
	files, err := filepath.Glob(filepath.Join(data, "topics", "t-*", "*.log"))
	if err != nil || len(files) != partitions*(segments+1) {
		b.Fatalf("%d segments, %v", len(files), err)
	}
	var total int64
	for _, f := range files {
		if filepath.Base(f) == fmt.Sprintf("%020d.log", segments) {
			continue // the active one
		}
		if err := os.Truncate(f, 1<<30); err != nil {
			b.Fatal(err)
		}
		total += 1 << 30
	}
	c = startChild(b, data)
	b.ReportMetric(c.started.Seconds(), "start-closed-s")
	b.ReportMetric(float64(total>>30), "closed-GiB")
	c.stop()
	c = startChild(b, data)
	c.kill()
	c = startChild(b, data)
	b.ReportMetric(c.started.Seconds(), "start-closed-killed-s")
	c.stop()
}
