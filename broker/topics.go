package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"syscall"

	"github.com/twmb/franz-go/pkg/kerr"
	"golang.org/x/sync/errgroup"

	"mft/segment"
)

// openAtOnce is how many logs are opened at a time: opening waits for the disk.
const openAtOnce = 8

// topic is a topic with its open logs. It is never changed once published in
// topics; changes replace it.
type topic struct {
	topicMeta
	config topicConfig
	logs   []*segment.Log // by partition
}

// topics holds the topics that are served. Creating, growing and deleting
// happen one at a time (change); reading never waits for them.
type topics struct {
	store    *segment.Store
	meta     *metadata
	propose  func(context.Context, metaEntry) error
	defaults map[string]string

	fileLimit int // how many files the process may have open; 0: any number

	change sync.Mutex // serialises create, grow and remove

	mu     sync.RWMutex
	byName map[string]*topic
	byID   map[topicID]*topic
}

// open opens the logs of every topic that the metadata knows.
func (t *topics) open() error {
	var group errgroup.Group
	group.SetLimit(openAtOnce)
	for _, m := range t.meta.topics() {
		group.Go(func() error {
			opened, err := t.openLogs(m, nil)
			if err == nil {
				t.publish(opened)
			}
			return err
		})
	}
	return group.Wait()
}

// openLogs opens the logs of m that have does not hold already. After an
// error some may be open; removeLogs removes them all.
func (t *topics) openLogs(m *topicMeta, have []*segment.Log) (*topic, error) {
	config, err := parseTopicConfig(t.defaults, m.Configs)
	if err != nil {
		return nil, fmt.Errorf("topic %q: %w", m.Name, err)
	}
	logs := make([]*segment.Log, m.Partitions)
	copy(logs, have)
	group, ctx := errgroup.WithContext(context.Background())
	group.SetLimit(openAtOnce)
	for p := len(have); p < len(logs) && ctx.Err() == nil; p++ {
		group.Go(func() error {
			var err error
			if logs[p], err = t.openLog(m, int32(p), config.log); err == nil {
				return nil
			}
			if errors.Is(err, syscall.EMFILE) {
				err = fmt.Errorf("%w: each partition takes an open file, raise the limit of this process (ulimit -n)", err)
			}
			return fmt.Errorf("open partition %d of topic %q: %w", p, m.Name, err)
		})
	}
	return &topic{topicMeta: *m, config: config, logs: logs}, group.Wait()
}

// checkOpenFiles refuses more partitions than the process may have open
// files, some of which must be left for connections and closed segments.
func (t *topics) checkOpenFiles(more int) error {
	if t.fileLimit == 0 {
		return nil
	}
	have := 0
	t.mu.RLock()
	for _, other := range t.byName {
		have += len(other.logs)
	}
	t.mu.RUnlock()
	if room := t.fileLimit - max(256, t.fileLimit/5); have+more > room {
		return apiError(kerr.PolicyViolation, fmt.Sprintf("%d partitions besides the %d there are: each takes an open file, and of the %d that the broker's process may have, %d are for partitions: raise the limit (ulimit -n) and start it again", more, have, t.fileLimit, max(0, room)))
	}
	return nil
}

// openLog opens one log of m, with the start that DeleteRecords has given it.
func (t *topics) openLog(m *topicMeta, partition int32, config segment.LogConfig) (*segment.Log, error) {
	l, err := t.store.OpenLog(logID(m, partition), config)
	if start := m.Starts[partition]; err == nil && start > 0 {
		_, err = l.SetStart(start)
	}
	return l, err
}

func logID(m *topicMeta, partition int32) segment.LogID {
	return segment.LogID{Topic: m.Name, TopicID: m.ID, Partition: partition}
}

func (t *topics) publish(n *topic) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.byName[n.Name] = n
	t.byID[n.ID] = n
}

// get returns the topic of that name, or nil.
func (t *topics) get(name string) *topic {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byName[name]
}

// getID returns the topic of that id, or nil.
func (t *topics) getID(id topicID) *topic {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byID[id]
}

// find returns a topic by its id where that is set, else by its name, and the
// error that Kafka has for one that does not exist.
func (t *topics) find(name string, id topicID) (*topic, *kerr.Error) {
	if id != (topicID{}) {
		if f := t.getID(id); f != nil {
			return f, nil
		}
		return nil, kerr.UnknownTopicID
	}
	if f := t.get(name); f != nil {
		return f, nil
	}
	return nil, kerr.UnknownTopicOrPartition
}

// log returns a partition's log, or nil.
func (t *topic) log(partition int32) *segment.Log {
	if t == nil || partition < 0 || int(partition) >= len(t.logs) {
		return nil
	}
	return t.logs[partition]
}

// all returns every topic, sorted by name.
func (t *topics) all() []*topic {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.SortedFunc(maps.Values(t.byName), func(a, b *topic) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
}

// checkTopicName holds a name to Kafka's rules.
func checkTopicName(name string) error {
	switch {
	case name == "":
		return errors.New("the topic's name is empty")
	case name == "." || name == "..":
		return fmt.Errorf("%q cannot be a topic's name", name)
	case len(name) > 249:
		return fmt.Errorf("the topic's name has %d characters: use at most 249", len(name))
	}
	for _, r := range name {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
		default:
			return fmt.Errorf("topic name %q: use only a-z, A-Z, 0-9, '.', '_' and '-'", name)
		}
	}
	return nil
}

// newTopic checks what a client asked for. partitions is the default's where
// it is -1. The error is a *kerr.Error, wrapped in what to do about it.
func (b *Broker) newTopic(name string, partitions int32, configs map[string]string) (*topicMeta, error) {
	if err := checkTopicName(name); err != nil {
		return nil, apiError(kerr.InvalidTopicException, err.Error())
	}
	if b.topics.get(name) != nil {
		return nil, apiError(kerr.TopicAlreadyExists, fmt.Sprintf("topic %q exists already", name))
	}
	if partitions == -1 {
		partitions = b.cfg.DefaultPartitions
	}
	if partitions < 1 || partitions > maxPartitions {
		return nil, apiError(kerr.InvalidPartitions, fmt.Sprintf("%d partitions: choose 1 to %d, or -1 for the default", partitions, maxPartitions))
	}
	if _, err := parseTopicConfig(b.cfg.TopicDefaults, configs); err != nil {
		return nil, apiError(kerr.InvalidConfig, err.Error())
	}
	m := &topicMeta{Name: name, Partitions: partitions, Configs: configs}
	if _, err := rand.Read(m.ID[:]); err != nil {
		return nil, fmt.Errorf("draw a topic id: %w", err)
	}
	return m, nil
}

// create makes a topic: first its logs, then the metadata entry that makes
// it exist, so that a topic that exists has its logs. A crash in between
// leaves directories that the next start removes.
func (t *topics) create(ctx context.Context, m *topicMeta) (*topic, error) {
	t.change.Lock()
	defer t.change.Unlock()
	if t.get(m.Name) != nil {
		return nil, apiError(kerr.TopicAlreadyExists, fmt.Sprintf("topic %q exists already", m.Name))
	}
	if err := t.checkOpenFiles(int(m.Partitions)); err != nil {
		return nil, err
	}
	n, err := t.openLogs(m, nil)
	if err == nil {
		err = t.propose(ctx, metaEntry{Kind: kindTopicCreate, Topic: m})
	}
	if err != nil {
		return nil, errors.Join(err, t.removeLogs(n, 0))
	}
	t.publish(n)
	return n, nil
}

// grow raises a topic's partitions to count.
func (t *topics) grow(ctx context.Context, name string, count int32, validateOnly bool) error {
	t.change.Lock()
	defer t.change.Unlock()
	have := t.get(name)
	switch {
	case have == nil:
		return apiError(kerr.UnknownTopicOrPartition, fmt.Sprintf("topic %q does not exist", name))
	case count <= have.Partitions || count > maxPartitions:
		return apiError(kerr.InvalidPartitions, fmt.Sprintf("topic %q has %d partitions: choose more than that, up to %d", name, have.Partitions, maxPartitions))
	case validateOnly:
		return nil
	}
	m := have.topicMeta
	m.Partitions = count
	if err := t.checkOpenFiles(int(count - have.Partitions)); err != nil {
		return err
	}
	n, err := t.openLogs(&m, have.logs)
	if err == nil {
		err = t.propose(ctx, metaEntry{Kind: kindTopicPartitions, Topic: &m})
	}
	if err != nil {
		return errors.Join(err, t.removeLogs(n, have.Partitions))
	}
	t.publish(n)
	return nil
}

// remove deletes a topic: first the metadata, then its logs. A crash in
// between leaves directories that the next start removes.
func (t *topics) remove(ctx context.Context, name string, id topicID) (*topic, error) {
	t.change.Lock()
	defer t.change.Unlock()
	have, kerror := t.find(name, id)
	if kerror != nil {
		return nil, kerror
	}
	if err := t.propose(ctx, metaEntry{Kind: kindTopicDelete, Topic: &have.topicMeta}); err != nil {
		return nil, err
	}
	t.mu.Lock()
	delete(t.byName, have.Name)
	delete(t.byID, have.ID)
	t.mu.Unlock()
	return have, t.removeLogs(have, 0)
}

// removeLogs deletes the logs of n from partition first on.
func (t *topics) removeLogs(n *topic, first int32) error {
	var errs []error
	for p := first; n != nil && int(p) < len(n.logs); p++ {
		errs = append(errs, t.store.DeleteLog(logID(&n.topicMeta, p)))
	}
	return errors.Join(errs...)
}
