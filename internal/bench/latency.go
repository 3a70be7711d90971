package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"
)

// LatencyConfig says at which pace to measure.
type LatencyConfig struct {
	Config
	Size     int     // bytes of a record's value, at least 16
	Rate     float64 // records a second
	Duration time.Duration
	// WarmUp is how long to run before counting.
	WarmUp time.Duration
}

// minLatencySize has room for the two numbers of a record: whose it is, and
// when it was to be sent.
const minLatencySize = 16

// EndToEnd sends records at a fixed pace and measures how long each takes to
// come back to a consumer in this process. The time counts from when a record
// was to be sent, whether or not it could be: a broker that stalls is charged
// for every record that had to wait (no coordinated omission).
func EndToEnd(ctx context.Context, cfg LatencyConfig) (*Latency, error) {
	if cfg.Size < minLatencySize {
		return nil, fmt.Errorf("records of %d bytes are too small: at least %d are needed", cfg.Size, minLatencySize)
	}
	total := int64(cfg.Rate * (cfg.WarmUp + cfg.Duration).Seconds())
	skip := int64(cfg.Rate * cfg.WarmUp.Seconds())
	if total <= skip {
		return nil, fmt.Errorf("%g records a second for %s are none: measure longer", cfg.Rate, cfg.Duration)
	}
	consumer, err := cfg.client(kgo.ConsumeTopics(cfg.Topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()), kgo.FetchMinBytes(1), kgo.FetchMaxWait(5*time.Second))
	if err != nil {
		return nil, err
	}
	defer consumer.Close()
	producer, err := cfg.client(kgo.DefaultProduceTopic(cfg.Topic), kgo.ProducerLinger(0))
	if err != nil {
		return nil, err
	}
	defer producer.Close()

	run := time.Now().UnixNano()
	h := newHistogram()
	ready := make(chan struct{})
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { // reads until the last record is back
		seen := int64(0)
		for begun := false; seen < total; {
			fetches := consumer.PollFetches(ctx)
			if err := fetches.Err(); err != nil {
				return fmt.Errorf("after %d of %d records: %w", seen, total, err)
			}
			now := time.Now()
			var failed error
			fetches.EachRecord(func(r *kgo.Record) {
				if len(r.Value) < minLatencySize || binary.BigEndian.Uint64(r.Value) != uint64(run) {
					return
				}
				due := int64(binary.BigEndian.Uint64(r.Value[8:]))
				if due < 0 { // a probe: the consumer is at the end of the topic
					if !begun {
						begun = true
						close(ready)
					}
					return
				}
				if seen++; seen > skip {
					failed = errors.Join(failed, record(h, now.Sub(time.Unix(0, due))))
				}
			})
			if failed != nil {
				return failed
			}
		}
		return nil
	})
	group.Go(func() error { return cfg.send(ctx, producer, run, total, ready) })
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return latency(h), nil
}

// send sends probes until the consumer is there, and then the records, each
// when it is due.
func (cfg *LatencyConfig) send(ctx context.Context, producer *kgo.Client, run, total int64, ready <-chan struct{}) error {
	value := func(due int64) []byte {
		v := make([]byte, cfg.Size)
		binary.BigEndian.PutUint64(v, uint64(run))
		binary.BigEndian.PutUint64(v[8:], uint64(due))
		return v
	}
	probe := time.NewTicker(50 * time.Millisecond)
	defer probe.Stop()
waiting:
	for {
		if err := producer.ProduceSync(ctx, &kgo.Record{Value: value(-1)}).FirstErr(); err != nil {
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
	failed := make(chan error, 1)
	interval := time.Duration(float64(time.Second) / cfg.Rate)
	start := time.Now()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for i := range total {
		due := start.Add(time.Duration(i) * interval)
		if wait := time.Until(due); wait > 0 {
			pause.Reset(wait)
			select {
			case <-pause.C:
			case err := <-failed:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		producer.Produce(ctx, &kgo.Record{Value: value(due.UnixNano())}, func(_ *kgo.Record, err error) {
			if err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		})
	}
	if err := producer.Flush(ctx); err != nil {
		return err
	}
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}
