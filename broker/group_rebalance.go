package broker

import (
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A rebalance: the join phase, in which every member says what it can do, and
// the sync phase, in which the leader tells everyone what to do. Each has the
// rebalance timeout, which is the longest that a member asks for.

// rebalance starts a join phase, unless one is running, and completes it if
// every member has joined already.
func (g *group) rebalance() {
	switch g.state {
	case groupDead:
		return
	case groupPreparing:
		g.tryCompleteJoin()
		return
	case groupCompleting:
		for _, m := range g.members {
			m.assignment = nil
			g.answerSync(m, kerr.RebalanceInProgress)
		}
	}
	for _, m := range g.members {
		m.unsynced = false
	}
	wasEmpty := g.state == groupEmpty
	g.state = groupPreparing
	if delay := g.gs.cfg.InitialRebalanceDelay; wasEmpty && delay > 0 {
		g.gather(delay, g.rebalanceTimeout()-delay)
		return
	}
	g.arm(g.rebalanceTimeout(), g.completeJoin)
	g.tryCompleteJoin()
}

// gather waits for members, and again while more come and time remains.
func (g *group) gather(wait, remaining time.Duration) {
	g.gathering, g.grew = true, false
	g.arm(wait, func() {
		if g.grew && remaining > 0 {
			next := min(g.gs.cfg.InitialRebalanceDelay, remaining)
			g.gather(next, remaining-next)
			return
		}
		g.completeJoin()
	})
}

func (g *group) tryCompleteJoin() {
	if len(g.members) == 0 {
		g.completeJoin()
		return
	}
	if g.gathering {
		return
	}
	for _, m := range g.members {
		if m.waitingJoin == nil {
			return
		}
	}
	for _, p := range g.pending {
		if !p.overdue {
			return
		}
	}
	g.completeJoin()
}

// completeJoin ends the join phase with the members that have joined. Static
// members that have not stay until their session or the sync phase ends.
func (g *group) completeJoin() {
	g.gathering = false
	for _, m := range g.members {
		if m.waitingJoin == nil && m.instance == nil {
			g.remove(m, kerr.UnknownMemberID)
		}
	}
	if len(g.members) > 0 && !g.electLeader() {
		// Only static members are left and none has joined: their sessions
		// decide. A rebalance timeout may be next to nothing.
		g.arm(max(g.rebalanceTimeout(), time.Second), g.completeJoin)
		return
	}
	if g.generation == math.MaxInt32 {
		g.generation = 0
	}
	g.generation++
	if len(g.members) == 0 {
		g.state, g.protocol = groupEmpty, ""
		g.arm(emptyGroupRetention, g.expireEmpty)
		return
	}
	g.state, g.protocol = groupCompleting, g.selectProtocol()
	for _, m := range g.members {
		m.unsynced = true
		if m.waitingJoin != nil {
			m.joined = true
			g.answerJoin(m, nil)
		}
	}
	g.arm(g.rebalanceTimeout(), g.expireSync)
	g.gs.cfg.Logger.Debug().Str("group", g.name).Int32("generation", g.generation).Int("members", len(g.members)).
		Str("protocol", g.protocol).Msg("all members have joined; the leader assigns")
}

// electLeader keeps the leader if it has joined, or takes another that has.
func (g *group) electLeader() bool {
	if m := g.members[g.leader]; m != nil && m.waitingJoin != nil {
		return true
	}
	for id, m := range g.members {
		if m.waitingJoin != nil {
			g.leader = id
			return true
		}
	}
	return false
}

// selectProtocol counts one vote per member, for the first of its protocols
// that all members have. The leader's order decides between equals.
func (g *group) selectProtocol() string {
	votes := map[string]int{}
	for _, m := range g.members {
		for _, p := range m.protocols {
			if g.support[p.name] == len(g.members) {
				votes[p.name]++
				break
			}
		}
	}
	best := ""
	if leader := g.members[g.leader]; leader != nil {
		for _, p := range leader.protocols {
			if votes[p.name] > votes[best] {
				best = p.name
			}
		}
	}
	return best
}

// assign ends the sync phase with the leader's assignment. Unknown members in
// it are ignored, missing ones get an empty assignment.
func (g *group) assign(assignments []kmsg.SyncGroupRequestGroupAssignment) {
	for _, m := range g.members {
		m.assignment = nil
	}
	for _, a := range assignments {
		if m := g.members[a.MemberID]; m != nil {
			m.assignment = append([]byte(nil), a.MemberAssignment...) // it lies in the request's frame
		}
	}
	g.state = groupStable
	for _, m := range g.members {
		g.answerSync(m, nil)
	}
}

// expireSync removes the members that joined and then did not sync within the
// rebalance timeout.
func (g *group) expireSync() {
	removed := false
	for _, m := range g.members {
		if m.unsynced {
			removed = true
			g.gs.cfg.Logger.Info().Str("group", g.name).Str("member", m.id).
				Msg("a member joined but did not ask for its assignment in time and is removed from its group")
			g.remove(m, kerr.UnknownMemberID)
		}
	}
	if removed {
		g.rebalance()
	}
}

// expireEmpty forgets a group that has been empty for emptyGroupRetention,
// unless it has offsets.
func (g *group) expireEmpty() {
	if len(g.pending) > 0 || g.gs.cfg.Offsets.has(g.name) {
		g.arm(emptyGroupRetention, g.expireEmpty)
		return
	}
	g.kill(kerr.UnknownMemberID)
}

// rebalanceTimeout is the longest that a member asks for.
func (g *group) rebalanceTimeout() time.Duration {
	var d time.Duration
	for _, m := range g.members {
		d = max(d, m.rebalance)
	}
	return d
}

// arm sets the group's deadline in place of any other; f is called with mu
// held.
func (g *group) arm(d time.Duration, f func()) {
	g.disarm()
	seq := g.deadlineSeq
	g.deadline = time.AfterFunc(d, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.deadlineSeq == seq { // a timer that has fired cannot be stopped
			f()
		}
	})
}

func (g *group) disarm() {
	g.deadlineSeq++
	if g.deadline != nil {
		g.deadline.Stop()
	}
}
