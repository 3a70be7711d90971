package producer

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/semaphore"

	"mft/internal/kafka"
)

// MaxStreams is the largest Config.Streams.
const MaxStreams = 32

// streams are the clients that a Producer sends files through, each with
// connections of its own: over a long or lossy way one connection carries only
// a part of what the way does. Without a number of them there is one.
//
// Records of a transfer keep their order only within a stream. So what a
// reader needs first is acknowledged before another stream carries what comes
// after it: see transfer.
type streams struct {
	clients []*kgo.Client
	turn    atomic.Uint32
	// room bounds the bytes on the way in all streams together, as the client
	// does when it is the only one; then it is nil.
	room *semaphore.Weighted
}

// newStreams makes n clients with the same options.
func newStreams(n int, brokers []string, opts []kgo.Opt) (*streams, error) {
	if n == 1 {
		client, err := kgo.NewClient(append(opts, kgo.SeedBrokers(brokers...))...)
		if err != nil {
			return nil, fmt.Errorf("kafka client: %w", err)
		}
		return &streams{clients: []*kgo.Client{client}}, nil
	}
	s := &streams{room: semaphore.NewWeighted(maxBufferedBytes)}
	for i := range n {
		seeds := kafka.NewSeeds(brokers, i)
		client, err := kgo.NewClient(append(opts[:len(opts):len(opts)], seeds.Options()...)...)
		if err != nil {
			s.close()
			return nil, fmt.Errorf("kafka client: %w", err)
		}
		seeds.Attach(client)
		s.clients = append(s.clients, client)
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

// free is the stream with the fewest bytes on the way, the next in turn of
// several that have as few.
func (s *streams) free() int {
	if !s.several() {
		return 0
	}
	n := len(s.clients)
	best, least := 0, int64(-1)
	for turn, i := int(s.turn.Add(1)%uint32(n)), 0; i < n; i++ {
		at := (turn + i) % n
		if bytes := s.clients[at].BufferedProduceBytes(); least < 0 || bytes < least {
			best, least = at, bytes
		}
	}
	return best
}

// produce hands a record to a stream. It blocks while too much is on the way.
func (s *streams) produce(ctx context.Context, stream int, rec *kgo.Record, promise func(*kgo.Record, error)) {
	if s.room == nil {
		s.clients[stream].Produce(ctx, rec, promise)
		return
	}
	size := min(int64(len(rec.Key)+len(rec.Value)), maxBufferedBytes)
	if err := s.room.Acquire(ctx, size); err != nil {
		promise(rec, err)
		return
	}
	s.clients[stream].Produce(ctx, rec, func(rec *kgo.Record, err error) {
		s.room.Release(size)
		promise(rec, err)
	})
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
