package bench

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"mft/internal/measure"
)

// ProduceConfig says what to produce.
type ProduceConfig struct {
	Config
	Size int // bytes of a record's value
	// Records is how many to produce in all; 0: until Duration is over. With
	// both, what comes first ends it.
	Records  int64
	Duration time.Duration // 0: until Records are produced
	// Rate is how many records to produce a second, by all clients together;
	// 0: as many as the broker takes. Acknowledgements are then timed from when
	// a record was to be sent.
	Rate float64
	// Ahead is how many records each client may have under way; 0: as many as
	// fit its buffers.
	Ahead int
	// Random makes values that do not compress.
	Random bool
	// Touch produces TouchRecords to every partition first, which are neither
	// timed nor counted: a broker makes files when a partition gets its first.
	Touch bool
}

// Produce sends records as fast as the broker takes them, or at a pace, and
// waits for all acknowledgements. Records of a topic with several partitions
// are spread over them.
func Produce(ctx context.Context, cfg ProduceConfig) (Result, error) {
	if cfg.Touch {
		if err := cfg.touch(ctx); err != nil {
			return Result{}, err
		}
	}
	p := producing{ProduceConfig: cfg, all: measure.NewHistogram()}
	p.left.Store(cfg.Records)
	if cfg.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, cfg.Duration)
		defer cancel()
	}
	run := measure.Start()
	group, _ := errgroup.WithContext(ctx)
	for i := range max(1, cfg.Clients) {
		group.Go(func() error { return p.client(ctx, uint64(i)) })
	}
	if err := group.Wait(); err != nil {
		return Result{}, err
	}
	n := p.acked.Load()
	r := run.Result(n, n*int64(cfg.Size))
	r.Acks = p.all.Latency()
	return r, nil
}

// TouchRecords is how many records touch a partition.
const TouchRecords = 2

// touchBytes is more than index.interval.bytes, of which Kafka's default is 4096.
const touchBytes = 5000

// touch produces to every partition as much as makes a broker do what it does
// once: to make files, and to write to the index, which Kafka does with the first
// batch behind index.interval.bytes. Its indexes are mapped files of 10 MiB, and
// that first access reads as much of one as the disk is set to read ahead.
func (cfg *ProduceConfig) touch(ctx context.Context) error {
	cl, err := cfg.client(kgo.DefaultProduceTopic(cfg.Topic), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return err
	}
	defer cl.Close()
	topics, err := kadm.NewClient(cl).ListTopics(ctx, cfg.Topic)
	if err != nil {
		return err
	}
	for _, size := range [TouchRecords]int{touchBytes, 1} {
		value := measure.Payload(size, cfg.Random, 0)
		var records []*kgo.Record
		for p := range topics[cfg.Topic].Partitions {
			records = append(records, &kgo.Record{Partition: p, Value: value})
		}
		if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
			return err
		}
	}
	return nil
}

// producing is such a measurement under way.
type producing struct {
	ProduceConfig
	left, acked atomic.Int64

	mu  sync.Mutex
	all measure.Histogram
}

// client is one client's work.
func (p *producing) client(ctx context.Context, seed uint64) error {
	cl, err := p.Config.client(kgo.DefaultProduceTopic(p.Topic), kgo.MaxBufferedRecords(cmp.Or(p.Ahead, 1<<20)), kgo.MaxBufferedBytes(64<<20))
	if err != nil {
		return err
	}
	defer cl.Close()
	value := measure.Payload(p.Size, p.Random, seed)
	var (
		mu     sync.Mutex // promises of one client come one at a time, but the reader is another goroutine
		failed error
		broken atomic.Bool
		acks   = measure.NewHistogram()
	)
	send := func(due time.Time) error {
		if broken.Load() || p.Records != 0 && p.left.Add(-1) < 0 {
			return errEnough
		}
		cl.Produce(context.WithoutCancel(ctx), &kgo.Record{Value: value}, func(_ *kgo.Record, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				p.acked.Add(1)
				err = acks.Add(time.Since(due))
			}
			if err != nil && failed == nil {
				failed = err
				broken.Store(true)
			}
		})
		return nil
	}
	if p.Rate > 0 {
		err = measure.Pace(ctx, p.Rate/float64(max(1, p.Clients)), 1<<62, send)
	} else {
		for err == nil && ctx.Err() == nil {
			err = send(time.Now())
		}
	}
	if err != nil && !errors.Is(err, errEnough) && ctx.Err() == nil {
		return err
	}
	if err := cl.Flush(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	mu.Lock()
	defer mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all.Merge(acks)
	return failed
}

// errEnough ends the sending of records.
var errEnough = errors.New("enough")
