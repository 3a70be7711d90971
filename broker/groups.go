package broker

import (
	"context"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"
)

const (
	defaultMinSessionTimeout = 6 * time.Second
	defaultMaxSessionTimeout = 30 * time.Minute
	defaultGroupMaxSize      = 1000

	// emptyGroupRetention is how long a group without members and without
	// offsets is still listed. Kafka's equivalent is the period of its offset
	// clean-up.
	emptyGroupRetention = 10 * time.Minute
)

// groupConfig is what the group coordinator needs from the broker. Zero limits
// mean their defaults.
type groupConfig struct {
	Logger zerolog.Logger
	// Clock stamps committed offsets; nil means time.Now. Sessions and
	// rebalances run on the runtime's timers.
	Clock func() time.Time

	// InitialRebalanceDelay is how long the first rebalance of an empty group
	// waits for more members; each one that comes starts the wait anew, up to
	// the rebalance timeout. 0 completes it as soon as the first has joined.
	InitialRebalanceDelay time.Duration
	// MinSessionTimeout and MaxSessionTimeout bound what members may ask for.
	MinSessionTimeout, MaxSessionTimeout time.Duration
	// MaxSize bounds the members of one group (Kafka's group.max.size).
	MaxSize int

	// Propose makes a metadata entry durable and applied.
	Propose func(ctx context.Context, entry []byte) error
	// Offsets is the state that applied entries of the offsets' kinds are in.
	Offsets *groupOffsets
	// TopicID and TopicName look an existing topic up; PartitionExists says
	// whether it has that partition.
	TopicID         func(name string) (topicID, bool)
	TopicName       func(id topicID) (string, bool)
	PartitionExists func(topic string, partition int32) bool
}

// clientInfo is who sent a request, for DescribeGroups.
type clientInfo struct {
	ID   string // the client id of the request's header
	Host string // the peer's address, as Kafka writes it: "/192.0.2.1"
}

// groups is the group coordinator: the members of all consumer groups of the
// classic ("consumer") protocol, in memory only, and the entry points of the
// group APIs. Committed offsets are elsewhere, in groupOffsets. After a restart
// the members are unknown and join anew; offsets stay for as long as their
// group and topic do, whatever their age.
//
// Lock order: a group's mu, then groups.mu.
type groups struct {
	cfg groupConfig

	mu     sync.Mutex
	closed bool
	byName map[string]*group
}

func newGroups(cfg groupConfig) *groups {
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.MinSessionTimeout <= 0 {
		cfg.MinSessionTimeout = defaultMinSessionTimeout
	}
	if cfg.MaxSessionTimeout <= 0 {
		cfg.MaxSessionTimeout = defaultMaxSessionTimeout
	}
	if cfg.MaxSize <= 0 {
		cfg.MaxSize = defaultGroupMaxSize
	}
	return &groups{cfg: cfg, byName: map[string]*group{}}
}

// close stops every timer and answers every waiting member with
// COORDINATOR_NOT_AVAILABLE, as all later requests are. It may be called again.
func (gs *groups) close() {
	gs.mu.Lock()
	gs.closed = true
	all := gs.byName
	gs.byName = nil
	gs.mu.Unlock()
	for _, g := range all {
		g.mu.Lock()
		g.kill(kerr.CoordinatorNotAvailable)
		g.mu.Unlock()
	}
}

func (gs *groups) isClosed() bool {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	return gs.closed
}

// lock returns the group with its mu held; the caller unlocks it. A group that
// is not there is created if asked for; if not, g is nil and the error is
// UNKNOWN_MEMBER_ID, because it has no members. A closed coordinator answers
// COORDINATOR_NOT_AVAILABLE.
func (gs *groups) lock(name string, create bool) (g *group, e *kerr.Error) {
	for {
		gs.mu.Lock()
		if gs.closed {
			gs.mu.Unlock()
			return nil, kerr.CoordinatorNotAvailable
		}
		g := gs.byName[name]
		if g == nil && create {
			g = newGroup(gs, name)
			gs.byName[g.name] = g
		}
		gs.mu.Unlock()
		if g == nil {
			return nil, kerr.UnknownMemberID
		}
		g.mu.Lock()
		if g.state != groupDead {
			return g, nil
		}
		g.mu.Unlock() // died meanwhile, so byName no longer holds it
	}
}

// forget takes a dead group off the list. The group's mu is held.
func (gs *groups) forget(g *group) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if gs.byName[g.name] == g {
		delete(gs.byName, g.name)
	}
}

// all returns the groups that are in memory, in no order.
func (gs *groups) all() ([]*group, *kerr.Error) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if gs.closed {
		return nil, kerr.CoordinatorNotAvailable
	}
	list := make([]*group, 0, len(gs.byName))
	for _, g := range gs.byName {
		list = append(list, g)
	}
	return list, nil
}

// checkMemberGroup checks the group id of an API that manages members.
func checkMemberGroup(name string) *kerr.Error {
	if name == "" {
		return kerr.InvalidGroupID
	}
	return checkOffsetGroup(name)
}

// checkOffsetGroup checks the group id of an API that manages offsets. Like
// Kafka, these take the empty id, for the sake of old clients.
func checkOffsetGroup(name string) *kerr.Error {
	if !utf8.ValidString(name) { // it would not survive the journal's JSON
		return kerr.InvalidGroupID
	}
	return nil
}

// code is the error code for the wire; nil is 0.
func code(e *kerr.Error) int16 {
	if e == nil {
		return 0
	}
	return e.Code
}
