// Package broker serves topics over Kafka's wire protocol from one data
// directory.
//
// New opens the directory, recovers it and binds the listeners; Run serves
// until its context ends. A broker is a library: mft-broker is a thin command
// around it, and a receiver may carry one inside.
package broker

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"mft/segment"
)

// nodeID is the broker id that clients see. There is one broker.
const nodeID = 1

// Broker is a running or startable broker. Its methods may be called from
// several goroutines, Run once.
type Broker struct {
	cfg    Config
	log    zerolog.Logger
	store  *segment.Store
	meta   *metadata
	topics *topics
	groups *groups

	listeners []*listener

	producerIDs struct {
		sync.Mutex
		next, end int64 // ids [next, end) may be handed out
	}

	inFlight  *inFlight
	frames    frameBuffers
	connCount atomic.Int64
	conns     sync.WaitGroup
}

// New opens the data directory, recovers what a crash left, and binds the
// listeners, so that everything that can fail at the start fails here. Run
// must follow, or Close.
func New(cfg Config) (*Broker, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	b := &Broker{cfg: cfg, log: cfg.Logger, meta: newMetadata(), inFlight: newInFlight(cfg.MaxInFlightBytes, cfg.holdTimeout)}
	b.store, err = segment.Open(cfg.Data, segment.Options{
		Logger:   cfg.Logger,
		Clock:    cfg.Clock,
		Restore:  b.meta.restore,
		Apply:    b.meta.apply,
		Snapshot: b.meta.snapshot,

		CleanInterval: cfg.CleanInterval,
	})
	if err != nil {
		return nil, damageAdvice(err, cfg.Data)
	}
	if err := b.open(); err != nil {
		return nil, damageAdvice(errors.Join(err, b.Close()), cfg.Data)
	}
	return b, nil
}

// open brings up what lies on the store, and binds the listeners last.
func (b *Broker) open() error {
	b.topics = &topics{
		store:    b.store,
		meta:     b.meta,
		propose:  b.propose,
		defaults: b.cfg.TopicDefaults,
		byName:   map[string]*topic{},
		byID:     map[topicID]*topic{},
	}
	var err error
	if b.topics.fileLimit, err = openFileLimit(); err != nil {
		return fmt.Errorf("ask how many files may be open: %w", err)
	}
	if b.meta.clusterID() == "" {
		id, err := newClusterID()
		if err != nil {
			return err
		}
		if err := b.propose(context.Background(), metaEntry{Kind: kindClusterCreate, ClusterID: id}); err != nil {
			return err
		}
	}
	if err := b.topics.open(); err != nil {
		return err
	}
	left, err := b.store.RemoveOrphans(func(id segment.LogID) bool {
		t := b.topics.getID(topicID(id.TopicID))
		return t != nil && t.log(id.Partition) != nil
	})
	if err != nil {
		return err
	}
	for _, dir := range left {
		b.log.Warn().Str("dir", dir).Msg("this directory belongs to no topic and is left alone: move it away if it is not needed")
	}
	b.groups = newGroups(b.groupConfig())
	for _, l := range b.cfg.Listeners {
		bound, err := listen(b, l)
		if err != nil {
			return err
		}
		b.listeners = append(b.listeners, bound)
	}
	return nil
}

// newClusterID draws an id in Kafka's form: 16 bytes, base64url.
func newClusterID() (string, error) {
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return "", fmt.Errorf("draw a cluster id: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(id[:]), nil
}

// propose makes a metadata change durable and applied. Once begun it is seen
// through: a client that leaves meanwhile must not keep us from knowing
// whether the change was made, since what is served has to agree with it.
func (b *Broker) propose(ctx context.Context, e metaEntry) error {
	entry, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return b.store.Propose(context.WithoutCancel(ctx), entry)
}

// Addrs returns the bound addresses, in the order of Config.Listeners.
func (b *Broker) Addrs() []net.Addr {
	addrs := make([]net.Addr, len(b.listeners))
	for i, l := range b.listeners {
		addrs[i] = l.ln.Addr()
	}
	return addrs
}

// ClusterID returns the id that clients see; it is kept in the data directory.
func (b *Broker) ClusterID() string { return b.meta.clusterID() }

// Run serves until ctx ends and then stops cleanly, or until the store fails,
// which is an error. It may be called once, and closes the broker.
func (b *Broker) Run(ctx context.Context) error {
	serving, stop := context.WithCancel(ctx)
	defer stop()
	g, serving := errgroup.WithContext(serving)
	for _, l := range b.listeners {
		b.log.Info().Stringer("addr", l.ln.Addr()).Msg("listening")
		g.Go(func() error { return l.accept(serving) })
	}
	g.Go(func() error {
		select {
		case <-b.store.Failed():
			return fmt.Errorf("the log failed and the broker stops, because what is durable is no longer known: %w", b.store.Err())
		case <-serving.Done():
			return nil
		}
	})
	g.Go(func() error { // closing the listeners is what ends accept
		<-serving.Done()
		return b.closeListeners()
	})
	// 1. The context ends, the store fails or a listener breaks: listeners
	//    close, and every connection's context ends: waiting fetches answer
	//    with what they have, connections read no more requests.
	err := g.Wait()
	// 2. Groups let their members go, so that joins in progress are answered.
	b.groups.close()
	// 3. Connections write the answers they owe (appends become durable all
	//    the while), at most for DrainTimeout, and close.
	b.conns.Wait()
	// 4. The store takes a last checkpoint and closes.
	return errors.Join(err, b.store.Close())
}

// Close releases a broker that was not Run.
func (b *Broker) Close() error {
	err := b.closeListeners()
	if b.groups != nil {
		b.groups.close()
	}
	return errors.Join(err, b.store.Close())
}

func (b *Broker) closeListeners() error {
	var errs []error
	for _, l := range b.listeners {
		if err := l.ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, fmt.Errorf("close listener %s: %w", l.ln.Addr(), err))
		}
	}
	return errors.Join(errs...)
}

// groupConfig is what the group coordinator may know of the broker.
func (b *Broker) groupConfig() groupConfig {
	return groupConfig{
		Logger:                b.log,
		Clock:                 b.cfg.Clock,
		InitialRebalanceDelay: b.cfg.GroupInitialRebalanceDelay,
		Propose:               b.store.Propose,
		Offsets:               b.meta.offsets,
		TopicID: func(name string) (topicID, bool) {
			t := b.topics.get(name)
			if t == nil {
				return topicID{}, false
			}
			return t.ID, true
		},
		TopicName: func(id topicID) (string, bool) {
			t := b.topics.getID(id)
			if t == nil {
				return "", false
			}
			return t.Name, true
		},
		PartitionExists: func(name string, partition int32) bool {
			return b.topics.get(name).log(partition) != nil
		},
	}
}
