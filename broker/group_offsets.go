package broker

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
)

// Kinds of metadata entries about groups.
const (
	kindOffsetsCommit = "offsets.commit"
	kindOffsetsDelete = "offsets.delete"
	kindGroupDelete   = "group.delete"
)

// offsetsEntry is one change of committed offsets as the journal holds it, in
// JSON. A commit sets Offsets, a delete removes the partitions they name, and
// the deletion of a group removes all that it has.
type offsetsEntry struct {
	Kind    string            `json:"kind"`
	Group   string            `json:"group"`
	Offsets []committedOffset `json:"offsets,omitempty"`
}

// committedOffset is where a group goes on in one partition.
type committedOffset struct {
	Topic string `json:"topic"`
	// TopicID tells a topic from an earlier one of the same name.
	TopicID   topicID `json:"topic_id,omitzero"`
	Partition int32   `json:"partition"`
	Offset    int64   `json:"offset"`        // of the next record to consume
	Epoch     int32   `json:"epoch"`         // leader epoch of the last one consumed; -1 unknown
	Metadata  string  `json:"metadata"`      // the client's, at most maxOffsetMetadata bytes
	Time      int64   `json:"time,omitzero"` // of the commit, in ms since 1970
}

// groupOffsets is the committed offsets of all groups: a state machine over
// offsetsEntry, without any other input. It may be used from several goroutines.
type groupOffsets struct {
	mu     sync.RWMutex
	groups map[string]topicOffsets // no group is empty, nor is a topic in it
}

// topicOffsets is one group's offsets by topic and partition.
type topicOffsets map[string]map[int32]committedOffset

func newGroupOffsets() *groupOffsets {
	return &groupOffsets{groups: map[string]topicOffsets{}}
}

// apply makes the change of one entry. An error is the same at each replay, and
// leaves the state as it was.
func (o *groupOffsets) apply(entry []byte) error {
	var e offsetsEntry
	if err := json.Unmarshal(entry, &e); err != nil {
		return fmt.Errorf("offsets entry: %w", err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	switch e.Kind {
	case kindOffsetsCommit:
		for _, c := range e.Offsets {
			o.set(e.Group, c)
		}
	case kindOffsetsDelete:
		for _, c := range e.Offsets {
			o.unset(e.Group, c.Topic, c.Partition)
		}
	case kindGroupDelete:
		delete(o.groups, e.Group)
	default:
		return fmt.Errorf("metadata entry of unknown kind %q: was it written by a newer version?", e.Kind)
	}
	return nil
}

func (o *groupOffsets) set(group string, c committedOffset) {
	topics := o.groups[group]
	if topics == nil {
		topics = topicOffsets{}
		o.groups[group] = topics
	}
	partitions := topics[c.Topic]
	if partitions == nil {
		partitions = map[int32]committedOffset{}
		topics[c.Topic] = partitions
	}
	partitions[c.Partition] = c
}

func (o *groupOffsets) unset(group, topic string, partition int32) {
	topics := o.groups[group]
	delete(topics[topic], partition)
	if len(topics[topic]) == 0 {
		o.unsetTopic(group, topic)
	}
}

func (o *groupOffsets) unsetTopic(group, topic string) {
	topics := o.groups[group]
	delete(topics, topic)
	if len(topics) == 0 {
		delete(o.groups, group)
	}
}

// dropTopic removes every group's offsets of a deleted topic. It belongs to the
// entry that deletes the topic.
func (o *groupOffsets) dropTopic(topic string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for group := range o.groups {
		o.unsetTopic(group, topic)
	}
}

// snapshot returns the whole state in JSON: an object of lists of
// committedOffset by group, sorted by topic and partition.
func (o *groupOffsets) snapshot() (json.RawMessage, error) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	all := make(map[string][]committedOffset, len(o.groups))
	for group, topics := range o.groups {
		all[group] = topics.sorted()
	}
	return json.Marshal(all)
}

// restore replaces the state by a snapshot's; none at all is an empty one.
func (o *groupOffsets) restore(snapshot json.RawMessage) error {
	var all map[string][]committedOffset
	if len(snapshot) > 0 {
		if err := json.Unmarshal(snapshot, &all); err != nil {
			return fmt.Errorf("snapshot of committed offsets: %w", err)
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.groups = map[string]topicOffsets{}
	for group, offsets := range all {
		for _, c := range offsets {
			o.set(group, c)
		}
	}
	return nil
}

// get returns the offset that group has committed in a partition.
func (o *groupOffsets) get(group, topic string, partition int32) (committedOffset, bool) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	c, ok := o.groups[group][topic][partition]
	return c, ok
}

// of returns all that group has committed, sorted by topic and partition.
func (o *groupOffsets) of(group string) []committedOffset {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.groups[group].sorted()
}

// has says whether group has committed anything.
func (o *groupOffsets) has(group string) bool {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return len(o.groups[group]) > 0
}

// names returns the groups that have committed something, in no order.
func (o *groupOffsets) names() []string {
	o.mu.RLock()
	defer o.mu.RUnlock()
	names := make([]string, 0, len(o.groups))
	for group := range o.groups {
		names = append(names, group)
	}
	return names
}

func (t topicOffsets) sorted() []committedOffset {
	var list []committedOffset
	for _, partitions := range t {
		for _, c := range partitions {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b committedOffset) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return list
}
