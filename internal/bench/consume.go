package bench

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"mft/internal/measure"
)

// Consume reads the topic from its beginning to where it ends now, or so many
// records of it, if limit is not 0. Each of the clients reads all of that.
func Consume(ctx context.Context, cfg Config, limit int64) (Result, error) {
	total, err := cfg.records(ctx)
	if err != nil {
		return Result{}, err
	}
	if limit > 0 {
		total = min(total, limit)
	}
	var records, bytes atomic.Int64
	run := measure.Start()
	group, ctx := errgroup.WithContext(ctx)
	for range max(1, cfg.Clients) {
		group.Go(func() error { return cfg.consume(ctx, total, &records, &bytes) })
	}
	if err := group.Wait(); err != nil {
		return Result{}, err
	}
	return run.Result(records.Load(), bytes.Load()), nil
}

// records counts what is in the topic now.
func (c *Config) records(ctx context.Context) (int64, error) {
	cl, err := c.client()
	if err != nil {
		return 0, err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	starts, err := adm.ListStartOffsets(ctx, c.Topic)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return 0, fmt.Errorf("topic %s: %w", c.Topic, err)
	}
	ends, err := adm.ListEndOffsets(ctx, c.Topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return 0, fmt.Errorf("topic %s: %w", c.Topic, err)
	}
	var n int64
	ends.Each(func(end kadm.ListedOffset) {
		begin, _ := starts.Lookup(end.Topic, end.Partition)
		n += end.Offset - begin.Offset
	})
	if n == 0 {
		return 0, fmt.Errorf("topic %s is empty: produce to it first", c.Topic)
	}
	return n, nil
}

func (c *Config) consume(ctx context.Context, total int64, records, bytes *atomic.Int64) error {
	cl, err := c.client(kgo.ConsumeTopics(c.Topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return err
	}
	defer cl.Close()
	for n := int64(0); n < total; {
		fetches := cl.PollFetches(ctx)
		var errs []error
		fetches.EachError(func(_ string, p int32, err error) { errs = append(errs, fmt.Errorf("partition %d: %w", p, err)) })
		if err := errors.Join(errs...); err != nil {
			return fmt.Errorf("after %d of %d records: %w", n, total, err)
		}
		var size int64
		got := int64(0)
		fetches.EachRecord(func(r *kgo.Record) {
			if n+got < total {
				got, size = got+1, size+int64(len(r.Value))
			}
		})
		n += got
		records.Add(got)
		bytes.Add(size)
	}
	return nil
}
