package broker

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"sync"
)

// topicID is Kafka's 16-byte topic id.
type topicID [16]byte

func (id topicID) MarshalText() ([]byte, error) {
	return hex.AppendEncode(nil, id[:]), nil
}

func (id *topicID) UnmarshalText(text []byte) error {
	if hex.DecodedLen(len(text)) != len(id) {
		return fmt.Errorf("topic id %q is not 32 hexadecimal digits", text)
	}
	_, err := hex.Decode(id[:], text)
	return err
}

// topicMeta is what the journal knows of a topic. It is never changed once
// published; changes replace it.
type topicMeta struct {
	Name       string            `json:"name"`
	ID         topicID           `json:"id"`
	Partitions int32             `json:"partitions"`
	Configs    map[string]string `json:"configs,omitempty"`
	// Starts are the log start offsets that DeleteRecords has set, by partition.
	Starts map[int32]int64 `json:"starts,omitempty"`
}

// Kinds of metadata entries. Group offsets have kinds of their own.
const (
	kindClusterCreate   = "cluster.create"
	kindTopicCreate     = "topic.create"
	kindTopicDelete     = "topic.delete"
	kindTopicPartitions = "topic.partitions"
	kindTopicConfigs    = "topic.configs" // all that are set
	kindTopicStarts     = "topic.starts"  // of some partitions
	kindProducerIDs     = "producer.ids"
)

// metaEntry is one metadata change as the journal holds it, in JSON.
type metaEntry struct {
	Kind      string     `json:"kind"`
	ClusterID string     `json:"cluster_id,omitempty"`
	Topic     *topicMeta `json:"topic,omitempty"`
	// NextProducerID is the first producer id that has not been handed to a
	// running broker.
	NextProducerID int64 `json:"next_producer_id,omitempty"`
}

// metadata is the state machine over the journal's metadata entries: topics,
// producer ids and committed offsets. Only the store's committer changes it,
// through apply; anyone may read.
type metadata struct {
	mu      sync.RWMutex
	state   metaState
	offsets *groupOffsets
}

// metaState is the part of the state that a snapshot holds as it is.
type metaState struct {
	ClusterID      string                `json:"cluster_id"`
	NextProducerID int64                 `json:"next_producer_id"`
	Topics         map[string]*topicMeta `json:"topics"`
}

// metaSnapshot is the whole state as meta.snapshot holds it, in JSON.
type metaSnapshot struct {
	metaState
	Offsets json.RawMessage `json:"offsets"`
}

func newMetadata() *metadata {
	return &metadata{
		state:   metaState{Topics: map[string]*topicMeta{}},
		offsets: newGroupOffsets(),
	}
}

// restore replaces the state by a snapshot's.
func (m *metadata) restore(snapshot []byte) error {
	var s metaSnapshot
	if err := json.Unmarshal(snapshot, &s); err != nil {
		return fmt.Errorf("metadata snapshot: %w", err)
	}
	if s.Topics == nil {
		s.Topics = map[string]*topicMeta{}
	}
	m.mu.Lock()
	m.state = s.metaState
	m.mu.Unlock()
	return m.offsets.restore(s.Offsets)
}

// snapshot returns the state after every entry applied so far.
func (m *metadata) snapshot() ([]byte, error) {
	offsets, err := m.offsets.snapshot()
	if err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	return json.Marshal(metaSnapshot{metaState: m.state, Offsets: offsets})
}

// apply makes one change. An error is the change's outcome, the same each
// time the journal is replayed: the state is then as before.
func (m *metadata) apply(entry []byte) error {
	var e metaEntry
	if err := json.Unmarshal(entry, &e); err != nil {
		return fmt.Errorf("metadata entry: %w", err)
	}
	switch e.Kind {
	case kindClusterCreate, kindTopicCreate, kindTopicDelete, kindTopicPartitions, kindTopicConfigs, kindTopicStarts, kindProducerIDs:
	default:
		return m.offsets.apply(entry)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &m.state
	switch e.Kind {
	case kindClusterCreate:
		if s.ClusterID != "" {
			return fmt.Errorf("the cluster has an id already: %s", s.ClusterID)
		}
		s.ClusterID = e.ClusterID
		return nil
	case kindProducerIDs:
		if e.NextProducerID <= s.NextProducerID {
			return fmt.Errorf("producer ids up to %d were handed out already", s.NextProducerID)
		}
		s.NextProducerID = e.NextProducerID
		return nil
	}

	if e.Topic == nil || e.Topic.Name == "" {
		return fmt.Errorf("metadata entry %s names no topic", e.Kind)
	}
	have := s.Topics[e.Topic.Name]
	if e.Kind == kindTopicCreate {
		if have != nil {
			return fmt.Errorf("topic %q exists already", e.Topic.Name)
		}
		s.Topics[e.Topic.Name] = e.Topic
		return nil
	}
	if have == nil || have.ID != e.Topic.ID {
		return fmt.Errorf("topic %q with that id does not exist", e.Topic.Name)
	}
	switch e.Kind {
	case kindTopicDelete:
		delete(s.Topics, e.Topic.Name)
		m.offsets.dropTopic(e.Topic.Name)
	case kindTopicPartitions:
		if e.Topic.Partitions <= have.Partitions {
			return fmt.Errorf("topic %q has %d partitions already", have.Name, have.Partitions)
		}
		changed := *have
		changed.Partitions = e.Topic.Partitions
		s.Topics[have.Name] = &changed
	case kindTopicConfigs:
		changed := *have
		changed.Configs = e.Topic.Configs
		s.Topics[have.Name] = &changed
	case kindTopicStarts:
		changed := *have
		changed.Starts = maps.Clone(have.Starts)
		if changed.Starts == nil {
			changed.Starts = map[int32]int64{}
		}
		for p, start := range e.Topic.Starts {
			changed.Starts[p] = max(changed.Starts[p], start)
		}
		s.Topics[have.Name] = &changed
	}
	return nil
}

func (m *metadata) clusterID() string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.state.ClusterID
}

func (m *metadata) nextProducerID() int64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.state.NextProducerID
}

// topics returns the topics as they are now.
func (m *metadata) topics() map[string]*topicMeta {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return maps.Clone(m.state.Topics)
}
