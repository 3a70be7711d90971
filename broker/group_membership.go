package broker

// The APIs by which members belong to a group:
//
//	JoinGroup  (11) 0–9  waits until all members have joined, or the rebalance timeout is over
//	SyncGroup  (14) 0–5  waits until the leader has sent the assignment
//	Heartbeat  (12) 0–4
//	LeaveGroup (13) 0–5  several members from version 3
//
// As Kafka's group coordinator, but for this:
//   - A member id handed out by MEMBER_ID_REQUIRED holds up a rebalance for
//     pendingGrace at most, not for its session timeout; also the first one of
//     an empty group, which Kafka does not hold up.
//   - A new member whose connection ends while it waits in JoinGroup is removed
//     at once; Kafka cannot see that and waits five minutes.
//   - A static member that is gone does not get its session prolonged by a
//     rebalance that it takes no part in.
//   - A rebalance timeout of 0 or less means the session timeout.

import (
	"context"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// newMember reads a join. It copies what it keeps out of the request, which
// lies in a frame that will be used again.
func newMember(req *kmsg.JoinGroupRequest, client clientInfo) *member {
	m := &member{
		id:           strings.Clone(req.MemberID),
		client:       clientInfo{strings.Clone(client.ID), strings.Clone(client.Host)},
		session:      milliseconds(req.SessionTimeoutMillis),
		rebalance:    milliseconds(req.RebalanceTimeoutMillis),
		protocolType: strings.Clone(req.ProtocolType),
	}
	if req.InstanceID != nil {
		m.instance = kmsg.StringPtr(strings.Clone(*req.InstanceID))
	}
	if req.Version == 0 || req.RebalanceTimeoutMillis <= 0 {
		m.rebalance = m.session
	}
	seen := make(map[string]bool, len(req.Protocols))
	for _, p := range req.Protocols {
		if !seen[p.Name] {
			seen[p.Name] = true
			m.protocols = append(m.protocols, memberProtocol{
				name:     strings.Clone(p.Name),
				metadata: append([]byte(nil), p.Metadata...),
			})
		}
	}
	return m
}

func milliseconds(ms int32) time.Duration { return time.Duration(ms) * time.Millisecond }

// sameProtocols says whether a join repeats what m said before.
func (m *member) sameProtocols(now *member) bool {
	if len(m.protocols) != len(now.protocols) {
		return false
	}
	for i, p := range m.protocols {
		if p.name != now.protocols[i].name || string(p.metadata) != string(now.protocols[i].metadata) {
			return false
		}
	}
	return true
}

// join answers JoinGroup. It returns when the rebalance is over or ctx is.
func (gs *groups) join(ctx context.Context, req *kmsg.JoinGroupRequest, client clientInfo) *kmsg.JoinGroupResponse {
	resp := req.ResponseKind().(*kmsg.JoinGroupResponse)
	resp.MemberID = req.MemberID
	session := milliseconds(req.SessionTimeoutMillis)
	if e := checkMemberGroup(req.Group); e != nil {
		resp.ErrorCode = e.Code
		return resp
	}
	if session < gs.cfg.MinSessionTimeout || session > gs.cfg.MaxSessionTimeout {
		resp.ErrorCode = kerr.InvalidSessionTimeout.Code
		return resp
	}
	g, e := gs.lock(req.Group, req.MemberID == "")
	if e != nil {
		resp.ErrorCode = e.Code
		return resp
	}
	m, w, e := g.join(req.Version, newMember(req, client), resp)
	if e != nil {
		resp.ErrorCode = e.Code
	}
	g.settle() // a refused join leaves no group behind
	g.mu.Unlock()
	if w == nil {
		return resp
	}
	select {
	case <-w.done:
	case <-ctx.Done():
		g.abandonJoin(m, w)
	}
	return resp
}

// join lets now join. It returns the member and what it must wait for; w is nil
// if resp is the answer already. The caller sets the error in resp.
func (g *group) join(version int16, now *member, resp *kmsg.JoinGroupResponse) (m *member, w *waiter[*kmsg.JoinGroupResponse], e *kerr.Error) {
	if !g.supports(now) {
		return nil, nil, kerr.InconsistentGroupProtocol
	}
	if now.id == "" {
		return g.joinNew(version, now, resp)
	}
	if g.pending[now.id] != nil {
		if now.instance != nil { // static members are never given an id to come back with
			return nil, nil, kerr.UnknownMemberID
		}
		g.removePending(now.id)
		g.add(now)
		return g.joinAndRebalance(now, resp)
	}
	if e := g.check(now.id, now.instance); e != nil {
		return nil, nil, e
	}
	m = g.members[now.id]
	// A member that says nothing new has missed an answer: it gets it again.
	// Only the leader of a stable group asks for a rebalance by it, because it
	// has seen that topics have changed.
	if m.sameProtocols(now) && (g.state == groupCompleting || g.state == groupStable && g.leader != m.id) {
		g.touch(m)
		g.fillJoin(m, resp)
		return m, nil, nil
	}
	g.update(m, now)
	return g.joinAndRebalance(m, resp)
}

// joinNew lets a member without an id join: a dynamic one is given its id, to
// come back with if it knows how to; a static one takes its place if it had one.
func (g *group) joinNew(version int16, now *member, resp *kmsg.JoinGroupResponse) (m *member, w *waiter[*kmsg.JoinGroupResponse], e *kerr.Error) {
	if now.instance != nil && g.static[*now.instance] != nil {
		return g.replaceStatic(version, g.static[*now.instance], now, resp)
	}
	if g.full() {
		return nil, nil, kerr.GroupMaxSizeReached
	}
	now.id = newMemberID(now)
	if version >= 4 && now.instance == nil {
		g.addPending(now)
		resp.MemberID = now.id
		return nil, nil, kerr.MemberIDRequired
	}
	g.add(now)
	return g.joinAndRebalance(now, resp)
}

// replaceStatic gives static member m a new id, because its process has started
// anew; the old id is fenced. A stable group stays as it is, unless it would
// choose another protocol now.
func (g *group) replaceStatic(version int16, m, now *member, resp *kmsg.JoinGroupResponse) (*member, *waiter[*kmsg.JoinGroupResponse], *kerr.Error) {
	g.answerJoin(m, kerr.FencedInstanceID)
	g.answerSync(m, kerr.FencedInstanceID)
	oldLeader := g.leader
	delete(g.members, m.id)
	wasLeader := g.leader == m.id
	m.id = newMemberID(now)
	g.members[m.id] = m
	if wasLeader {
		g.leader = m.id
	}
	g.update(m, now)
	if g.state != groupStable || g.selectProtocol() != g.protocol {
		return g.joinAndRebalance(m, resp)
	}
	g.fillJoin(m, resp)
	if version >= 9 {
		resp.SkipAssignment = wasLeader // KIP-814
	} else {
		// The stable group would not take a new assignment, so nobody must
		// think that it leads.
		resp.LeaderID, resp.Members = oldLeader, nil
	}
	return m, nil, nil
}

func (g *group) joinAndRebalance(m *member, resp *kmsg.JoinGroupResponse) (*member, *waiter[*kmsg.JoinGroupResponse], *kerr.Error) {
	w := g.awaitJoin(m, resp)
	g.rebalance()
	return m, w, nil
}

// abandonJoin ends a wait whose connection has ended or whose broker stops. A
// member that has never been answered goes with it. mu is not held.
func (g *group) abandonJoin(m *member, w *waiter[*kmsg.JoinGroupResponse]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if m.waitingJoin != w {
		return // answered meanwhile
	}
	if !m.joined {
		g.remove(m, kerr.CoordinatorNotAvailable)
		g.rebalance()
		return
	}
	g.answerJoin(m, kerr.CoordinatorNotAvailable)
}

// sync answers SyncGroup. It returns when the leader has sent the assignment,
// the rebalance starts over, or ctx is over.
func (gs *groups) sync(ctx context.Context, req *kmsg.SyncGroupRequest) *kmsg.SyncGroupResponse {
	resp := req.ResponseKind().(*kmsg.SyncGroupResponse)
	g, e := gs.lockMembers(req.Group)
	if e != nil {
		resp.ErrorCode = e.Code
		return resp
	}
	m, w, e := g.sync(req, resp)
	if e != nil {
		resp.ErrorCode = e.Code
	}
	g.mu.Unlock()
	if w == nil {
		return resp
	}
	select {
	case <-w.done:
	case <-ctx.Done():
		g.abandonSync(m, w)
	}
	return resp
}

// sync is join's counterpart for SyncGroup.
func (g *group) sync(req *kmsg.SyncGroupRequest, resp *kmsg.SyncGroupResponse) (*member, *waiter[*kmsg.SyncGroupResponse], *kerr.Error) {
	if e := g.check(req.MemberID, req.InstanceID); e != nil {
		return nil, nil, e
	}
	if req.Generation != g.generation {
		return nil, nil, kerr.IllegalGeneration
	}
	if req.ProtocolType != nil && *req.ProtocolType != g.protocolType || req.Protocol != nil && *req.Protocol != g.protocol {
		return nil, nil, kerr.InconsistentGroupProtocol
	}
	if g.state == groupPreparing {
		return nil, nil, kerr.RebalanceInProgress
	}
	m := g.members[req.MemberID]
	m.unsynced = false
	g.touch(m)
	if g.state == groupCompleting {
		if m.id != g.leader {
			return m, g.awaitSync(m, resp), nil
		}
		g.assign(req.GroupAssignment)
	}
	g.fillSync(m, resp)
	return m, nil, nil
}

// abandonSync ends a wait whose connection has ended or whose broker stops: the
// member may come back within its session timeout. mu is not held.
func (g *group) abandonSync(m *member, w *waiter[*kmsg.SyncGroupResponse]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if m.waitingSync == w {
		g.answerSync(m, kerr.CoordinatorNotAvailable)
	}
}

// lockMembers locks the group that a request of one of its members names.
func (gs *groups) lockMembers(name string) (*group, *kerr.Error) {
	if e := checkMemberGroup(name); e != nil {
		return nil, e
	}
	return gs.lock(name, false)
}

// heartbeat answers Heartbeat.
func (gs *groups) heartbeat(req *kmsg.HeartbeatRequest) *kmsg.HeartbeatResponse {
	resp := req.ResponseKind().(*kmsg.HeartbeatResponse)
	g, e := gs.lockMembers(req.Group)
	if e == nil {
		e = g.heartbeat(req)
		g.mu.Unlock()
	}
	resp.ErrorCode = code(e)
	return resp
}

func (g *group) heartbeat(req *kmsg.HeartbeatRequest) *kerr.Error {
	if e := g.check(req.MemberID, req.InstanceID); e != nil {
		return e
	}
	if req.Generation != g.generation {
		return kerr.IllegalGeneration
	}
	g.touch(g.members[req.MemberID])
	if g.state == groupPreparing {
		return kerr.RebalanceInProgress
	}
	return nil
}

// leave answers LeaveGroup.
func (gs *groups) leave(req *kmsg.LeaveGroupRequest) *kmsg.LeaveGroupResponse {
	resp := req.ResponseKind().(*kmsg.LeaveGroupResponse)
	members := req.Members
	if req.Version < 3 {
		members = []kmsg.LeaveGroupRequestMember{{MemberID: req.MemberID}}
	}
	g, e := gs.lockMembers(req.Group)
	if e != nil && e != kerr.UnknownMemberID {
		resp.ErrorCode = e.Code
		return resp
	}
	before := 0
	if g != nil {
		defer g.mu.Unlock()
		before = len(g.members)
	}
	for _, leaving := range members {
		if g != nil {
			e = g.leave(leaving)
		}
		resp.Members = append(resp.Members, kmsg.LeaveGroupResponseMember{
			MemberID:   leaving.MemberID,
			InstanceID: leaving.InstanceID,
			ErrorCode:  code(e),
		})
	}
	switch {
	case g == nil:
	case len(g.members) < before:
		g.rebalance()
	default:
		g.settle()
	}
	if req.Version < 3 {
		resp.ErrorCode = resp.Members[0].ErrorCode
	}
	return resp
}

// leave removes one member. A static one may be named by its instance alone, as
// administrators do.
func (g *group) leave(leaving kmsg.LeaveGroupRequestMember) *kerr.Error {
	if leaving.MemberID == "" && leaving.InstanceID != nil {
		m := g.static[*leaving.InstanceID]
		if m == nil {
			return kerr.UnknownMemberID
		}
		g.remove(m, kerr.UnknownMemberID)
		return nil
	}
	if g.pending[leaving.MemberID] != nil && leaving.InstanceID == nil {
		g.removePending(leaving.MemberID)
		return nil
	}
	if e := g.check(leaving.MemberID, leaving.InstanceID); e != nil {
		return e
	}
	g.remove(g.members[leaving.MemberID], kerr.UnknownMemberID)
	return nil
}
