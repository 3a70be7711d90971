package broker

// The APIs of committed offsets:
//
//	OffsetCommit (8)  2–10  answered when the offsets are on stable storage
//	OffsetFetch  (9)  1–10  several groups from version 8
//	OffsetDelete (47) 0
//
// Topics are named by id from version 10. Offsets have no age limit: retention
// times in old requests are ignored, and offsets go only with their group,
// their topic, or OffsetDelete. There are no transactions that RequireStable
// could wait for, and the member epochs of OffsetFetch 9 and later belong to
// the newer group protocol, which is not served.

import (
	"context"
	"encoding/json"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// maxOffsetMetadata bounds the metadata that a client may store with an offset,
// in bytes (Kafka's offset.metadata.max.bytes).
const maxOffsetMetadata = 4096

// commit answers OffsetCommit.
func (gs *groups) commit(ctx context.Context, req *kmsg.OffsetCommitRequest) *kmsg.OffsetCommitResponse {
	resp := req.ResponseKind().(*kmsg.OffsetCommitResponse)
	refused := gs.checkCommit(req)
	now := gs.cfg.Clock().UnixMilli()
	entry := offsetsEntry{Kind: kindOffsetsCommit, Group: req.Group}
	for _, t := range req.Topics {
		topic, id, unknown := gs.findTopic(req.Version, t.Topic, t.TopicID)
		st := kmsg.OffsetCommitResponseTopic{Topic: t.Topic, TopicID: t.TopicID}
		for _, p := range t.Partitions {
			c := committedOffset{
				Topic:     topic,
				TopicID:   id,
				Partition: p.Partition,
				Offset:    p.Offset,
				Epoch:     p.LeaderEpoch,
				Time:      now,
			}
			if p.Metadata != nil {
				c.Metadata = *p.Metadata
			}
			e := unknown
			switch {
			case e != nil:
			case !gs.cfg.PartitionExists(topic, p.Partition):
				e = kerr.UnknownTopicOrPartition
			case refused != nil:
				e = refused
			case len(c.Metadata) > maxOffsetMetadata:
				e = kerr.OffsetMetadataTooLarge
			default:
				entry.Offsets = append(entry.Offsets, c)
			}
			st.Partitions = append(st.Partitions, kmsg.OffsetCommitResponseTopicPartition{
				Partition: p.Partition,
				ErrorCode: code(e),
			})
		}
		resp.Topics = append(resp.Topics, st)
	}
	if len(entry.Offsets) == 0 {
		return resp
	}
	if e := gs.propose(ctx, entry); e != nil {
		for _, t := range resp.Topics {
			for i := range t.Partitions {
				if p := &t.Partitions[i]; p.ErrorCode == 0 {
					p.ErrorCode = e.Code
				}
			}
		}
	}
	return resp
}

// checkCommit says why the sender may not commit, or nil: a consumer that
// manages its partitions itself may while the group has no members, a member
// while it is of the current generation.
func (gs *groups) checkCommit(req *kmsg.OffsetCommitRequest) *kerr.Error {
	if e := checkOffsetGroup(req.Group); e != nil {
		return e
	}
	g, e := gs.lock(req.Group, false)
	switch {
	case e == kerr.UnknownMemberID && req.Generation < 0:
		return nil
	case e == kerr.UnknownMemberID && !gs.cfg.Offsets.has(req.Group):
		return kerr.IllegalGeneration // what Kafka says of a group it does not know
	case e != nil:
		return e
	}
	defer g.mu.Unlock()
	if g.state == groupEmpty && req.Generation < 0 {
		return nil
	}
	if e := g.check(req.MemberID, req.InstanceID); e != nil {
		return e
	}
	if req.Generation != g.generation {
		return kerr.IllegalGeneration
	}
	if g.state == groupCompleting {
		return kerr.RebalanceInProgress
	}
	g.touch(g.members[req.MemberID])
	return nil
}

// findTopic resolves a topic that a request names in the way of its version.
func (gs *groups) findTopic(version int16, name string, id [16]byte) (string, topicID, *kerr.Error) {
	if version >= 10 {
		name, ok := gs.cfg.TopicName(id)
		if !ok {
			return "", id, kerr.UnknownTopicID
		}
		return name, id, nil
	}
	found, ok := gs.cfg.TopicID(name)
	if !ok {
		return name, found, kerr.UnknownTopicOrPartition
	}
	return name, found, nil
}

// propose makes a change of offsets durable and applied. A failure is logged,
// and tells the client to try again.
func (gs *groups) propose(ctx context.Context, e offsetsEntry) *kerr.Error {
	entry, err := json.Marshal(e)
	if err == nil {
		err = gs.cfg.Propose(ctx, entry)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil: // nobody waits for the answer any more
	default:
		gs.cfg.Logger.Error().Err(err).Str("group", e.Group).Str("kind", e.Kind).
			Msg("a change of a group's offsets could not be stored; the client is told to try again")
	}
	return kerr.CoordinatorNotAvailable
}

// fetchOffsets answers OffsetFetch. A partition without a committed offset, and
// any partition of an unknown group, has offset -1 and no error.
func (gs *groups) fetchOffsets(req *kmsg.OffsetFetchRequest) *kmsg.OffsetFetchResponse {
	resp := req.ResponseKind().(*kmsg.OffsetFetchResponse)
	if req.Version >= 8 {
		for _, g := range req.Groups {
			resp.Groups = append(resp.Groups, gs.fetchGroupOffsets(req.Version, g))
		}
		return resp
	}

	// The older form is that of one group.
	one := kmsg.OffsetFetchRequestGroup{Group: req.Group}
	if req.Topics != nil || req.Version < 2 {
		one.Topics = []kmsg.OffsetFetchRequestGroupTopic{} // null asks for all, from version 2 on
	}
	for _, t := range req.Topics {
		one.Topics = append(one.Topics, kmsg.OffsetFetchRequestGroupTopic{Topic: t.Topic, Partitions: t.Partitions})
	}
	g := gs.fetchGroupOffsets(req.Version, one)
	resp.ErrorCode = g.ErrorCode
	for _, t := range g.Topics {
		st := kmsg.OffsetFetchResponseTopic{Topic: t.Topic}
		for _, p := range t.Partitions {
			st.Partitions = append(st.Partitions, kmsg.OffsetFetchResponseTopicPartition(p))
		}
		resp.Topics = append(resp.Topics, st)
	}
	return resp
}

// fetchGroupOffsets answers for one group. An error of the group is at each
// partition too, because version 1 has no other place for it.
func (gs *groups) fetchGroupOffsets(version int16, req kmsg.OffsetFetchRequestGroup) kmsg.OffsetFetchResponseGroup {
	resp := kmsg.OffsetFetchResponseGroup{Group: req.Group}
	failed := checkOffsetGroup(req.Group)
	if failed == nil && gs.isClosed() {
		failed = kerr.CoordinatorNotAvailable
	}
	resp.ErrorCode = code(failed)
	if req.Topics == nil {
		if failed == nil {
			resp.Topics = gs.allOffsets(req.Group)
		}
		return resp
	}
	for _, t := range req.Topics {
		topic, _, e := gs.findTopic(version, t.Topic, t.TopicID)
		if e == kerr.UnknownTopicOrPartition {
			e = nil // then nothing is committed there
		}
		if failed != nil {
			e = failed
		}
		st := kmsg.OffsetFetchResponseGroupTopic{Topic: t.Topic, TopicID: t.TopicID}
		for _, partition := range t.Partitions {
			p := kmsg.OffsetFetchResponseGroupTopicPartition{Partition: partition}
			if c, ok := gs.cfg.Offsets.get(req.Group, topic, partition); e == nil && ok && gs.current(c) {
				p.Offset, p.LeaderEpoch, p.Metadata = c.Offset, c.Epoch, &c.Metadata
			} else {
				p.Offset, p.LeaderEpoch, p.Metadata, p.ErrorCode = -1, -1, new(string), code(e)
			}
			st.Partitions = append(st.Partitions, p)
		}
		resp.Topics = append(resp.Topics, st)
	}
	return resp
}

// allOffsets returns everything that a group has committed.
func (gs *groups) allOffsets(group string) []kmsg.OffsetFetchResponseGroupTopic {
	var topics []kmsg.OffsetFetchResponseGroupTopic
	for _, c := range gs.cfg.Offsets.of(group) { // sorted by topic
		if !gs.current(c) {
			continue
		}
		if n := len(topics); n == 0 || topics[n-1].Topic != c.Topic {
			topics = append(topics, kmsg.OffsetFetchResponseGroupTopic{Topic: c.Topic, TopicID: c.TopicID})
		}
		t := &topics[len(topics)-1]
		t.Partitions = append(t.Partitions, kmsg.OffsetFetchResponseGroupTopicPartition{
			Partition:   c.Partition,
			Offset:      c.Offset,
			LeaderEpoch: c.Epoch,
			Metadata:    &c.Metadata,
		})
	}
	return topics
}

// current says whether c is of a topic that exists, rather than of an earlier
// one with its name, which a commit that crossed its deletion can leave behind.
func (gs *groups) current(c committedOffset) bool {
	id, ok := gs.cfg.TopicID(c.Topic)
	return ok && id == c.TopicID
}

// deleteOffsets answers OffsetDelete.
func (gs *groups) deleteOffsets(ctx context.Context, req *kmsg.OffsetDeleteRequest) *kmsg.OffsetDeleteResponse {
	resp := req.ResponseKind().(*kmsg.OffsetDeleteResponse)
	subscribed, e := gs.checkOffsetDelete(req.Group)
	if e != nil {
		resp.ErrorCode = e.Code
		return resp
	}
	entry := offsetsEntry{Kind: kindOffsetsDelete, Group: req.Group}
	for _, t := range req.Topics {
		st := kmsg.OffsetDeleteResponseTopic{Topic: t.Topic}
		for _, p := range t.Partitions {
			var e *kerr.Error
			switch {
			case !gs.cfg.PartitionExists(t.Topic, p.Partition):
				e = kerr.UnknownTopicOrPartition
			case subscribed(t.Topic):
				e = kerr.GroupSubscribedToTopic
			default:
				entry.Offsets = append(entry.Offsets, committedOffset{Topic: t.Topic, Partition: p.Partition})
			}
			st.Partitions = append(st.Partitions, kmsg.OffsetDeleteResponseTopicPartition{
				Partition: p.Partition,
				ErrorCode: code(e),
			})
		}
		resp.Topics = append(resp.Topics, st)
	}
	if len(entry.Offsets) == 0 {
		return resp
	}
	if e := gs.propose(ctx, entry); e != nil {
		resp.ErrorCode, resp.Topics = e.Code, nil
	}
	return resp
}

// checkOffsetDelete says whether offsets of a group may be deleted, and of
// which topics they may not because members consume them.
func (gs *groups) checkOffsetDelete(name string) (subscribed func(topic string) bool, e *kerr.Error) {
	nothing := func(string) bool { return false }
	if e := checkOffsetGroup(name); e != nil {
		return nil, e
	}
	g, e := gs.lock(name, false)
	switch {
	case e == kerr.UnknownMemberID && gs.cfg.Offsets.has(name):
		return nothing, nil
	case e == kerr.UnknownMemberID:
		return nil, kerr.GroupIDNotFound
	case e != nil:
		return nil, e
	}
	defer g.mu.Unlock()
	if len(g.members) == 0 {
		return nothing, nil
	}
	if g.protocolType != "consumer" {
		return nil, kerr.NonEmptyGroup
	}
	topics := map[string]bool{}
	for _, m := range g.members {
		for _, p := range m.protocols {
			var said kmsg.ConsumerMemberMetadata
			if err := said.ReadFrom(p.metadata); err != nil {
				return nil, kerr.NonEmptyGroup // it may consume anything
			}
			for _, t := range said.Topics {
				topics[t] = true
			}
		}
	}
	return func(topic string) bool { return topics[topic] }, nil
}
