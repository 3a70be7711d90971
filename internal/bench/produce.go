package bench

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"
)

// ProduceConfig says what to produce.
type ProduceConfig struct {
	Config
	Size int // bytes of a record's value
	// Records is how many to produce in all; 0: until Duration is over.
	Records  int64
	Duration time.Duration
	// Random makes values that do not compress.
	Random bool
}

// Produce sends records as fast as the broker takes them, and waits for all
// acknowledgements. Records of a topic with several partitions are spread over
// them.
func Produce(ctx context.Context, cfg ProduceConfig) (Result, error) {
	if cfg.Records == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, cfg.Duration)
		defer cancel()
	}
	var (
		left, acked atomic.Int64
		mu          sync.Mutex
		acks        = newHistogram()
	)
	left.Store(cfg.Records)
	start, cpu := time.Now(), cpuSeconds()
	group, _ := errgroup.WithContext(ctx)
	for i := range max(1, cfg.Clients) {
		group.Go(func() error {
			h := newHistogram()
			err := cfg.produce(ctx, uint64(i), &left, &acked, h)
			mu.Lock()
			defer mu.Unlock()
			acks.Merge(h)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return Result{}, err
	}
	n := acked.Load()
	r := result(n, n*int64(cfg.Size), start, cpu)
	r.Acks = latency(acks)
	return r, nil
}

// produce is one client's work.
func (cfg *ProduceConfig) produce(ctx context.Context, seed uint64, left, acked *atomic.Int64, acks *hdrhistogram.Histogram) error {
	cl, err := cfg.client(kgo.DefaultProduceTopic(cfg.Topic), kgo.MaxBufferedRecords(1<<20), kgo.MaxBufferedBytes(64<<20))
	if err != nil {
		return err
	}
	defer cl.Close()
	value := payload(cfg.Size, cfg.Random, seed)
	var (
		mu     sync.Mutex // promises of one client come one at a time, but the reader is another goroutine
		failed error
		broken atomic.Bool
	)
	for !broken.Load() && ctx.Err() == nil && (cfg.Records == 0 || left.Add(-1) >= 0) {
		sent := time.Now()
		cl.Produce(context.WithoutCancel(ctx), &kgo.Record{Value: value}, func(_ *kgo.Record, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				acked.Add(1)
				err = record(acks, time.Since(sent))
			}
			if err != nil && failed == nil {
				failed = err
				broken.Store(true)
			}
		})
	}
	if err := cl.Flush(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	mu.Lock()
	defer mu.Unlock()
	return failed
}
