package broker

import (
	"context"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// CreateTopics (19), DeleteTopics (20) and CreatePartitions (37).
//
// There is one broker, so the replication factor is 1 and a manual assignment
// may name only it. Everything is done when the answer leaves; timeouts do
// not matter. Unknown topic configs are refused rather than kept and ignored.

func (b *Broker) createTopics(ctx context.Context, req *kmsg.CreateTopicsRequest) kmsg.Response {
	r := req.ResponseKind().(*kmsg.CreateTopicsResponse)
	named := make(map[string]int, len(req.Topics))
	for _, rt := range req.Topics {
		named[rt.Topic]++
	}
	for _, rt := range req.Topics {
		out := kmsg.NewCreateTopicsResponseTopic()
		out.Topic, out.NumPartitions, out.ReplicationFactor = rt.Topic, -1, -1
		t, err := (*topic)(nil), error(nil)
		if named[rt.Topic] > 1 {
			err = apiError(kerr.InvalidRequest, fmt.Sprintf("the request names topic %q more than once", rt.Topic))
		} else {
			t, err = b.createTopic(ctx, rt, req.ValidateOnly)
		}
		if err != nil {
			out.ErrorCode, out.ErrorMessage = errorCode(err)
		} else {
			out.TopicID, out.NumPartitions, out.ReplicationFactor = t.ID, t.Partitions, 1
			for i := range topicConfigs {
				d := &topicConfigs[i]
				v, source := d.value(b.cfg.TopicDefaults, t.Configs)
				c := kmsg.NewCreateTopicsResponseTopicConfig()
				c.Name, c.Value, c.Source = d.name, kmsg.StringPtr(v), int8(source.kafka())
				out.Configs = append(out.Configs, c)
			}
		}
		r.Topics = append(r.Topics, out)
	}
	return r
}

func (b *Broker) createTopic(ctx context.Context, rt kmsg.CreateTopicsRequestTopic, validateOnly bool) (*topic, error) {
	partitions := rt.NumPartitions
	if len(rt.ReplicaAssignment) > 0 {
		if rt.NumPartitions != -1 || rt.ReplicationFactor != -1 {
			return nil, apiError(kerr.InvalidRequest, "give either a replica assignment or a number of partitions, not both")
		}
		seen := make(map[int32]bool, len(rt.ReplicaAssignment))
		for _, a := range rt.ReplicaAssignment {
			if !slices.Equal(a.Replicas, []int32{nodeID}) || a.Partition < 0 || int(a.Partition) >= len(rt.ReplicaAssignment) || seen[a.Partition] {
				return nil, apiError(kerr.InvalidReplicaAssignment, fmt.Sprintf("partitions must be numbered from 0 without gaps, each with broker %d as its only replica", nodeID))
			}
			seen[a.Partition] = true
		}
		partitions = int32(len(rt.ReplicaAssignment))
	} else if rt.ReplicationFactor != -1 && rt.ReplicationFactor != 1 {
		return nil, apiError(kerr.InvalidReplicationFactor, fmt.Sprintf("replication factor %d: there is one broker, use 1 or -1", rt.ReplicationFactor))
	}
	configs := make(map[string]string, len(rt.Configs))
	for _, c := range rt.Configs {
		if c.Value == nil {
			return nil, apiError(kerr.InvalidConfig, fmt.Sprintf("topic config %s has no value", c.Name))
		}
		configs[c.Name] = *c.Value
	}
	m, err := b.newTopic(rt.Topic, partitions, configs)
	if err != nil {
		return nil, err
	}
	if validateOnly {
		return &topic{topicMeta: *m}, nil
	}
	t, err := b.topics.create(ctx, m)
	if err != nil {
		return nil, err
	}
	b.log.Info().Str("topic", t.Name).Int32("partitions", t.Partitions).Msg("topic created")
	return t, nil
}

func (b *Broker) deleteTopics(ctx context.Context, req *kmsg.DeleteTopicsRequest) kmsg.Response {
	r := req.ResponseKind().(*kmsg.DeleteTopicsResponse)
	asked := req.Topics
	for _, name := range req.TopicNames {
		rt := kmsg.NewDeleteTopicsRequestTopic()
		rt.Topic = kmsg.StringPtr(name)
		asked = append(asked, rt)
	}
	for _, rt := range asked {
		out := kmsg.NewDeleteTopicsResponseTopic()
		out.Topic, out.TopicID = rt.Topic, rt.TopicID
		var name string
		if rt.Topic != nil {
			name = *rt.Topic
		}
		t, err := b.topics.remove(ctx, name, rt.TopicID)
		if t != nil { // also where its files could not all be removed: it is gone
			out.Topic, out.TopicID = kmsg.StringPtr(t.Name), t.ID
			b.log.Info().Str("topic", t.Name).Msg("topic deleted")
		}
		if err != nil {
			out.ErrorCode, out.ErrorMessage = errorCode(err)
			b.log.Warn().Err(err).Str("topic", name).Msg("cannot delete topic")
		}
		r.Topics = append(r.Topics, out)
	}
	return r
}

func (b *Broker) createPartitions(ctx context.Context, req *kmsg.CreatePartitionsRequest) kmsg.Response {
	r := req.ResponseKind().(*kmsg.CreatePartitionsResponse)
	for _, rt := range req.Topics {
		out := kmsg.NewCreatePartitionsResponseTopic()
		out.Topic = rt.Topic
		elsewhere := slices.ContainsFunc(rt.Assignment, func(a kmsg.CreatePartitionsRequestTopicAssignment) bool {
			return !slices.Equal(a.Replicas, []int32{nodeID})
		})
		var err error
		if elsewhere {
			err = apiError(kerr.InvalidReplicaAssignment, fmt.Sprintf("the only replica can be broker %d", nodeID))
		} else {
			err = b.topics.grow(ctx, rt.Topic, rt.Count, req.ValidateOnly)
		}
		out.ErrorCode, out.ErrorMessage = errorCode(err)
		r.Topics = append(r.Topics, out)
	}
	return r
}
