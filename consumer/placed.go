package consumer

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"mft/protocol"
)

// maxRemembered is how many receipts of the topic are looked at, and how many
// placed transfers are remembered, at most. A million takes some 40 MB.
const maxRemembered = 1_000_000

const readStall = 30 * time.Second // without a receipt, until it is looked anew where they begin and end

// placedIDs remembers which transfers the group is done with, so that none is
// placed again: those of this process and, by its receipts, those of all others
// that were members of the group. The oldest half is forgotten when there are
// too many. Its methods may be called from several goroutines.
type placedIDs struct {
	limit int

	mu      sync.Mutex
	young   map[[16]byte]struct{}
	old     map[[16]byte]struct{}
	waiting map[protocol.TransferID][]func() // placed before a kill, with something left to be done

	loading sync.Mutex
	next    map[int32]int64 // where reading the receipts goes on
	loaded  time.Time       // when the last reading began; zero: none did
}

func newPlacedIDs(limit int) *placedIDs {
	return &placedIDs{limit: limit, young: make(map[[16]byte]struct{}), waiting: make(map[protocol.TransferID][]func()), next: make(map[int32]int64)}
}

func (p *placedIDs) add(id protocol.TransferID) {
	raw, ok := id.Raw()
	if !ok {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.young[raw]; ok {
		return
	}
	if len(p.young) >= p.limit/2 {
		p.old, p.young = p.young, make(map[[16]byte]struct{})
	}
	p.young[raw] = struct{}{}
}

func (p *placedIDs) has(id protocol.TransferID) bool {
	raw, ok := id.Raw()
	if !ok {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok = p.young[raw]
	if !ok {
		_, ok = p.old[raw]
	}
	return ok
}

// expect tells that something is left to be done for a placed transfer, until
// settled is called.
func (p *placedIDs) expect(id protocol.TransferID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting[id] = nil
}

// settled tells that nothing is left to be done.
func (p *placedIDs) settled(id protocol.TransferID) {
	p.mu.Lock()
	todo := p.waiting[id]
	delete(p.waiting, id)
	p.mu.Unlock()
	for _, do := range todo {
		do()
	}
}

// whenSettled calls do once nothing is left to be done for the transfer.
func (p *placedIDs) whenSettled(id protocol.TransferID, do func()) {
	p.mu.Lock()
	todo, open := p.waiting[id]
	if open {
		p.waiting[id] = append(todo, do)
	}
	p.mu.Unlock()
	if !open {
		do()
	}
}

// load reads the receipts that were written since the last time, up to the
// present end of the topic, if that was not done since the given moment. A topic
// that is not there, or may not be read, holds nothing. The error is that of
// ctx.
func (r *receipts) load(ctx context.Context, since time.Time) error {
	p := r.placed
	if r.off() {
		return nil
	}
	p.loading.Lock()
	defer p.loading.Unlock()
	if p.loaded.After(since) {
		return nil
	}
	began := time.Now()
	for {
		done, err := r.loadOnce(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if done {
			p.loaded = began
			return nil
		}
		r.log.Debug().Str("topic", r.topic).Err(err).Msg("reading the receipts, trying again")
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(offsetRetry):
		}
	}
}

// loadOnce tries to; done tells that there is no point in another try.
func (r *receipts) loadOnce(ctx context.Context) (done bool, err error) {
	if _, err := askTopic(ctx, r.client, r.topic); err != nil {
		return r.unreadable(err), err
	}
	admin := kadm.NewClient(r.client)
	starts, err := admin.ListStartOffsets(ctx, r.topic)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return r.unreadable(err), err
	}
	ends, err := admin.ListCommittedOffsets(ctx, r.topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return r.unreadable(err), err
	}
	spans := make(map[int32]span)
	ends.Each(func(end kadm.ListedOffset) {
		from := max(r.placed.next[end.Partition], end.Offset-maxRemembered)
		if from > end.Offset { // another topic than before
			from = 0
		}
		if start, ok := starts.Lookup(r.topic, end.Partition); ok {
			from = max(from, start.Offset)
		}
		if from < end.Offset {
			spans[end.Partition] = span{from, end.Offset}
		}
	})
	if len(spans) == 0 {
		return true, nil
	}
	began, read := time.Now(), 0
	err = r.read(ctx, spans, func(rec *kgo.Record) {
		read++
		r.remember(rec)
	})
	if err != nil {
		return r.unreadable(err), err
	}
	for partition, s := range spans {
		r.placed.next[partition] = s.end
	}
	r.log.Debug().Str("topic", r.topic).Int("receipts", read).Stringer("took", time.Since(began)).Msg("read what the group has received")
	return true, nil
}

// remember takes note of a receipt of this group.
func (r *receipts) remember(rec *kgo.Record) {
	receipt, err := protocol.ParseReceipt(rec.Key, rec.Value, rec.Headers)
	if err != nil {
		r.log.Debug().Int64("offset", rec.Offset).Err(err).Msg("a record of the receipts topic is none")
		return
	}
	if receipt.Group == r.cfg.Group && (receipt.State == protocol.StateDelivered || receipt.State == protocol.StateSkipped) {
		r.placed.add(receipt.Transfer)
	}
}

// unreadable tells whether an error is for good. What is for good is told once,
// unless the topic is just not there.
func (r *receipts) unreadable(err error) bool {
	code, ok := errors.AsType[*kerr.Error](err)
	if !ok || errors.Is(code, kerr.LeaderNotAvailable) {
		return false
	}
	if errors.Is(code, kerr.UnknownTopicOrPartition) {
		return true
	}
	if kerr.IsRetriable(code) {
		return false
	}
	if !errors.Is(code, kerr.InvalidTopicException) { // writing will tell
		r.warnUnread.Do(func() {
			r.log.Warn().Str("topic", r.topic).Err(code).
				Msg("the receipts cannot be read: files that other members of the group have placed may be placed again when their records are repeated")
		})
	}
	return true
}

// poll waits for records, but not for ever: what was there may be deleted.
func poll(ctx context.Context, client *kgo.Client) (kgo.Fetches, error) {
	bounded, cancel := context.WithTimeout(ctx, readStall)
	defer cancel()
	fetches := client.PollFetches(bounded)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return fetches, bounded.Err()
}

// read reads spans of the receipts topic.
func (r *receipts) read(ctx context.Context, spans map[int32]span, each func(*kgo.Record)) error {
	offsets := make(map[int32]kgo.Offset, len(spans))
	for partition, s := range spans {
		offsets[partition] = kgo.NewOffset().At(s.start)
	}
	client, err := kgo.NewClient(append(r.cfg.clientOptions(r.watch),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{r.topic: offsets}),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	if err != nil {
		return err
	}
	defer client.Close()
	for left := len(spans); left > 0; {
		fetches, err := poll(ctx, client)
		if err != nil {
			return err
		}
		var failed error
		fetches.EachError(func(_ string, _ int32, err error) {
			if code, ok := errors.AsType[*kerr.Error](err); ok && !kerr.IsRetriable(code) || errors.Is(err, kerr.UnknownTopicOrPartition) {
				failed = err
			}
		})
		if failed != nil {
			return failed
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			s, ok := spans[rec.Partition]
			if !ok || s.start >= s.end {
				return
			}
			if !rec.Attrs.IsControl() && rec.Offset < s.end {
				each(rec)
			}
			if s.start = rec.Offset + 1; s.start >= s.end {
				left--
			}
			spans[rec.Partition] = s
		})
	}
	return nil
}
