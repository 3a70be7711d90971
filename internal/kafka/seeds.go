package kafka

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Seeds has one of several clients of the same brokers begin with an address
// of its own, so that clients are spread over the addresses: over the ports of
// a broker that has several, each of which keeps the clients that come to it.
//
// A client that is given all addresses asks any of them at any time. So it is
// given the one only, until that cannot be reached; from then on it has all.
type Seeds struct {
	brokers []string // the client's own first

	mu     sync.Mutex
	client *kgo.Client
	wide   bool // the client has all of brokers, or is getting them
}

// NewSeeds returns the Seeds of client i, counted from 0.
func NewSeeds(brokers []string, i int) *Seeds {
	first := i % len(brokers)
	return &Seeds{brokers: slices.Concat(brokers[first:], brokers[:first]), wide: len(brokers) == 1}
}

// Options are those that the client is to be made with.
func (s *Seeds) Options() []kgo.Opt {
	return []kgo.Opt{kgo.SeedBrokers(s.brokers[0]), kgo.WithHooks(s)}
}

// Attach tells which client was made with the Options.
func (s *Seeds) Attach(client *kgo.Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.client = client
}

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (s *Seeds) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, kgo.ErrClientClosed) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wide || s.client == nil {
		return
	}
	s.wide = true
	// Not from here: the hook is called by the broker that gets replaced. The
	// addresses were accepted when the first of them was, or by another client.
	go func() { _ = s.client.UpdateSeedBrokers(s.brokers...) }()
}
