package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"mft/protocol"
	"mft/segment"
)

// Produce (0), versions 3-13; 0-2 are advertised, as Kafka 4 does, because
// librdkafka wants to see them (KAFKA-18659), and not served.
//
// A partition's records are one RecordBatch v2, checked in full before a byte
// is stored. acks=all is answered when the batch is on stable storage (with
// write.caching: in the page cache), acks=1 after the append, acks=0 not at
// all; an error with acks=0 closes the connection, which is the only way to
// tell. Idempotent producers' sequences are checked as Kafka does. There are
// no transactions: a transactional producer never gets an id.

// validatorPool holds validators: their decompressors take megabytes, too much
// for each connection to have its own.
var validatorPool = sync.Pool{New: func() any { return protocol.NewValidator() }}

// appended is a partition's append whose durability an ack waits for.
type appended struct {
	log       *segment.Log
	end       int64 // durable when the high watermark is here
	partition *kmsg.ProduceResponseTopicPartition
}

// produce appends at once and returns a reply that waits for durability.
func (c *conn) produce(req *kmsg.ProduceRequest) reply {
	r := req.ResponseKind().(*kmsg.ProduceResponse)
	r.Topics = make([]kmsg.ProduceResponseTopic, len(req.Topics))
	var waits []appended
	failed := false
	for i := range req.Topics {
		rt := &req.Topics[i]
		t, kerror := c.b.topics.find(rt.Topic, rt.TopicID)
		out := &r.Topics[i]
		out.Topic, out.TopicID = rt.Topic, rt.TopicID
		out.Partitions = make([]kmsg.ProduceResponseTopicPartition, len(rt.Partitions))
		for j := range rt.Partitions {
			rp, p := &rt.Partitions[j], &out.Partitions[j]
			*p = kmsg.NewProduceResponseTopicPartition()
			p.Partition, p.BaseOffset = rp.Partition, -1
			l := t.log(rp.Partition)
			var err error
			switch {
			case kerror != nil:
				err = kerror
			case l == nil:
				err = apiError(kerr.UnknownTopicOrPartition, fmt.Sprintf("topic %q has no partition %d", t.Name, rp.Partition))
			case req.Acks < -1 || req.Acks > 1:
				err = apiError(kerr.InvalidRequiredAcks, fmt.Sprintf("acks=%d: use -1 (all), 1 or 0", req.Acks))
			default:
				var a segment.Appended
				if a, err = c.append(t, l, rp.Records, p); err == nil {
					p.BaseOffset, p.LogStartOffset = a.BaseOffset, a.StartOffset
					waits = append(waits, appended{l, a.LastOffset + 1, p})
				}
			}
			if err != nil {
				failed = true
				c.setProduceError(p, t, err)
			}
		}
	}
	return func() answer {
		switch req.Acks {
		case 0:
			return answer{close: failed}
		case -1:
			c.awaitDurable(waits, time.Duration(req.TimeoutMillis)*time.Millisecond)
		}
		return answer{response: r}
	}
}

// append checks a partition's records, makes of them what the topic's configs
// ask for, and appends them. It sets p's log append time.
func (c *conn) append(t *topic, l *segment.Log, records []byte, p *kmsg.ProduceResponseTopicPartition) (segment.Appended, error) {
	batch, rest, err := protocol.NextBatch(records)
	if err != nil {
		if bad := (*protocol.BatchError)(nil); errors.As(err, &bad) {
			return segment.Appended{}, err
		}
		return segment.Appended{}, apiError(kerr.CorruptMessage, fmt.Sprintf("the records are not a whole record batch: %v", err))
	}
	switch {
	case len(rest) > 0:
		return segment.Appended{}, apiError(kerr.InvalidRecord, "a produce request may hold one record batch for each partition, this one holds more")
	case len(batch) > t.config.maxMessageBytes:
		return segment.Appended{}, apiError(kerr.MessageTooLarge, fmt.Sprintf("the batch has %d bytes, topic %q takes %d (max.message.bytes)", len(batch), t.Name, t.config.maxMessageBytes))
	case batch.IsControl():
		return segment.Appended{}, apiError(kerr.InvalidRecord, "clients may not write control batches")
	case batch.IsTransactional():
		return segment.Appended{}, apiError(kerr.InvalidTxnState, "transactions are not supported")
	}
	v := validatorPool.Get().(*protocol.Validator)
	if t.config.log.Compact {
		err = v.ValidateKeyed(batch)
	} else {
		err = v.Validate(batch)
	}
	validatorPool.Put(v)
	if err != nil {
		return segment.Appended{}, err
	}
	if batch, err = t.config.convert(batch, c.b.cfg.Clock()); err != nil {
		return segment.Appended{}, err
	}
	a, err := l.Append(batch)
	if err == nil && t.config.logAppendTime {
		p.LogAppendTime = batch.MaxTimestamp()
	}
	return a, err
}

// awaitDurable waits until every append is durable, and turns those that did
// not get there in time into errors.
func (c *conn) awaitDurable(waits []appended, timeout time.Duration) {
	ctx := context.Context(nil) // made when something is to be waited for
	for _, w := range waits {
		if w.log.HighWatermark() >= w.end {
			continue
		}
		if ctx == nil {
			ctx = c.drain
			if timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, timeout)
				defer cancel()
			}
		}
		err := w.log.Wait(ctx, w.end)
		if err == nil {
			continue
		}
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			err = apiError(kerr.RequestTimedOut, "the records are stored, but were not durable in time")
		}
		c.setProduceError(w.partition, nil, err)
	}
}

func (c *conn) setProduceError(p *kmsg.ProduceResponseTopicPartition, t *topic, err error) {
	p.BaseOffset, p.LogStartOffset = -1, -1
	p.ErrorCode, p.ErrorMessage = errorCode(err)
	e := c.log.Debug()
	if p.ErrorCode == kerr.KafkaStorageError.Code || p.ErrorCode == kerr.UnknownServerError.Code {
		e = c.log.Error()
	}
	if t != nil {
		e = e.Str("topic", t.Name)
	}
	e.Err(err).Int32("partition", p.Partition).Msg("records refused")
}
