package producer

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"mft/internal/kafka"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	hintAfter       = 2 * time.Second       // without any broker, until a person is told
	createTimeout   = 5 * time.Second       // for a topic to appear that a broker creates on its own
	createPoll      = 50 * time.Millisecond // between two looks at it
	configTimeout   = 10 * time.Second      // for the topic's settings, which we can do without
	defaultMaxBatch = 1048588               // Kafka's max.message.bytes when nothing is configured
)

// TopicError tells that the topic cannot be sent to.
type TopicError struct {
	Topic string
	Err   error // as the broker put it (kerr)
}

func (e *TopicError) Error() string {
	text := fmt.Sprintf("topic %s: ", e.Topic)
	switch {
	case errors.Is(e.Err, kerr.UnknownTopicOrPartition), errors.Is(e.Err, kerr.LeaderNotAvailable):
		return text + "it does not exist and the broker does not create it on its own: create it with 'mft-admin topics create'"
	case errors.Is(e.Err, kerr.InvalidTopicException):
		return text + "a broker does not accept this name: use letters, digits, '.', '_' and '-', at most 249 of them"
	case errors.Is(e.Err, kerr.TopicAuthorizationFailed), errors.Is(e.Err, kerr.ClusterAuthorizationFailed):
		return text + "this user may not write to it: ask the broker's administrator for the permission"
	case errors.Is(e.Err, kerr.MessageTooLarge), errors.Is(e.Err, kerr.RecordListTooLarge):
		return text + "the broker refuses a record as too large: raise max.message.bytes of the topic, or let this user read its settings"
	}
	return text + e.Err.Error()
}

func (e *TopicError) Unwrap() error { return e.Err }

// topicFacts is what a Producer must know of its topic before it sends.
type topicFacts struct {
	partitions int32
	maxBatch   int32  // bytes; max.message.bytes
	id         []byte // nil: the broker has no topic ids
	cluster    string // id of the cluster; "" when it has none
}

// connect waits for a broker, has the topic created when it is missing, and
// learns what it takes. It does so once.
func (p *Producer) connect(ctx context.Context) error {
	if p.topic.partitions > 0 {
		return nil
	}
	topic, err := p.awaitTopic(ctx)
	if err != nil {
		return err
	}
	if pinned := p.cfg.Partition; pinned != nil && *pinned >= topic.partitions {
		return fmt.Errorf("topic %s has no partition %d: it has %d, counted from 0", p.cfg.Topic, *pinned, topic.partitions)
	}
	limit := p.maxMessageBytes(ctx)
	if limit < minBatch {
		return fmt.Errorf("topic %s takes batches of at most %d bytes (max.message.bytes): give it %d or more", p.cfg.Topic, limit, minBatch)
	}
	limit = min(limit, maxBatchWanted)
	p.maxBatch.Store(limit)
	topic.maxBatch = limit
	p.topic = topic
	return nil
}

// awaitTopic asks for the topic until a broker answers and the topic is there,
// and returns what there is to know but its limit.
func (p *Producer) awaitTopic(ctx context.Context) (topicFacts, error) {
	began := time.Now()
	bounded := ctx
	if p.cfg.ConnectTimeout > 0 {
		var cancel context.CancelFunc
		bounded, cancel = context.WithTimeout(ctx, p.cfg.ConnectTimeout)
		defer cancel()
	}
	hint := time.AfterFunc(hintAfter, func() {
		if p.watch.EverConnected() {
			return
		}
		event := p.log.Warn().Strs("brokers", p.cfg.Brokers).AnErr("error", p.watch.LastError())
		if p.cfg.ConnectTimeout > 0 {
			event = event.Stringer("giving_up_after", p.cfg.ConnectTimeout)
		}
		event.Msg("no broker answers yet, still trying: is mft-broker running there?")
	})
	defer hint.Stop()

	var (
		created time.Time   // when the topic was first seen missing
		answer  *kerr.Error // the last one
	)
	for {
		topic, err := p.askTopic(bounded)
		if err == nil {
			return topic, nil
		}
		if ctx.Err() != nil {
			return topicFacts{}, context.Cause(ctx)
		}
		code, answered := errors.AsType[*kerr.Error](err)
		if answered {
			answer = code
		}
		switch {
		case bounded.Err() != nil:
			if answer != nil {
				return topicFacts{}, &TopicError{p.cfg.Topic, answer}
			}
			last := p.watch.LastError()
			if last == nil && !errors.Is(err, context.DeadlineExceeded) {
				last = err
			}
			return topicFacts{}, &kafka.UnreachableError{Brokers: p.cfg.Brokers, Waited: time.Since(began), Err: last}
		case !answered: // the client has retried on its own
		case code == kerr.UnknownTopicOrPartition, kerr.IsRetriable(code): // being created, or without a leader
			if created.IsZero() {
				created = time.Now()
			}
			if time.Since(created) > createTimeout {
				return topicFacts{}, &TopicError{p.cfg.Topic, err}
			}
		default:
			return topicFacts{}, &TopicError{p.cfg.Topic, err}
		}
		select {
		case <-bounded.Done():
		case <-time.After(createPoll):
		}
	}
}

// askTopic asks once for the topic, and so has it created. The
// error is a *kerr.Error when a broker answered.
func (p *Producer) askTopic(ctx context.Context) (topicFacts, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = true
	topic := kmsg.NewMetadataRequestTopic()
	topic.Topic = &p.cfg.Topic
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(ctx, p.client)
	if err != nil {
		return topicFacts{}, err
	}
	for _, t := range resp.Topics {
		if t.Topic == nil || *t.Topic != p.cfg.Topic {
			continue
		}
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
			return topicFacts{}, err
		}
		if len(t.Partitions) == 0 {
			return topicFacts{}, kerr.LeaderNotAvailable
		}
		facts := topicFacts{partitions: int32(len(t.Partitions))}
		if t.TopicID != [16]byte{} {
			facts.id = t.TopicID[:]
		}
		if resp.ClusterID != nil {
			facts.cluster = *resp.ClusterID
		}
		return facts, nil
	}
	return topicFacts{}, kerr.UnknownTopicOrPartition
}

// maxMessageBytes asks for the topic's max.message.bytes. Who may not know it
// gets what an unconfigured Kafka takes.
func (p *Producer) maxMessageBytes(ctx context.Context) int32 {
	ctx, cancel := context.WithTimeout(ctx, configTimeout)
	defer cancel()
	configs, err := kadm.NewClient(p.client).DescribeTopicConfigs(ctx, p.cfg.Topic)
	if err == nil {
		var topic kadm.ResourceConfig
		if topic, err = configs.On(p.cfg.Topic, nil); err == nil {
			err = topic.Err
		}
		for _, c := range topic.Configs {
			if c.Key != "max.message.bytes" || c.Value == nil {
				continue
			}
			if n, err := strconv.ParseInt(*c.Value, 10, 32); err == nil {
				return int32(n)
			}
		}
	}
	p.log.Debug().Err(err).Str("topic", p.cfg.Topic).Int("max_message_bytes", defaultMaxBatch).
		Msg("the topic's settings are not to be had, assuming Kafka's default")
	return defaultMaxBatch
}
