package broker

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"mft/protocol"
)

// produceRequest is a whole frame that appends one batch to partition 0 of
// topic "t".
func produceRequest(t testing.TB, partition int32, batch protocol.Batch, acks int16) []byte {
	t.Helper()
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = acks, 30_000
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic = "t"
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Partition, rp.Records = partition, batch
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return request(req, 9, 1)
}

// produceCode is the error code in the answer to produceRequest.
func produceCode(body []byte) (int16, error) {
	resp := kmsg.NewPtrProduceResponse()
	resp.SetVersion(9)
	r := kbin.Reader{Src: body[4:]}
	kmsg.SkipTags(&r)
	if err := resp.ReadFrom(r.Src); err != nil {
		return 0, err
	}
	return resp.Topics[0].Partitions[0].ErrorCode, nil
}

// awaitCondition waits for what no event tells.
func awaitCondition(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ctx := testContext(t)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("waited too long: " + what)
		}
	}
}

func TestMemoryOfRequestsIsBounded(t *testing.T) {
	const (
		bound       = 4 << 20
		connections = 64
		each        = 3
	)
	r := startBroker(t, func(c *Config) {
		c.MaxInFlightBytes = bound
		c.TopicDefaults = map[string]string{"write.caching": "true", "max.message.bytes": "4194304"}
	})
	if _, err := r.topics.create(testContext(t), mustTopic(t, r, "t")); err != nil {
		t.Fatal(err)
	}
	// All clients send the same bytes, so what is in memory more than once is
	// the broker's.
	frame := produceRequest(t, 0, testBatch(t, protocol.None, strings.Repeat("v", 1<<20)), 1)
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)

	var peak uint64
	stop, sampled := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(sampled)
		for tick := time.NewTicker(5 * time.Millisecond); ; {
			select {
			case <-stop:
				tick.Stop()
				return
			case <-tick.C:
				if used := r.inFlight.used.Load(); used > bound {
					t.Errorf("%d bytes in flight, bound %d", used, bound)
				}
				runtime.ReadMemStats(&now)
				peak = max(peak, now.HeapInuse)
			}
		}
	}()
	var clients sync.WaitGroup
	for range connections {
		nc := r.dial()
		clients.Go(func() {
			for range each {
				body, err := roundTrip(t, nc, frame)
				if err == nil {
					var code int16
					code, err = produceCode(body)
					err = errors.Join(err, kerr.ErrorForCode(code))
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	clients.Wait()
	close(stop)
	<-sampled
	if used := r.inFlight.used.Load(); used != 0 {
		t.Errorf("%d bytes in flight when nothing is under way", used)
	}
	// Unbounded, 64 connections would hold 64 MiB of frames. The collector
	// lets garbage grow to as much as what is in use.
	if grown := int64(peak) - int64(before.HeapInuse); grown > 10*bound {
		t.Errorf("the heap grew by %d bytes, bound %d", grown, bound)
	} else {
		t.Logf("heap grew by %d bytes at most", grown)
	}
	if end := r.topics.get("t").log(0).EndOffset(); end != connections*each {
		t.Errorf("%d records appended, want %d", end, connections*each)
	}
}

func TestRequestLargerThanTheBoundIsLetInAlone(t *testing.T) {
	r := startBroker(t, func(c *Config) { c.MaxInFlightBytes = 1 << 10 })
	if _, err := r.topics.create(testContext(t), mustTopic(t, r, "t")); err != nil {
		t.Fatal(err)
	}
	frame := produceRequest(t, 0, testBatch(t, protocol.None, strings.Repeat("v", 500_000)), 1)
	var clients sync.WaitGroup
	for range 8 {
		nc := r.dial()
		clients.Go(func() {
			if _, err := roundTrip(t, nc, frame); err != nil {
				t.Error(err)
			}
		})
	}
	clients.Wait()
}

// startFrame sends the first n bytes of a frame.
func startFrame(t *testing.T, r *running, frame []byte, n int) net.Conn {
	t.Helper()
	nc := r.dial()
	if _, err := nc.Write(frame[:n]); err != nil {
		t.Fatal(err)
	}
	return nc
}

func TestHalfFramesDoNotStarveOthers(t *testing.T) {
	r := startBroker(t, func(c *Config) { c.MaxInFlightBytes = 1 << 20; c.holdTimeout = 300 * time.Millisecond })
	if _, err := r.topics.create(testContext(t), mustTopic(t, r, "t")); err != nil {
		t.Fatal(err)
	}
	frame := produceRequest(t, 0, testBatch(t, protocol.None, strings.Repeat("v", 900_000)), 1)

	// Announced, nothing sent: holds nothing.
	for range 20 {
		startFrame(t, r, frame, 16)
	}
	if _, err := roundTrip(t, r.dial(), frame); err != nil {
		t.Fatal(err)
	}

	// Begun, then silent: nobody minds as long as nobody waits.
	slow := startFrame(t, r, frame, 300_000)
	awaitCondition(t, "the frame holds memory", func() bool { return r.inFlight.used.Load() > 0 })
	if err := slow.SetReadDeadline(time.Now().Add(3 * r.cfg.holdTimeout)); err != nil {
		t.Fatal(err)
	}
	if _, err := slow.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a slow connection, although nobody waits: %v", err)
	}
	// Another one waits: it is served, and the slow one is closed.
	if _, err := roundTrip(t, r.dial(), frame); err != nil {
		t.Fatal(err)
	}
	if err := slow.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := slow.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the slow connection is still open: %v", err)
	}
	awaitCondition(t, "memory is given back", func() bool { return r.inFlight.used.Load() == 0 })
}

func TestWaitingForMemoryEndsWithTheBroker(t *testing.T) {
	r := startBroker(t, func(c *Config) { c.MaxInFlightBytes = 1 << 20; c.DrainTimeout = 100 * time.Millisecond })
	frame := produceRequest(t, 0, testBatch(t, protocol.None, strings.Repeat("v", 900_000)), 1)
	startFrame(t, r, frame, 300_000)
	awaitCondition(t, "the frame holds memory", func() bool { return r.inFlight.used.Load() > 0 })
	startFrame(t, r, frame, 300_000)
	awaitCondition(t, "the other waits", func() bool { return r.inFlight.waiting.Load() == 1 })
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if used := r.inFlight.used.Load(); used != 0 {
		t.Errorf("%d bytes are held by nobody", used)
	}
}

// A fetch that waits must not keep others from sending what it waits for.
func TestWaitingFetchHoldsNoMemory(t *testing.T) {
	r := startBroker(t, func(c *Config) { c.MaxInFlightBytes = 100 << 10 })
	if _, err := r.topics.create(testContext(t), mustTopic(t, r, "t")); err != nil {
		t.Fatal(err)
	}
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 60_000, 1, 1<<20
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic = "t"
	for range 6000 { // the same partition, often: more than maxPipelinedFrame
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.PartitionMaxBytes = 1 << 20
		rt.Partitions = append(rt.Partitions, rp)
	}
	req.Topics = append(req.Topics, rt)
	frame := request(req, 4, 1)
	if len(frame) <= maxPipelinedFrame {
		t.Fatalf("the request has only %d bytes", len(frame))
	}
	nc := r.dial()
	if _, err := nc.Write(append(request(kmsg.NewPtrApiVersionsRequest(), 0, 1), frame...)); err != nil {
		t.Fatal(err)
	}
	if _, err := protocol.ReadFrame(nc, nil, 1<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := roundTrip(t, r.dial(), produceRequest(t, 0, testBatch(t, protocol.None, strings.Repeat("v", 99_000)), 1)); err != nil {
		t.Fatal(err)
	}
	body, err := protocol.ReadFrame(nc, nil, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	if len(body) < 99_000 {
		t.Errorf("the fetch answered with %d bytes, before there were records", len(body))
	}
}

// Requests that are large to keep wait until those before them are answered.
func TestLargeRequestsAreNotPipelined(t *testing.T) {
	r := startBroker(t)
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = false
	for range 400 {
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = kmsg.StringPtr(strings.Repeat("n", 240))
		req.Topics = append(req.Topics, rt)
	}
	var frames []byte
	const n = 20
	for i := range int32(n) {
		f := request(req, 9, i)
		if len(f) <= maxPipelinedFrame {
			t.Fatalf("the request has only %d bytes", len(f))
		}
		frames = append(frames, f...)
		frames = append(frames, request(kmsg.NewPtrApiVersionsRequest(), 0, i)...)
	}
	nc := r.dial()
	go func() {
		if _, err := nc.Write(frames); err != nil {
			t.Error(err)
		}
	}()
	if err := nc.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	for i := range uint32(2 * n) {
		body, err := protocol.ReadFrame(nc, nil, 16<<20)
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		if id := binary.BigEndian.Uint32(body); id != i/2 {
			t.Fatalf("answer %d has correlation id %d", i, id)
		}
	}
	if err := nc.Close(); err != nil {
		t.Fatal(err)
	}
	awaitCondition(t, "memory is given back", func() bool { return r.inFlight.used.Load() == 0 })
}
