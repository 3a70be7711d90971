package broker

import (
	"crypto/rand"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// pendingGrace is how long a member id that was handed out, but not yet joined
// with, holds up a rebalance. Kafka waits for its session timeout, which makes
// a client that died in between cost the others most of a minute.
const pendingGrace = 3 * time.Second

// groupState is where a group stands in the classic rebalance protocol:
//
//	Empty ──join──> PreparingRebalance ──all joined──> CompletingRebalance ──leader syncs──> Stable
//	  ^                  │     ^                              │                                │
//	  └──── all left ────┘     └──── a member joins, leaves, changes or times out ────────────┴┘
type groupState int8

const (
	groupEmpty      groupState = iota // no members; ids may be pending
	groupPreparing                    // members are asked to join again; those that have wait
	groupCompleting                   // all joined; waiting for the leader's assignment
	groupStable                       // every member can have its assignment
	groupDead                         // removed; whoever still holds it must look again
)

// String is the state's name in the protocol.
func (s groupState) String() string {
	return [...]string{"Empty", "PreparingRebalance", "CompletingRebalance", "Stable", "Dead"}[s]
}

// group is the membership of one group. Invariants: the members of a group that
// is not Empty are of one protocol type and have a protocol in common; a member
// waits in join only while Preparing and in sync only while Completing.
//
// Everything below mu is guarded by it, and the methods expect it to be held.
type group struct {
	gs   *groups
	name string

	mu           sync.Mutex
	state        groupState
	generation   int32
	protocolType string
	protocol     string             // chosen for this generation
	leader       string             // a member id; empty if the leader has gone
	members      map[string]*member // by member id
	static       map[string]*member // those with an instance id, by that
	pending      map[string]*pendingMember
	support      map[string]int // protocol name: how many members have it

	// The group's one deadline: the end of a join phase, of the sync phase
	// after it, or of the retention of an empty group.
	deadline    *time.Timer
	deadlineSeq int

	gathering bool // the join phase waits for InitialRebalanceDelay
	grew      bool // a member came while gathering
}

// member is one member of a group.
type member struct {
	id                 string
	instance           *string // static membership (KIP-345); nil for a dynamic member
	client             clientInfo
	session, rebalance time.Duration // timeouts
	protocolType       string
	protocols          []memberProtocol // in order of preference, names distinct
	assignment         []byte           // never changed in place
	joined             bool             // has been answered a join
	unsynced           bool             // has yet to send SyncGroup in this generation
	expires            time.Time        // when the session ends unless the member is heard of
	timer              *time.Timer
	waitingJoin        *waiter[*kmsg.JoinGroupResponse]
	waitingSync        *waiter[*kmsg.SyncGroupResponse]
}

type memberProtocol struct {
	name     string
	metadata []byte
}

// pendingMember is a member id that was handed out and not yet joined with
// (KIP-394).
type pendingMember struct {
	timer   *time.Timer
	overdue bool // rebalances no longer wait for it
}

// waiter is a request that waits for the rebalance: whoever answers it fills
// resp and closes done, once, with the group's mu held.
type waiter[R any] struct {
	resp R
	done chan struct{}
}

func newWaiter[R any](resp R) *waiter[R] { return &waiter[R]{resp, make(chan struct{})} }

func newGroup(gs *groups, name string) *group {
	return &group{
		gs:      gs,
		name:    strings.Clone(name),
		members: map[string]*member{},
		static:  map[string]*member{},
		pending: map[string]*pendingMember{},
		support: map[string]int{},
	}
}

// newMemberID draws an id in Kafka's form, a prefix one can recognize and
// something that is never drawn again.
func newMemberID(m *member) string {
	prefix := m.client.ID
	if m.instance != nil {
		prefix = *m.instance
	}
	if len(prefix) > 128 {
		prefix = strings.ToValidUTF8(prefix[:128], "")
	}
	return prefix + "-" + rand.Text()
}

// check says whether memberID, of that instance if it is static, is a member.
func (g *group) check(memberID string, instance *string) *kerr.Error {
	if instance != nil {
		switch m := g.static[*instance]; {
		case m == nil:
			return kerr.UnknownMemberID
		case m.id != memberID:
			return kerr.FencedInstanceID
		}
	}
	if g.members[memberID] == nil {
		return kerr.UnknownMemberID
	}
	return nil
}

// supports says whether a member with m's protocols can be in the group.
func (g *group) supports(m *member) bool {
	if g.state == groupEmpty {
		return m.protocolType != "" && len(m.protocols) > 0
	}
	if m.protocolType != g.protocolType {
		return false
	}
	for _, p := range m.protocols {
		if g.support[p.name] == len(g.members) {
			return true
		}
	}
	return false
}

// full says whether the group takes no more members.
func (g *group) full() bool {
	return len(g.members)+len(g.pending) >= g.gs.cfg.MaxSize
}

// add makes m, whose id is set, a member and starts its session.
func (g *group) add(m *member) {
	if len(g.members) == 0 {
		g.protocolType = m.protocolType
	}
	g.members[m.id] = m
	if m.instance != nil {
		g.static[*m.instance] = m
	}
	for _, p := range m.protocols {
		g.support[p.name]++
	}
	g.grew = true
	m.expires = time.Now().Add(m.session)
	m.timer = time.AfterFunc(m.session, func() { g.expireSession(m) })
}

// update gives m what it says in a new join.
func (g *group) update(m, now *member) {
	g.dropSupport(m)
	m.protocols, m.client = now.protocols, now.client
	m.session, m.rebalance = now.session, now.rebalance
	for _, p := range m.protocols {
		g.support[p.name]++
	}
	g.touch(m)
	m.timer.Reset(m.session)
}

func (g *group) dropSupport(m *member) {
	for _, p := range m.protocols {
		if g.support[p.name]--; g.support[p.name] == 0 {
			delete(g.support, p.name)
		}
	}
}

// remove ends m's membership; what it waits for is answered with e. The caller
// rebalances.
func (g *group) remove(m *member, e *kerr.Error) {
	m.timer.Stop()
	g.answerJoin(m, e)
	g.answerSync(m, e)
	delete(g.members, m.id)
	if m.instance != nil {
		delete(g.static, *m.instance)
	}
	g.dropSupport(m)
	if g.leader == m.id {
		g.leader = ""
	}
}

// touch lets m's session begin anew. Its timer finds out when it fires.
func (g *group) touch(m *member) {
	m.expires = time.Now().Add(m.session)
}

// expireSession is m's timer: it removes m unless it was heard of. mu is not
// held.
func (g *group) expireSession(m *member) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.members[m.id] != m {
		return
	}
	left := time.Until(m.expires)
	if m.waitingJoin != nil || m.waitingSync != nil {
		left = m.session // its connection would tell
	}
	if left > 0 {
		m.timer.Reset(left)
		return
	}
	g.gs.cfg.Logger.Info().Str("group", g.name).Str("member", m.id).Dur("session_timeout", m.session).
		Msg("a member was not heard of for its session timeout and is removed from its group")
	g.remove(m, kerr.UnknownMemberID)
	g.rebalance()
}

// addPending reserves a member id until it is joined with or its session
// timeout is over.
func (g *group) addPending(m *member) {
	p := &pendingMember{}
	grace := min(m.session, pendingGrace)
	p.timer = time.AfterFunc(grace, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.pending[m.id] != p {
			return
		}
		if !p.overdue && m.session > grace {
			p.overdue = true
			p.timer.Reset(m.session - grace)
		} else {
			delete(g.pending, m.id)
		}
		g.settle()
	})
	g.pending[m.id] = p
}

func (g *group) removePending(id string) {
	if p := g.pending[id]; p != nil {
		p.timer.Stop()
		delete(g.pending, id)
	}
}

// settle does what a change of the pending ids makes possible: completing a
// join phase, or forgetting a group that nobody ever joined.
func (g *group) settle() {
	switch {
	case g.state == groupPreparing:
		g.tryCompleteJoin()
	case g.state == groupEmpty && g.generation == 0 && len(g.pending) == 0:
		g.kill(kerr.UnknownMemberID)
	}
}

// kill removes the group; what its members wait for is answered with e.
func (g *group) kill(e *kerr.Error) {
	g.state = groupDead
	g.disarm()
	for id := range g.pending {
		g.removePending(id)
	}
	for _, m := range g.members {
		g.remove(m, e)
	}
	g.gs.forget(g)
}

// awaitJoin makes m wait for the end of the join phase. An older join of the
// same member is from a connection that it has given up.
func (g *group) awaitJoin(m *member, resp *kmsg.JoinGroupResponse) *waiter[*kmsg.JoinGroupResponse] {
	g.answerJoin(m, kerr.RebalanceInProgress)
	m.waitingJoin = newWaiter(resp)
	return m.waitingJoin
}

// answerJoin answers m's join, if it waits in one. Its session begins anew.
func (g *group) answerJoin(m *member, e *kerr.Error) {
	w := m.waitingJoin
	if w == nil {
		return
	}
	m.waitingJoin = nil
	g.touch(m)
	if e == nil {
		g.fillJoin(m, w.resp)
	} else {
		w.resp.ErrorCode = e.Code
	}
	close(w.done)
}

// fillJoin tells m about the current generation.
func (g *group) fillJoin(m *member, resp *kmsg.JoinGroupResponse) {
	resp.MemberID = m.id
	resp.Generation = g.generation
	resp.ProtocolType, resp.Protocol = kmsg.StringPtr(g.protocolType), kmsg.StringPtr(g.protocol)
	resp.LeaderID = g.leader
	if m.id != g.leader {
		return
	}
	resp.Members = make([]kmsg.JoinGroupResponseMember, 0, len(g.members))
	for _, m := range g.members {
		resp.Members = append(resp.Members, kmsg.JoinGroupResponseMember{
			MemberID:         m.id,
			InstanceID:       m.instance,
			ProtocolMetadata: m.metadata(g.protocol),
		})
	}
}

// awaitSync makes m wait for the leader's assignment.
func (g *group) awaitSync(m *member, resp *kmsg.SyncGroupResponse) *waiter[*kmsg.SyncGroupResponse] {
	g.answerSync(m, kerr.RebalanceInProgress)
	m.waitingSync = newWaiter(resp)
	return m.waitingSync
}

// answerSync answers m's sync, if it waits in one. Its session begins anew.
func (g *group) answerSync(m *member, e *kerr.Error) {
	w := m.waitingSync
	if w == nil {
		return
	}
	m.waitingSync = nil
	g.touch(m)
	if e == nil {
		g.fillSync(m, w.resp)
	} else {
		w.resp.ErrorCode = e.Code
	}
	close(w.done)
}

// fillSync gives m its assignment.
func (g *group) fillSync(m *member, resp *kmsg.SyncGroupResponse) {
	resp.ProtocolType, resp.Protocol = kmsg.StringPtr(g.protocolType), kmsg.StringPtr(g.protocol)
	resp.MemberAssignment = m.assignment
}

// metadata is what m said with the protocol of that name.
func (m *member) metadata(protocol string) []byte {
	for _, p := range m.protocols {
		if p.name == protocol {
			return p.metadata
		}
	}
	return nil
}
