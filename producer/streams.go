package producer

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/semaphore"

	"mft/internal/kafka"
)

// MaxStreams is the largest Config.Streams.
const MaxStreams = 32

// A stream's window is how many bytes of spread files may be on their way in
// it. What is on its way cannot move to another stream any more, and at the end
// all wait for the slowest: so the window follows how long an acknowledgement
// takes.
const (
	firstWindow = 2 << 20
	minWindow   = 1 << 20
	maxWindow   = 8 << 20
	quickAck    = 500 * time.Millisecond // the window grows
	slowAck     = 2 * time.Second        // it shrinks
)

// streams are the clients that a Producer sends files through, each with
// connections of its own: over a long or lossy way one connection carries only
// a part of what the way does. Without a number of them there is one.
//
// Records of a transfer keep their order only within a stream. So what a
// reader needs first is acknowledged before another stream carries what comes
// after it: see transfer.
type streams struct {
	clients []*kgo.Client
	// room bounds the bytes on the way in all streams together, as the client
	// does when it is the only one; then it is nil.
	room *semaphore.Weighted

	mu    sync.Mutex
	loads []load        // one for each client
	turn  int           // where to look first
	freed chan struct{} // closed and replaced when a window may have opened
}

// load is what is on its way in one stream.
type load struct{ bytes, window int64 }

// newStreams makes n clients with the same options.
func newStreams(n int, brokers []string, opts []kgo.Opt) (*streams, error) {
	if n == 1 {
		client, err := kgo.NewClient(append(opts, kgo.SeedBrokers(brokers...))...)
		if err != nil {
			return nil, fmt.Errorf("kafka client: %w", err)
		}
		return &streams{clients: []*kgo.Client{client}}, nil
	}
	s := &streams{room: semaphore.NewWeighted(maxBufferedBytes), loads: make([]load, n), freed: make(chan struct{})}
	for i := range n {
		seeds := kafka.NewSeeds(brokers, i)
		client, err := kgo.NewClient(append(opts[:len(opts):len(opts)], seeds.Options()...)...)
		if err != nil {
			s.close()
			return nil, fmt.Errorf("kafka client: %w", err)
		}
		seeds.Attach(client)
		s.clients = append(s.clients, client)
		s.loads[i].window = firstWindow
	}
	return s, nil
}

func (s *streams) close() {
	for _, client := range s.clients {
		client.Close()
	}
}

// several says that there is more than one.
func (s *streams) several() bool { return s.room != nil }

// warmUp connects the streams and gets them their producer ids, so that they
// are there when the first chunk wants to go. What fails now is tried again then.
func (s *streams) warmUp(ctx context.Context, idempotent bool) (done func()) {
	var warming sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	for _, client := range s.clients[1:] {
		warming.Go(func() {
			req := kmsg.NewPtrMetadataRequest()
			req.Topics = []kmsg.MetadataRequestTopic{} // only the brokers
			if _, err := req.RequestWith(ctx, client); err == nil && idempotent {
				_, _, _ = client.ProducerID(ctx)
			}
		})
	}
	return func() {
		cancel()
		warming.Wait()
	}
}

// home is the stream for a new transfer: the one with the least on its way.
func (s *streams) home() int {
	if !s.several() {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.least(func(load) bool { return true })
}

// free waits for a stream whose window is open for size bytes. When ctx ends
// it is any.
func (s *streams) free(ctx context.Context, size int64) int {
	for {
		s.mu.Lock()
		i := s.least(func(l load) bool { return l.bytes == 0 || l.bytes+size <= l.window })
		freed := s.freed
		s.mu.Unlock()
		if i >= 0 {
			return i
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return 0
		}
	}
}

// least is the stream with the least on its way of those that will do, the
// next in turn of several that have as little; -1: none will do. s.mu is held.
func (s *streams) least(will func(load) bool) int {
	s.turn++
	best := -1
	for i := range s.loads {
		at := (s.turn + i) % len(s.loads)
		if will(s.loads[at]) && (best < 0 || s.loads[at].bytes < s.loads[best].bytes) {
			best = at
		}
	}
	return best
}

// produce hands a record to a stream. It blocks while too much is on the way.
func (s *streams) produce(ctx context.Context, stream int, rec *kgo.Record, promise func(*kgo.Record, error)) {
	if !s.several() {
		s.clients[0].Produce(ctx, rec, promise)
		return
	}
	size := int64(len(rec.Key) + len(rec.Value))
	if err := s.room.Acquire(ctx, min(size, maxBufferedBytes)); err != nil {
		promise(rec, err)
		return
	}
	began := time.Now()
	s.mu.Lock()
	s.loads[stream].bytes += size
	s.mu.Unlock()
	s.clients[stream].Produce(ctx, rec, func(rec *kgo.Record, err error) {
		s.settled(stream, size, time.Since(began))
		s.room.Release(min(size, maxBufferedBytes))
		promise(rec, err)
	})
}

func (s *streams) settled(stream int, size int64, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &s.loads[stream]
	l.bytes -= size
	switch {
	case took <= quickAck:
		l.window = min(l.window+size, maxWindow)
	case took >= slowAck:
		l.window = max(l.window-size/2, minWindow)
	}
	close(s.freed)
	s.freed = make(chan struct{})
}

// waiting is how many records are on the way.
func (s *streams) waiting() (records int64) {
	for _, client := range s.clients {
		records += client.BufferedProduceRecords()
	}
	return records
}

// flush waits until nothing is on the way.
func (s *streams) flush(ctx context.Context) error {
	for _, client := range s.clients {
		if err := client.Flush(ctx); err != nil {
			return err
		}
	}
	return nil
}
