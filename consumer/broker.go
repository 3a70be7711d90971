package consumer

import (
	"context"
	"errors"
	"time"

	"mft/internal/kafka"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	hintAfter   = 2 * time.Second        // without any broker, or topic, until a person is told
	topicPoll   = 200 * time.Millisecond // between two looks for a topic that is not there
	topicRetry  = 500 * time.Millisecond // after an error of the client, which has tried on its own
	offsetRetry = 200 * time.Millisecond // after partitions without a leader
)

// topicInfo is what a broker says of a topic.
type topicInfo struct {
	id         [16]byte // zero: the broker has no topic ids
	partitions []int32
}

// askTopic asks a broker about a topic, without having it created. The error
// is a *kerr.Error when a broker answered.
func askTopic(ctx context.Context, client *kgo.Client, name string) (topicInfo, error) {
	req := kmsg.NewPtrMetadataRequest()
	topic := kmsg.NewMetadataRequestTopic()
	topic.Topic = &name
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(ctx, client)
	if err != nil {
		return topicInfo{}, err
	}
	for _, t := range resp.Topics {
		if t.Topic == nil || *t.Topic != name {
			continue
		}
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
			return topicInfo{}, err
		}
		if len(t.Partitions) == 0 {
			return topicInfo{}, kerr.UnknownTopicOrPartition
		}
		info := topicInfo{id: t.TopicID}
		for _, p := range t.Partitions {
			info.partitions = append(info.partitions, p.Partition)
		}
		return info, nil
	}
	return topicInfo{}, kerr.UnknownTopicOrPartition
}

// awaitTopic waits for a broker and for the topic. It fails when no broker
// answers within connect (0: it waits for ever), when the topic is missing and
// mustExist, and when the broker will never serve it. waited tells that the
// topic was not there at first.
func awaitTopic(ctx context.Context, client *kgo.Client, cfg *Config, watch *kafka.Watch, connect time.Duration, mustExist bool) (info topicInfo, waited bool, err error) {
	began := time.Now()
	hint := time.AfterFunc(hintAfter, func() {
		if !watch.EverConnected() {
			cfg.Logger.Warn().Strs("brokers", cfg.Brokers).AnErr("error", watch.LastError()).
				Msg("no broker answers yet, still trying: is mft-broker running there?")
		}
	})
	defer hint.Stop()
	for {
		bounded, cancel := ctx, context.CancelFunc(func() {})
		if connect > 0 && !watch.EverConnected() {
			bounded, cancel = context.WithDeadline(ctx, began.Add(connect))
		}
		info, err := askTopic(bounded, client, cfg.Topic)
		late := bounded.Err() != nil
		cancel()
		if err == nil {
			return info, waited, nil
		}
		if ctx.Err() != nil {
			return topicInfo{}, waited, context.Cause(ctx)
		}
		if connect > 0 && (late || time.Since(began) > connect) && !watch.EverConnected() {
			return topicInfo{}, waited, &kafka.UnreachableError{Brokers: cfg.Brokers, Waited: time.Since(began), Err: watch.LastError()}
		}
		pause := topicRetry
		code, answered := errors.AsType[*kerr.Error](err)
		switch {
		case !answered:
		case code == kerr.UnknownTopicOrPartition:
			if mustExist {
				return topicInfo{}, waited, &TopicError{cfg.Topic, "it does not exist: check the name with 'mft-admin topics list'", code}
			}
			if !waited {
				waited = true
				cfg.Logger.Warn().Str("topic", cfg.Topic).Msg("the topic does not exist yet, waiting for it")
			}
			pause = topicPoll
		case kerr.IsRetriable(code):
			pause = topicPoll
		default:
			return topicInfo{}, waited, topicFailure(cfg.Topic, code)
		}
		select {
		case <-ctx.Done():
			return topicInfo{}, waited, context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// topicFailure explains why a broker will never serve a topic.
func topicFailure(topic string, err error) error {
	switch {
	case errors.Is(err, kerr.InvalidTopicException):
		return &TopicError{topic, "a broker does not accept this name: use letters, digits, '.', '_' and '-', at most 249 of them", err}
	case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.ClusterAuthorizationFailed):
		return &TopicError{topic, "this user may not read it: ask the broker's administrator for the permission", err}
	}
	return &TopicError{topic, err.Error(), err}
}

// span is where a partition begins and ends: [start, end).
type span struct{ start, end int64 }

// listSpans asks for the offsets of all partitions of a topic, until all of
// them have a leader.
func listSpans(ctx context.Context, client *kgo.Client, cfg *Config) (map[int32]span, error) {
	admin := kadm.NewClient(client)
	starts, err := listOffsets(ctx, cfg, admin.ListStartOffsets)
	if err != nil {
		return nil, err
	}
	ends, err := listOffsets(ctx, cfg, admin.ListCommittedOffsets)
	if err != nil {
		return nil, err
	}
	spans := make(map[int32]span, len(ends))
	for p, end := range ends {
		spans[p] = span{starts[p], end}
	}
	return spans, nil
}

// listOffsets asks until every partition has an answer, or the topic is gone.
func listOffsets(ctx context.Context, cfg *Config, list func(context.Context, ...string) (kadm.ListedOffsets, error)) (map[int32]int64, error) {
	for {
		listed, err := list(ctx, cfg.Topic)
		if err == nil {
			err = listed.Error()
		}
		if err == nil {
			offsets := make(map[int32]int64)
			listed.Each(func(o kadm.ListedOffset) { offsets[o.Partition] = o.Offset })
			return offsets, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if errors.Is(err, kerr.UnknownTopicOrPartition) {
			return nil, errTopicGone
		}
		if code, ok := errors.AsType[*kerr.Error](err); ok && !kerr.IsRetriable(code) {
			return nil, topicFailure(cfg.Topic, code)
		}
		cfg.Logger.Debug().Err(err).Msg("listing the topic's offsets, trying again")
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(offsetRetry):
		}
	}
}
