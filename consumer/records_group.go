package consumer

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// group reads as a member of a consumer group. Records are marked as read once
// they are written; the marks are committed now and then and at the end.
func (r *reader) group(ctx context.Context, starts map[int32]int64, spans map[int32]span, limit int64) (err error) {
	var (
		mu     sync.Mutex
		left   = make(map[int32]int64) // assigned partitions that have not reached their end yet
		joined = make(chan struct{})
		once   sync.Once
	)
	polling, stopPolling := context.WithCancelCause(ctx)
	defer stopPolling(nil)
	settle := func() { // with mu held: ends the reading when nothing is left
		if !r.cfg.Follow && len(left) == 0 {
			stopPolling(errReached)
		}
	}
	forget := func(_ context.Context, _ *kgo.Client, lost map[string][]int32) {
		mu.Lock()
		defer mu.Unlock()
		for _, p := range lost[r.cfg.Topic] {
			delete(left, p)
		}
	}
	client, err := kgo.NewClient(append(r.cfg.clientOptions(r.watch),
		kgo.ConsumeTopics(r.cfg.Topic),
		kgo.ConsumerGroup(r.cfg.Group),
		kgo.SessionTimeout(recordsSession),
		kgo.HeartbeatInterval(heartbeatInterval),
		kgo.AutoCommitMarks(),
		kgo.AutoCommitInterval(groupInterval),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsRevoked(func(ctx context.Context, client *kgo.Client, lost map[string][]int32) {
			if err := client.CommitMarkedOffsets(ctx); err != nil {
				r.cfg.Logger.Debug().Err(err).Msg("committing before partitions are given back")
			}
			forget(ctx, client, lost)
		}),
		kgo.OnPartitionsLost(forget),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, added map[string][]int32) {
			if len(added[r.cfg.Topic]) == 0 { // more members than partitions, or a rebalance in two steps
				once.Do(func() { close(joined) })
			}
		}),
		kgo.AdjustFetchOffsetsFn(func(_ context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
			mu.Lock()
			defer mu.Unlock()
			for p, offset := range offsets[r.cfg.Topic] {
				at := offset.EpochOffset().Offset
				if start, ok := starts[p]; ok && at < 0 {
					at = start
					offsets[r.cfg.Topic][p] = kgo.NewOffset().At(at)
				}
				if at < spans[p].end {
					left[p] = spans[p].end
				}
			}
			settle()
			return offsets, nil
		}),
	)...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	defer client.CloseAllowingRebalance()
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer stopPolling(nil)
	helpers.Go(func() { // a member that gets nothing ends, too
		select {
		case <-polling.Done():
			return
		case <-joined:
		}
		select {
		case <-polling.Done():
		case <-time.After(settleTime):
			mu.Lock()
			defer mu.Unlock()
			settle()
		}
	})
	err = r.pollGroup(polling, client, r.limited(limit), func(record *kgo.Record) bool {
		if r.cfg.Follow {
			return true
		}
		mu.Lock()
		defer mu.Unlock()
		end, more := left[record.Partition]
		if more && record.Offset+1 >= end {
			delete(left, record.Partition)
		}
		return more && record.Offset < end
	}, func() {
		mu.Lock()
		defer mu.Unlock()
		settle()
	})
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	if commitErr := client.CommitMarkedOffsets(late); commitErr != nil {
		r.cfg.Logger.Warn().Str("group", r.cfg.Group).Err(commitErr).Msg("the last commit failed; the next run repeats some records")
	}
	return err
}

// pollGroup hands the records that are wanted to each, and marks them once
// they are written out. after is called when all that came together is done.
func (r *reader) pollGroup(ctx context.Context, client *kgo.Client, each func(*kgo.Record) error, wanted func(*kgo.Record) bool, after func()) error {
	for {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			client.AllowRebalance()
			return context.Cause(ctx)
		}
		err := r.fetchErrors(fetches)
		var read []*kgo.Record
		for iter := fetches.RecordIter(); !iter.Done() && err == nil; {
			record := iter.Next()
			if !wanted(record) {
				continue
			}
			read = append(read, record)
			if !record.Attrs.IsControl() {
				err = each(record)
			}
		}
		if flushErr := r.flush(); flushErr != nil {
			err = flushErr
		} else {
			client.MarkCommitRecords(read...)
		}
		client.AllowRebalance()
		if err != nil {
			return err
		}
		after()
	}
}
