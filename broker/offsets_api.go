package broker

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"mft/segment"
)

// ListOffsets (2) and OffsetForLeaderEpoch (23).
//
// Special timestamps: -1 latest (the high watermark), -2 earliest, -3 the
// record with the largest timestamp, -4 earliest on this disk (as -2), -5 and
// -6 offsets of tiered storage (none). Isolation levels make no difference
// without transactions.
const (
	offsetLatest         = -1
	offsetEarliest       = -2
	offsetMaxTimestamp   = -3
	offsetEarliestLocal  = -4
	offsetLatestTiered   = -5
	offsetEarliestUpload = -6
)

func (b *Broker) listOffsets(req *kmsg.ListOffsetsRequest) kmsg.Response {
	r := req.ResponseKind().(*kmsg.ListOffsetsResponse)
	for _, rt := range req.Topics {
		t := b.topics.get(rt.Topic)
		out := kmsg.NewListOffsetsResponseTopic()
		out.Topic = rt.Topic
		for _, rp := range rt.Partitions {
			p := kmsg.NewListOffsetsResponseTopicPartition()
			p.Partition, p.Timestamp, p.Offset, p.LeaderEpoch = rp.Partition, -1, -1, -1
			if l := t.log(rp.Partition); l == nil {
				p.ErrorCode = kerr.UnknownTopicOrPartition.Code
			} else if kerror := b.checkEpoch(rp.CurrentLeaderEpoch); kerror != nil {
				p.ErrorCode = kerror.Code
			} else {
				b.listOffset(l, rp.Timestamp, &p)
			}
			out.Partitions = append(out.Partitions, p)
		}
		r.Topics = append(r.Topics, out)
	}
	return r
}

func (b *Broker) listOffset(l *segment.Log, timestamp int64, p *kmsg.ListOffsetsResponseTopicPartition) {
	var err error
	switch timestamp {
	case offsetLatest:
		p.Offset, p.LeaderEpoch = l.HighWatermark(), b.store.Epoch()
	case offsetEarliest, offsetEarliestLocal:
		p.Offset, p.LeaderEpoch = l.StartOffset(), b.store.Epoch()
	case offsetMaxTimestamp:
		p.Offset, p.Timestamp, p.LeaderEpoch, err = l.MaxTimestampOffset()
	case offsetLatestTiered, offsetEarliestUpload:
	default:
		p.Offset, p.Timestamp, p.LeaderEpoch, err = l.OffsetForTime(timestamp)
	}
	if err != nil {
		p.Offset, p.Timestamp, p.LeaderEpoch = -1, -1, -1
		p.ErrorCode, _ = errorCode(err)
		b.log.Error().Err(err).Int64("timestamp", timestamp).Msg("cannot look up an offset")
	}
}

// checkEpoch compares the leader epoch that a client believes in (-1: none)
// with ours.
func (b *Broker) checkEpoch(epoch int32) *kerr.Error {
	switch current := b.store.Epoch(); {
	case epoch == -1 || epoch == current:
		return nil
	case epoch < current:
		return kerr.FencedLeaderEpoch
	}
	return kerr.UnknownLeaderEpoch
}

// offsetForLeaderEpoch tells where a leader epoch ended, so that a client
// notices when records that it read are gone.
func (b *Broker) offsetForLeaderEpoch(req *kmsg.OffsetForLeaderEpochRequest) kmsg.Response {
	r := req.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
	for _, rt := range req.Topics {
		t := b.topics.get(rt.Topic)
		out := kmsg.NewOffsetForLeaderEpochResponseTopic()
		out.Topic = rt.Topic
		for _, rp := range rt.Partitions {
			p := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
			p.Partition, p.LeaderEpoch, p.EndOffset = rp.Partition, -1, -1
			if l := t.log(rp.Partition); l == nil {
				p.ErrorCode = kerr.UnknownTopicOrPartition.Code
			} else if kerror := b.checkEpoch(rp.CurrentLeaderEpoch); kerror != nil {
				p.ErrorCode = kerror.Code
			} else {
				p.LeaderEpoch, p.EndOffset = l.EndOffsetForEpoch(rp.LeaderEpoch)
			}
			out.Partitions = append(out.Partitions, p)
		}
		r.Topics = append(r.Topics, out)
	}
	return r
}
