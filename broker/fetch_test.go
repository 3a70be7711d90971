package broker

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"mft/protocol"
)

// fetchFrame is a whole Fetch request of partitions 0 up to n of topic "t",
// from their beginnings.
func fetchFrame(n int, minBytes, maxBytes int32) []byte {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 60_000, minBytes, maxBytes
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic = "t"
	for p := range n {
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.PartitionMaxBytes = int32(p), maxBytes
		rt.Partitions = append(rt.Partitions, rp)
	}
	req.Topics = append(req.Topics, rt)
	return request(req, 4, 1)
}

func readFetch(t *testing.T, nc net.Conn) []kmsg.FetchResponseTopicPartition {
	t.Helper()
	if err := nc.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil { // less than the fetches wait
		t.Fatal(err)
	}
	body, err := protocol.ReadFrame(nc, nil, 100<<20)
	if err != nil {
		t.Fatal(err)
	}
	resp := kmsg.NewPtrFetchResponse()
	resp.SetVersion(4)
	b := kbin.Reader{Src: body}
	b.Int32()
	if err := resp.ReadFrom(b.Src); err != nil {
		t.Fatal(err)
	}
	return resp.Topics[0].Partitions
}

func mustProduce(t *testing.T, nc net.Conn, partition int32, value string) {
	t.Helper()
	body, err := roundTrip(t, nc, produceRequest(t, partition, testBatch(t, protocol.None, value), -1))
	if err != nil {
		t.Fatal(err)
	}
	if code, err := produceCode(body); err != nil || code != 0 {
		t.Fatal(err, kerr.ErrorForCode(code))
	}
}

// A waiting fetch counts what comes after its first look, also into a
// partition that had something already, and answers with all of it.
func TestFetchWaitsForMinBytes(t *testing.T) {
	r := startBroker(t)
	m, err := r.newTopic("t", 3, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.topics.create(testContext(t), m); err != nil {
		t.Fatal(err)
	}
	producer := r.dial()
	one := len(testBatch(t, protocol.None, strings.Repeat("v", 1000)))
	stored := 0
	for _, appends := range [][]int32{{0, 0, 0}, {1, 2, 0, 2}} { // into one partition, into several
		stored += len(appends)
		consumer := r.dial()
		if _, err := consumer.Write(fetchFrame(3, int32(stored*one), 1<<20)); err != nil {
			t.Fatal(err)
		}
		for _, p := range appends {
			mustProduce(t, producer, p, strings.Repeat("v", 1000))
		}
		got := 0
		for _, p := range readFetch(t, consumer) {
			if p.ErrorCode != 0 {
				t.Errorf("partition %d: %v", p.Partition, kerr.ErrorForCode(p.ErrorCode))
			}
			got += len(p.RecordBatches)
		}
		if got != stored*one {
			t.Errorf("%d bytes, want %d", got, stored*one)
		}
	}
}

// A deleted topic ends the wait of those who fetch from it.
func TestWaitingFetchEndsWithItsTopic(t *testing.T) {
	r := startBroker(t)
	if _, err := r.topics.create(testContext(t), mustTopic(t, r, "t")); err != nil {
		t.Fatal(err)
	}
	consumer := r.dial()
	if _, err := consumer.Write(fetchFrame(1, 1, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.topics.remove(testContext(t), "t", topicID{}); err != nil {
		t.Fatal(err)
	}
	if p := readFetch(t, consumer)[0]; p.ErrorCode != kerr.UnknownTopicOrPartition.Code {
		t.Errorf("error %v", kerr.ErrorForCode(p.ErrorCode))
	}
}

// max_bytes bounds an answer over all partitions, but the first batch comes
// whole.
func TestFetchIsBounded(t *testing.T) {
	r := startBroker(t)
	m, err := r.newTopic("t", 3, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.topics.create(testContext(t), m); err != nil {
		t.Fatal(err)
	}
	nc := r.dial()
	for p := range int32(3) {
		for range 3 {
			mustProduce(t, nc, p, strings.Repeat("v", 1000))
		}
	}
	one := len(testBatch(t, protocol.None, strings.Repeat("v", 1000)))
	for maxBytes, want := range map[int][3]int{
		0:         {1, 0, 0},
		one - 1:   {1, 0, 0},
		one:       {1, 0, 0},
		one + 1:   {1, 0, 0},
		4 * one:   {3, 1, 0},
		5*one - 1: {3, 1, 0},
		100 * one: {3, 3, 3},
		9*one - 1: {3, 3, 2},
	} {
		if _, err := nc.Write(fetchFrame(3, 1, int32(maxBytes))); err != nil {
			t.Fatal(err)
		}
		for i, p := range readFetch(t, nc) {
			if len(p.RecordBatches) != want[i]*one {
				t.Errorf("max_bytes %d: partition %d has %d bytes, want %d batches", maxBytes, i, len(p.RecordBatches), want[i])
			}
		}
	}
}
