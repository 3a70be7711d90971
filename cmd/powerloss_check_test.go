//go:build linux

package cmd_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// errLost is the worst that can be found.
var errLost = errors.New("lost although acknowledged")

// verifyLimit bounds one verification; a broker that answers takes a fraction of it.
const verifyLimit = 30 * time.Second

// verify checks a broker that has just started against what was acknowledged before. The load waits meanwhile, except for what it has sent
// and sends again.
func (l *load) verify(random *rand.Rand) error {
	ctx, cancel := context.WithTimeout(l.t.Context(), verifyLimit)
	defer cancel()

	l.mu.Lock() // before quiet: what was acknowledged before the start
	acked := map[lane]map[int64]stamp{}
	for at, records := range l.acked {
		acked[at] = maps.Clone(records)
	}
	l.mu.Unlock()
	if !l.hush(ctx) {
		return fmt.Errorf("the load hangs: %w", ctx.Err())
	}
	defer l.quiet.Unlock()

	cl := l.client()
	defer cl.Close()
	adm := kadm.NewClient(cl)
	var wrong problems
	topics, err := l.verifyTopics(ctx, adm)
	wrong.add(err)
	l.mu.Lock()
	maps.DeleteFunc(acked, func(at lane, _ map[int64]stamp) bool { _, now := l.acked[at]; return !now }) // deleted meanwhile
	for at, records := range l.acked {
		if churn := l.churn[at.topic]; churn != nil {
			acked[at] = maps.Clone(records) // or created anew
		}
	}
	l.mu.Unlock()
	ends, err := adm.ListEndOffsets(ctx, topics...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		wrong.add(fmt.Errorf("list the ends: %w", err))
		return wrong.error()
	}
	logs, err := l.readAll(ctx, ends, nil)
	if err != nil {
		wrong.add(err)
		return wrong.error()
	}
	l.mu.Lock()
	strange := slices.Clone(l.strange)
	l.mu.Unlock()
	for _, err := range strange { // it may explain the rest
		wrong.add(err)
	}
	for at, records := range logs {
		wrong.add(l.verifyLane(at, records, acked[at]))
	}
	for at := range acked {
		if _, ok := logs[at]; !ok {
			wrong.add(fmt.Errorf("%w: %v, all of it", errLost, at))
		}
	}
	wrong.add(l.verifyIndexes(ctx, ends, logs, random))
	wrong.add(l.verifyGroups(ctx, adm))
	return wrong.error()
}

// hush takes quiet, unless the load hangs.
func (l *load) hush(ctx context.Context) bool {
	taken := make(chan struct{})
	go func() {
		l.quiet.Lock()
		select {
		case taken <- struct{}{}:
		case <-ctx.Done():
			l.quiet.Unlock()
		}
	}()
	select {
	case <-taken:
		return true
	case <-ctx.Done():
		return false
	}
}

// problems joins errors, the first few of them.
type problems struct {
	errs  []error
	more  int
	limit int // 8 when it is 0
}

func (p *problems) add(err error) {
	limit := p.limit
	if limit == 0 {
		limit = 8
	}
	switch {
	case err == nil:
	case len(p.errs) < limit || errors.Is(err, errLost) && !errors.Is(errors.Join(p.errs...), errLost):
		p.errs = append(p.errs, err)
	default:
		p.more++
	}
}

func (p *problems) error() error {
	if p.more > 0 {
		return errors.Join(errors.Join(p.errs...), fmt.Errorf("and %d more", p.more))
	}
	return errors.Join(p.errs...)
}

// verifyTopics checks that the topics are there that were created, and those are not that were deleted. It returns those that may be read.
func (l *load) verifyTopics(ctx context.Context, adm *kadm.Client) ([]string, error) {
	there, err := adm.ListTopics(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the topics: %w", err)
	}
	var names []string
	var wrong problems
	for _, topic := range l.topics {
		if got := len(there[topic.name].Partitions); got != int(topic.partitions) {
			wrong.add(fmt.Errorf("%w: topic %s has %d partitions of %d", errLost, topic.name, got, topic.partitions))
		} else {
			names = append(names, topic.name)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, topic := range l.churn {
		got := len(there[name].Partitions)
		switch {
		case topic.exists && got != int(topic.partitions):
			wrong.add(fmt.Errorf("%w: topic %s was created, and has %d partitions of %d", errLost, name, got, topic.partitions))
		case topic.gone && there.Has(name):
			wrong.add(fmt.Errorf("topic %s was deleted, and is there", name))
		case topic.exists:
			names = append(names, name)
		}
	}
	return names, wrong.error()
}

// read is a record that was read.
type read struct {
	stamp
	offset, timestamp int64
}

// readAll reads every lane from the given offset, or its beginning, to its end.
func (l *load) readAll(ctx context.Context, ends kadm.ListedOffsets, from map[lane]int64) (map[lane][]read, error) {
	logs := map[lane][]read{}
	start := map[string]map[int32]kgo.Offset{}
	left := map[lane]int64{}
	ends.Each(func(end kadm.ListedOffset) {
		at := lane{end.Topic, end.Partition}
		logs[at] = nil
		if first := from[at]; first < end.Offset {
			if start[at.topic] == nil {
				start[at.topic] = map[int32]kgo.Offset{}
			}
			start[at.topic][at.partition] = kgo.NewOffset().At(first)
			left[at] = end.Offset
		}
	})
	if len(left) == 0 {
		return logs, nil
	}
	cl := l.client(kgo.ConsumePartitions(start), kgo.ConsumeResetOffset(kgo.NoResetOffset()))
	defer cl.Close()
	var wrong problems
	for len(left) > 0 {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			for at, end := range left {
				wrong.add(fmt.Errorf("%v: %d records could be read in time, up to offset %d", at, len(logs[at]), end))
			}
			return nil, wrong.error()
		}
		for _, e := range fetches.Errors() {
			return nil, fmt.Errorf("read %s-%d: %w", e.Topic, e.Partition, e.Err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			at := lane{r.Topic, r.Partition}
			s, err := decodeValue(r)
			wrong.add(err)
			if want := from[at] + int64(len(logs[at])); r.Offset != want {
				wrong.add(fmt.Errorf("%v: offset %d was served where %d was to come", at, r.Offset, want))
			}
			logs[at] = append(logs[at], read{s, r.Offset, r.Timestamp.UnixMilli()})
			if end, ok := left[at]; ok && r.Offset+1 >= end {
				delete(left, at)
			}
		})
		if len(wrong.errs) > 0 {
			return nil, wrong.error()
		}
	}
	return logs, nil
}

// verifyLane checks that the acknowledged records are where they were, and that those of idempotent producers are in order and once.
func (l *load) verifyLane(at lane, records []read, acked map[int64]stamp) error {
	wrong := problems{limit: 2}
	for _, offset := range slices.Sorted(maps.Keys(acked)) {
		want := acked[offset]
		if offset >= int64(len(records)) {
			wrong.add(fmt.Errorf("%w: %v, offset %d, %v: the log ends at %d", errLost, at, offset, want, len(records)))
		} else if got := records[offset].stamp; got != want {
			wrong.add(fmt.Errorf("%w: %v, offset %d, %v: there is %v in its place", errLost, at, offset, want, got))
		}
	}
	l.mu.Lock()
	churn := l.churn[at.topic]
	l.mu.Unlock()
	next := map[uint32]uint64{}
	for _, r := range records {
		switch {
		case churn != nil:
			if r.producer != churn.life {
				wrong.add(fmt.Errorf("%v, offset %d: a record of the %dth topic of this name, the present one is the %dth", at, r.offset, r.producer, churn.life))
			}
		case r.producer == powerProducers: // not idempotent
		case r.sequence != next[r.producer]:
			wrong.add(fmt.Errorf("%v, offset %d: producer %d's record %d, where its %d was to come", at, r.offset, r.producer, r.sequence, next[r.producer]))
		}
		next[r.producer] = r.sequence + 1
	}
	return wrong.error()
}

// verifyIndexes reads from random offsets, and looks for random times.
func (l *load) verifyIndexes(ctx context.Context, ends kadm.ListedOffsets, logs map[lane][]read, random *rand.Rand) error {
	from := map[lane]int64{}
	for at, records := range logs {
		if n := len(records); n > 0 {
			from[at] = int64(max(n-1-random.IntN(min(n, 200)), 0)) // near the end, where the cut was, and not too much
		}
	}
	if _, err := l.readAll(ctx, ends, from); err != nil {
		return fmt.Errorf("read again from the middle: %w", err)
	}
	var wrong problems
	cl := l.client()
	defer cl.Close()
	for range 3 {
		var timestamp int64
		for _, records := range logs { // any of them
			if len(records) > 0 {
				timestamp = records[random.IntN(len(records))].timestamp
				break
			}
		}
		var names []string
		for _, topic := range l.topics {
			names = append(names, topic.name)
		}
		listed, err := kadm.NewClient(cl).ListOffsetsAfterMilli(ctx, timestamp, names...)
		if err != nil {
			return fmt.Errorf("look for a time: %w", err)
		}
		listed.Each(func(got kadm.ListedOffset) {
			records := logs[lane{got.Topic, got.Partition}]
			for _, r := range records {
				if r.timestamp >= timestamp {
					if got.Err != nil || got.Offset != r.offset {
						wrong.add(fmt.Errorf("%s-%d: offset %d (%v) for time %d, want %d", got.Topic, got.Partition, got.Offset, got.Err, timestamp, r.offset))
					}
					return
				}
			}
			if got.Err != nil || got.Offset < int64(len(records)) {
				wrong.add(fmt.Errorf("%s-%d: offset %d (%v) for time %d, which is later than its %d records", got.Topic, got.Partition, got.Offset, got.Err, timestamp, len(records)))
			}
		})
	}
	return wrong.error()
}

// verifyGroups checks that committed offsets are those that were acknowledged, or later ones.
func (l *load) verifyGroups(ctx context.Context, adm *kadm.Client) error {
	l.mu.Lock()
	committed := map[string]map[lane]int64{}
	for group, offsets := range l.committed {
		committed[group] = maps.Clone(offsets)
	}
	l.mu.Unlock()
	var wrong problems
	for group, offsets := range committed {
		if len(offsets) == 0 {
			continue
		}
		got, err := adm.FetchOffsets(ctx, group)
		if err == nil {
			err = got.Error()
		}
		if err != nil {
			return fmt.Errorf("the offsets of group %s: %w", group, err)
		}
		for at, want := range offsets {
			r, ok := got.Lookup(at.topic, at.partition)
			if !ok || r.At < want {
				wrong.add(fmt.Errorf("group %s has committed offset %d of %v, and the broker says %d", group, want, at, r.At))
			} else if group == bulkGroup && r.Metadata != bulkMetadata(at, r.At) {
				wrong.add(fmt.Errorf("group %s: the metadata of %v at %d is not what was committed", group, at, r.At))
			}
		}
	}
	return wrong.error()
}
