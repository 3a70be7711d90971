package consumer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"mft/internal/kafka"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// RecordsConfig says which records to read.
type RecordsConfig struct {
	// Group, when given, remembers how far it has read; From is for partitions
	// that it has not read yet. "": none, every call reads on its own.
	Config

	Partition *int32   // nil: all; not with a Group
	From      Position // zero: the end with Follow, the beginning without
	Follow    bool     // stay at the end and read what comes; without, end where the topic ended at the start

	// Limit is how many records to read, 0 for all. With neither From nor
	// Group it means the last ones, across partitions by timestamp, and Follow
	// goes on after them; otherwise the first ones, and that is the end.
	Limit int

	Format Format
}

const (
	outputBytes    = 64 << 10               // written at once, under load
	groupInterval  = 250 * time.Millisecond // between two commits of a group
	tailMargin     = 4                      // how much further back each try looks for the last records
	recordsSession = 45 * time.Second       // session timeout of a group's member
)

// ReadRecords writes the records of a topic to w until it has written all that
// were asked for, or ctx ends. Records of one partition are in order. What has
// arrived is written at once. It returns how many records were written; the
// error is nil when ctx ended the call and when the reader of w went away.
func ReadRecords(ctx context.Context, cfg RecordsConfig, w io.Writer) (int64, error) {
	if err := cfg.check(); err != nil {
		return 0, err
	}
	if cfg.Partition != nil && cfg.Group != "" {
		return 0, errors.New("a group hands out partitions by itself: name a partition or a group, not both")
	}
	r := &reader{cfg: &cfg, watch: cfg.Watch, out: w}
	var err error
	for again := true; again; {
		err = r.session(ctx)
		again = cfg.Follow && (errors.Is(err, errTopicGone) || errors.Is(err, errTopicNew))
		if again {
			cfg.Logger.Warn().Str("topic", cfg.Topic).Err(err).Msg("reading starts over with the new topic, once it is there")
			r.cfg.From = Beginning()
		}
	}
	switch {
	case errors.Is(err, errReached), ctx.Err() != nil && !errors.Is(err, errOutput), isBrokenPipe(err):
		err = nil
	case errors.Is(err, errTopicGone):
		err = &TopicError{cfg.Topic, err.Error() + " while it was read", nil}
	}
	return r.written, err
}

var errOutput = errors.New("writing records")

// reader reads records in sessions; a new one begins when the topic was made anew.
type reader struct {
	cfg     *RecordsConfig
	watch   *kafka.Watch
	out     io.Writer
	buf     []byte
	written int64
	tailed  bool // the last records are written; what follows has no limit
}

// session reads until the end, which is errReached, or an error.
func (r *reader) session(ctx context.Context) error {
	asking, err := kgo.NewClient(r.cfg.clientOptions(r.watch)...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	defer asking.Close()
	topic, waited, err := awaitTopic(ctx, asking, &r.cfg.Config, r.watch, r.connectTimeout(), !r.cfg.Follow)
	if err != nil {
		return err
	}
	if p := r.cfg.Partition; p != nil && !slices.Contains(topic.partitions, *p) {
		return &TopicError{r.cfg.Topic, fmt.Sprintf("it has no partition %d: it has %d, counted from 0", *p, len(topic.partitions)), nil}
	}
	spans, err := listSpans(ctx, asking, &r.cfg.Config)
	if err != nil {
		return err
	}
	if p := r.cfg.Partition; p != nil {
		spans = map[int32]span{*p: spans[*p]}
	}
	from := r.cfg.From
	if waited && from.kind == byDefault {
		from, r.tailed = Beginning(), r.cfg.Group == "" // all of it came after the call
	} else if r.cfg.Limit > 0 && from.kind == byDefault && r.cfg.Group == "" {
		if err := r.tail(ctx, spans); err != nil {
			return err
		}
		if !r.cfg.Follow {
			return errReached
		}
		from, r.tailed = End(), true
	}
	limit := int64(0)
	if r.cfg.Limit > 0 && !r.tailed {
		limit = int64(r.cfg.Limit) - r.written
	}
	starts, err := r.starts(ctx, asking, from, spans)
	if err != nil {
		return err
	}
	if r.cfg.Group != "" {
		return r.group(ctx, starts, spans, limit)
	}
	return r.direct(ctx, asking, topic, starts, spans, limit)
}

func (r *reader) connectTimeout() time.Duration {
	switch {
	case r.cfg.ConnectTimeout > 0:
		return r.cfg.ConnectTimeout
	case r.cfg.ConnectTimeout == 0 && !r.cfg.Follow:
		return DefaultConnectTimeout
	}
	return 0
}

// starts is where each partition is read from.
func (r *reader) starts(ctx context.Context, asking *kgo.Client, from Position, spans map[int32]span) (map[int32]int64, error) {
	if from.kind == byDefault {
		if from = Beginning(); r.cfg.Follow {
			from = End()
		}
	}
	var times map[int32]int64
	if from.kind == atTime {
		var err error
		times, err = listOffsets(ctx, &r.cfg.Config, func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error) {
			return kadm.NewClient(asking).ListOffsetsAfterMilli(ctx, from.n, topics...)
		})
		if err != nil {
			return nil, err
		}
	}
	starts := make(map[int32]int64, len(spans))
	for p, s := range spans {
		at := s.end
		switch from.kind {
		case atBeginning:
			at = s.start
		case atOffset:
			at = from.n
		case beforeEnd:
			at = s.end - from.n
		case atTime:
			if t, ok := times[p]; ok && t >= 0 {
				at = t
			}
		}
		starts[p] = min(max(at, s.start), s.end)
	}
	return starts, nil
}

// tail writes the last records before the ends, across partitions by timestamp.
func (r *reader) tail(ctx context.Context, spans map[int32]span) error {
	queues := make(map[int32][]*kgo.Record)
	for back := int64(r.cfg.Limit); len(spans) > 0; back *= tailMargin {
		part := make(map[int32]span)
		for p, s := range spans {
			part[p] = span{max(s.start, s.end-back), s.end}
		}
		last, err := r.collect(ctx, part)
		if err != nil {
			return err
		}
		// Not every offset has a record: some may have to be looked for further back.
		left := make(map[int32]span)
		for p, s := range spans {
			if len(last[p]) < r.cfg.Limit && part[p].start > s.start {
				left[p] = s
			} else {
				queues[p] = last[p]
			}
		}
		spans = left
	}
	all := merge(queues)
	for _, record := range all[max(0, len(all)-r.cfg.Limit):] {
		if err := r.write(record); err != nil {
			return err
		}
	}
	return r.flush()
}

// merge brings the records of several partitions into one order: the oldest
// timestamp first, but each partition in its own order.
func merge(queues map[int32][]*kgo.Record) (all []*kgo.Record) {
	partitions := slices.Sorted(maps.Keys(queues))
	for {
		oldest := int32(-1)
		for _, p := range partitions {
			if len(queues[p]) > 0 && (oldest < 0 || queues[p][0].Timestamp.Before(queues[oldest][0].Timestamp)) {
				oldest = p
			}
		}
		if oldest < 0 {
			return all
		}
		all, queues[oldest] = append(all, queues[oldest][0]), queues[oldest][1:]
	}
}

// collect reads the given spans and returns the last Limit records of each.
func (r *reader) collect(ctx context.Context, spans map[int32]span) (map[int32][]*kgo.Record, error) {
	starts := make(map[int32]int64)
	for p, s := range spans {
		starts[p] = s.start
	}
	last := make(map[int32][]*kgo.Record)
	err := r.read(ctx, starts, spans, nil, func(record *kgo.Record) error {
		list := append(last[record.Partition], record)
		if len(list) >= 2*r.cfg.Limit { // now and then, so that it costs little
			list = append(list[:0], list[len(list)-r.cfg.Limit:]...)
		}
		last[record.Partition] = list
		return nil
	}, func() error { return nil })
	if !errors.Is(err, errReached) {
		return nil, err
	}
	for p, list := range last {
		last[p] = list[max(0, len(list)-r.cfg.Limit):]
	}
	return last, nil
}

// direct reads without a group.
func (r *reader) direct(ctx context.Context, asking *kgo.Client, topic topicInfo, starts map[int32]int64, spans map[int32]span, limit int64) error {
	var watch func(context.Context, context.CancelCauseFunc, *kgo.Client)
	if r.cfg.Follow {
		spans = nil
		watch = func(ctx context.Context, end context.CancelCauseFunc, client *kgo.Client) {
			r.watchTopic(ctx, end, asking, client, topic)
		}
	}
	return r.read(ctx, starts, spans, watch, r.limited(limit), r.flush)
}

// limited writes records until there were limit of them; 0: no limit.
func (r *reader) limited(limit int64) func(*kgo.Record) error {
	count := int64(0)
	return func(record *kgo.Record) error {
		if err := r.write(record); err != nil {
			return err
		}
		if count++; count == limit {
			return errReached
		}
		return nil
	}
}

// read hands records of the partitions from their starts on to each, and calls
// flush when all that arrived together are handed on. It returns errReached at
// the ends of the spans, unless these are nil, and what each and flush return.
func (r *reader) read(ctx context.Context, starts map[int32]int64, spans map[int32]span,
	watch func(context.Context, context.CancelCauseFunc, *kgo.Client), each func(*kgo.Record) error, flush func() error,
) error {
	offsets, left := make(map[int32]kgo.Offset), make(map[int32]int64)
	for p, at := range starts {
		if spans == nil {
			offsets[p] = kgo.NewOffset().At(at)
		} else if at < spans[p].end {
			offsets[p], left[p] = kgo.NewOffset().At(at), spans[p].end
		}
	}
	if len(offsets) == 0 {
		return errReached
	}
	client, err := kgo.NewClient(append(r.cfg.clientOptions(r.watch),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{r.cfg.Topic: offsets}),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	)...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	defer client.Close()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	if watch != nil {
		done := make(chan struct{})
		go func() {
			defer close(done)
			watch(ctx, end, client)
		}()
		defer func() {
			end(nil)
			<-done
		}()
	}
	return r.poll(ctx, client, spans != nil, left, each, flush)
}

// poll is the loop of read. left is what is still to be read: the
// end of each partition that has not reached it.
func (r *reader) poll(ctx context.Context, client *kgo.Client, bounded bool, left map[int32]int64, each func(*kgo.Record) error, flush func() error) error {
	for {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := r.fetchErrors(fetches); err != nil {
			return err
		}
		var stop error
		for iter := fetches.RecordIter(); !iter.Done() && stop == nil; {
			record := iter.Next()
			end, more := left[record.Partition]
			if bounded && !more {
				continue
			}
			if bounded && record.Offset+1 >= end {
				delete(left, record.Partition)
			}
			if record.Attrs.IsControl() || bounded && record.Offset >= end {
				continue
			}
			stop = each(record)
		}
		if err := flush(); err != nil {
			return err
		}
		if stop != nil {
			return stop
		}
		if bounded && len(left) == 0 {
			return errReached
		}
	}
}

// fetchErrors returns the first error that will not pass.
func (r *reader) fetchErrors(fetches kgo.Fetches) (fatal error) {
	fetches.EachError(func(topic string, partition int32, err error) {
		code, _ := errors.AsType[*kerr.Error](err)
		lost, isLost := errors.AsType[*kgo.ErrDataLoss](err)
		tooLarge, isTooLarge := errors.AsType[*kgo.ErrDecompressTooLarge](err)
		switch {
		case isLost:
			r.cfg.Logger.Warn().Str("topic", topic).Int32("partition", partition).Err(lost).Msg("the broker has lost records that were read already")
		case code == kerr.TopicAuthorizationFailed, code == kerr.ClusterAuthorizationFailed:
			fatal = topicFailure(r.cfg.Topic, code)
		case code == kerr.CorruptMessage:
			fatal = fmt.Errorf("topic %s, partition %d: the broker serves damaged records: %w", topic, partition, err)
		case code == kerr.GroupAuthorizationFailed, code == kerr.InvalidGroupID, code == kerr.InconsistentGroupProtocol:
			fatal = fmt.Errorf("group %s: %w", r.cfg.Group, code)
		case isTooLarge:
			fatal = fmt.Errorf("topic %s, partition %d: %w", topic, partition, tooLarge)
		default:
			r.cfg.Logger.Debug().Str("topic", topic).Int32("partition", partition).Err(err).Msg("fetching")
		}
	})
	return fatal
}

// watchTopic adds partitions that the topic gets, and ends the session when it
// is deleted or made anew.
func (r *reader) watchTopic(ctx context.Context, end context.CancelCauseFunc, asking, client *kgo.Client, topic topicInfo) {
	ticker := time.NewTicker(topicWatch)
	defer ticker.Stop()
	known := topic.partitions
	for missing := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now, err := askTopic(ctx, asking, r.cfg.Topic)
		switch {
		case errors.Is(err, kerr.UnknownTopicOrPartition):
			if missing++; missing > 1 {
				end(errTopicGone)
			}
		case err != nil:
		case now.id != topic.id:
			end(errTopicNew)
		default:
			missing = 0
			for _, p := range now.partitions {
				if r.cfg.Partition == nil && !slices.Contains(known, p) {
					known = append(known, p)
					client.AddConsumePartitions(map[string]map[int32]kgo.Offset{r.cfg.Topic: {p: kgo.NewOffset().AtStart()}})
				}
			}
		}
	}
}

func (r *reader) write(record *kgo.Record) error {
	r.buf = r.cfg.Format.Append(r.buf, record)
	r.written++
	if len(r.buf) >= outputBytes {
		return r.flush()
	}
	return nil
}

func (r *reader) flush() error {
	if len(r.buf) == 0 {
		return nil
	}
	_, err := r.out.Write(r.buf)
	if cap(r.buf) > 16*outputBytes { // after a large record
		r.buf = nil
	}
	r.buf = r.buf[:0]
	if err != nil {
		return fmt.Errorf("%w: %w", errOutput, err)
	}
	return nil
}
