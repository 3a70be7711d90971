package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"mft/internal/measure"
)

// LatencyConfig says at which pace to measure.
type LatencyConfig struct {
	Config
	Size     int     // bytes of a record's value, at least 16
	Rate     float64 // records a second
	Duration time.Duration
	// WarmUp is how long to run before counting.
	WarmUp time.Duration
	// Consumers is how many consumers get every record. At least 1.
	Consumers int
}

// minLatencySize has room for the two numbers of a record: whose it is, and
// when it was to be sent.
const minLatencySize = 16

// EndToEnd sends records at a fixed pace and measures how long each takes to
// come back to each consumer in this process. The time counts from when a record
// was to be sent, whether or not it could be: a broker that stalls is charged
// for every record that had to wait (no coordinated omission).
func EndToEnd(ctx context.Context, cfg LatencyConfig) (*Latency, error) {
	if cfg.Size < minLatencySize {
		return nil, fmt.Errorf("records of %d bytes are too small: at least %d are needed", cfg.Size, minLatencySize)
	}
	m := endToEnd{
		LatencyConfig: cfg,
		total:         int64(cfg.Rate * (cfg.WarmUp + cfg.Duration).Seconds()),
		run:           time.Now().UnixNano(),
		all:           measure.NewHistogram(),
	}
	if m.total <= int64(cfg.Rate*cfg.WarmUp.Seconds()) {
		return nil, fmt.Errorf("%g records a second for %s are none: measure longer", cfg.Rate, cfg.Duration)
	}
	producer, err := cfg.client(kgo.DefaultProduceTopic(cfg.Topic), kgo.ProducerLinger(0))
	if err != nil {
		return nil, err
	}
	defer producer.Close()
	group, ctx := errgroup.WithContext(ctx)
	m.ready.Add(max(1, cfg.Consumers))
	for range max(1, cfg.Consumers) {
		group.Go(func() error { return m.receive(ctx) })
	}
	group.Go(func() error { return m.send(ctx, producer) })
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return m.all.Latency(), nil
}

// endToEnd is such a measurement under way.
type endToEnd struct {
	LatencyConfig
	total     int64 // how many records are sent
	run       int64 // tells this measurement's records from those of others
	countFrom atomic.Int64
	ready     sync.WaitGroup // of consumers that are at the end of the topic

	mu  sync.Mutex
	all measure.Histogram
}

// receive is one consumer, which reads until the last record is back.
func (m *endToEnd) receive(ctx context.Context) error {
	begun := false
	begin := func() {
		if !begun {
			begun = true
			m.ready.Done()
		}
	}
	defer begin() // one that fails lets nobody wait
	consumer, err := m.client(kgo.ConsumeTopics(m.Topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()), kgo.FetchMinBytes(1), kgo.FetchMaxWait(5*time.Second))
	if err != nil {
		return err
	}
	defer consumer.Close()
	h := measure.NewHistogram()
	for seen := int64(0); seen < m.total; {
		fetches := consumer.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("after %d of %d records: %w", seen, m.total, err)
		}
		now := time.Now()
		var failed error
		fetches.EachRecord(func(r *kgo.Record) {
			if len(r.Value) < minLatencySize || binary.BigEndian.Uint64(r.Value) != uint64(m.run) {
				return
			}
			due := int64(binary.BigEndian.Uint64(r.Value[8:]))
			if due < 0 { // a probe: this consumer is at the end of the topic
				begin()
				return
			}
			if seen++; due >= m.countFrom.Load() {
				failed = errors.Join(failed, h.Add(now.Sub(time.Unix(0, due))))
			}
		})
		if failed != nil {
			return failed
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all.Merge(h)
	return nil
}

func (m *endToEnd) value(due int64) []byte {
	v := make([]byte, m.Size)
	binary.BigEndian.PutUint64(v, uint64(m.run))
	binary.BigEndian.PutUint64(v[8:], uint64(due))
	return v
}

// send sends probes until the consumers are there, and then the records, each
// when it is due.
func (m *endToEnd) send(ctx context.Context, producer *kgo.Client) error {
	ready := make(chan struct{})
	go func() {
		m.ready.Wait()
		close(ready)
	}()
	probe := time.NewTicker(50 * time.Millisecond)
	defer probe.Stop()
waiting:
	for {
		if err := producer.ProduceSync(ctx, &kgo.Record{Value: m.value(-1)}).FirstErr(); err != nil {
			return err
		}
		select {
		case <-ready:
			break waiting
		case <-probe.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	m.countFrom.Store(time.Now().Add(m.WarmUp).UnixNano())
	err := measure.Pace(ctx, m.Rate, m.total, func(due time.Time) error {
		producer.Produce(ctx, &kgo.Record{Value: m.value(due.UnixNano())}, func(_ *kgo.Record, err error) {
			if err != nil {
				fail(err)
			}
		})
		return nil
	})
	if err == nil {
		err = producer.Flush(ctx)
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
