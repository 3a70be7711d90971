package broker

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"mft/segment"
)

// DeleteRecords (21), versions 0-2: moves the log start offset of partitions
// up, to the high watermark where the offset is -1. Fetches below it are
// answered with OFFSET_OUT_OF_RANGE from then on, also after a restart;
// segments that lie below it as a whole are deleted in the background. An offset
// that lies below the start already changes nothing. As in Kafka, topics that
// are only compacted refuse it, and offsets beyond the high watermark are
// out of range.

func (b *Broker) deleteRecords(ctx context.Context, req *kmsg.DeleteRecordsRequest) kmsg.Response {
	r := req.ResponseKind().(*kmsg.DeleteRecordsResponse)
	moved := false
	for _, rt := range req.Topics {
		t := b.topics.get(rt.Topic)
		out := kmsg.NewDeleteRecordsResponseTopic()
		out.Topic = rt.Topic
		out.Partitions = make([]kmsg.DeleteRecordsResponseTopicPartition, len(rt.Partitions))
		starts := map[int32]int64{}
		for i, rp := range rt.Partitions {
			p := &out.Partitions[i]
			*p = kmsg.NewDeleteRecordsResponseTopicPartition()
			p.Partition, p.LowWatermark = rp.Partition, -1
			start, err := newStart(t, rt.Topic, rp)
			if err == nil {
				p.LowWatermark = start
				starts[rp.Partition] = max(start, starts[rp.Partition])
			}
			p.ErrorCode, _ = errorCode(err)
		}
		// What was promised must hold after a crash: the journal first.
		var err error
		if len(starts) > 0 {
			err = b.propose(ctx, metaEntry{Kind: kindTopicStarts, Topic: &topicMeta{Name: t.Name, ID: t.ID, Starts: starts}})
			moved = true
		}
		for i := range out.Partitions {
			p := &out.Partitions[i]
			if p.ErrorCode != 0 {
				continue
			}
			perr := err
			if perr == nil {
				p.LowWatermark, perr = t.log(p.Partition).SetStart(p.LowWatermark)
			}
			if perr != nil {
				p.LowWatermark = -1
				p.ErrorCode, _ = errorCode(perr)
				b.log.Warn().Err(perr).Str("topic", rt.Topic).Int32("partition", p.Partition).Msg("cannot delete records")
			}
		}
		r.Topics = append(r.Topics, out)
	}
	if moved {
		b.store.RequestClean()
	}
	return r
}

// newStart says where a partition is to start. Everything before is durable
// when it returns, so that a start is never behind the end after a crash.
func newStart(t *topic, name string, rp kmsg.DeleteRecordsRequestTopicPartition) (int64, error) {
	l := t.log(rp.Partition)
	if l == nil {
		return 0, apiError(kerr.UnknownTopicOrPartition, fmt.Sprintf("topic %q has no partition %d", name, rp.Partition))
	}
	if c := &t.config.log; c.Compact && !c.Delete {
		return 0, apiError(kerr.PolicyViolation, fmt.Sprintf("topic %q is compacted: records of it are deleted by writing their keys without a value", name))
	}
	high, start := l.HighWatermark(), rp.Offset
	if start == -1 {
		start = high
	}
	if start < 0 || start > high {
		return 0, fmt.Errorf("%w: %d, the high watermark is %d", segment.ErrOffsetOutOfRange, rp.Offset, high)
	}
	if start > l.DurableOffset() {
		if err := l.Flush(); err != nil {
			return 0, err
		}
	}
	return start, nil
}
