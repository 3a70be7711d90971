package broker

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// FuzzGroup lets up to eight clients, some static, do what the input says, in
// any order and with anything said before. Whatever they do, the group's
// invariants hold after each step, the generation never goes back, at most one
// member believes that it leads a generation, and when they all fall silent
// every request is answered and the group is forgotten.
func FuzzGroup(f *testing.F) {
	f.Add([]byte("\x00\x08\x10\x01\x09\x11"))
	f.Add([]byte{0, 0, 1, 1, 2, 2, 3, 3, 0x40, 0x41, 0x80, 0x81, 0xc0, 0xc1})
	f.Add([]byte{4, 12, 5, 13, 4, 12, 0xe4, 0x2c, 6, 14, 0xff, 0xff, 7, 15, 1, 3, 5})
	f.Add([]byte{0x00, 0x00, 0x20, 0x08, 0x08, 0x28, 0x00, 0x60, 0xe7, 0x10, 0x30, 0xa0, 0xc5, 0x04, 0x44, 0x0c, 0x4c})
	f.Fuzz(func(t *testing.T, ops []byte) {
		groupTest(t, func(t *testing.T, gs *testGroups) {
			fz := &fuzzGroup{t: t, gs: gs, leaders: map[int32]string{}}
			if len(ops) > 200 {
				ops = ops[:200]
			}
			for _, op := range ops {
				fz.step(int(op&7), int(op>>3&7), int(op>>6))
				synctest.Wait()
				fz.collect()
				fz.check()
			}
			if err := gs.cfg.Offsets.restore(nil); err != nil { // they would keep the group
				t.Error(err)
			}
			time.Sleep(2*testRebalance + 2*testSession + 2*emptyGroupRetention)
			synctest.Wait()
			fz.collect()
			for i, c := range fz.clients {
				if c.joining != nil || c.syncing != nil {
					t.Errorf("client %d waits forever", i)
				}
			}
			if len(gs.byName) != 0 {
				t.Errorf("the group is still there: %+v", gs.byName["g"])
			}
		})
	})
}

type fuzzGroup struct {
	t       *testing.T
	gs      *testGroups
	clients [8]struct {
		id       string
		joined   kmsg.JoinGroupResponse
		joining  chan *kmsg.JoinGroupResponse
		syncing  chan *kmsg.SyncGroupResponse
		instance *string
	}
	generation int32
	leaders    map[int32]string
}

// step is one action of client n, with a variation.
func (f *fuzzGroup) step(n, action, variation int) {
	c := &f.clients[n]
	if n >= 4 {
		c.instance = kmsg.StringPtr(fmt.Sprint("static-", n/2)) // two clients each claim it
	}
	switch action {
	case 0, 1: // join, with the id one was given or without
		if c.joining != nil {
			return
		}
		protocols := [][]string{{"x=1", "y"}, {"y", "x"}, {"x=2"}, {"z", "x", "z"}}[variation]
		id := c.id
		if action == 1 {
			id = ""
		}
		req := joinReq([]int16{9, 4, 3, 9}[variation], id, protocols...)
		req.InstanceID = c.instance
		c.joining = make(chan *kmsg.JoinGroupResponse, 1)
		done := c.joining
		go func() { done <- f.gs.join(f.t.Context(), req, clientInfo{ID: fmt.Sprint(n)}) }()
	case 2: // sync, as the leader with an assignment for everyone it knows
		if c.syncing != nil {
			return
		}
		req := syncReq(&c.joined)
		req.InstanceID = c.instance
		for _, m := range c.joined.Members {
			req.GroupAssignment = append(req.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{MemberID: m.MemberID, MemberAssignment: []byte("a")})
		}
		c.syncing = make(chan *kmsg.SyncGroupResponse, 1)
		done := c.syncing
		go func() { done <- f.gs.sync(f.t.Context(), req) }()
	case 3:
		if c.instance != nil {
			f.gs.beatAs(*c.instance, &c.joined)
		} else {
			f.gs.beat(&c.joined)
		}
	case 4:
		f.gs.leaveNow([]int16{5, 0, 3, 5}[variation], c.id)
	case 5:
		f.gs.commitNow(c.joined.MemberID, c.joined.Generation)
	case 6:
		time.Sleep([]time.Duration{time.Second, pendingGrace, testSession, testRebalance}[variation])
	case 7:
		f.gs.describeGroup(6, "g")
		if e := f.gs.deleteGroup(f.t.Context(), "g"); e != nil && e != kerr.NonEmptyGroup && e != kerr.GroupIDNotFound {
			f.t.Errorf("delete: %v", e)
		}
	}
}

// collect takes the answers that have come.
func (f *fuzzGroup) collect() {
	for i := range f.clients {
		c := &f.clients[i]
		select {
		case r := <-c.joining:
			c.joining = nil
			if r.MemberID != "" {
				c.id = r.MemberID
			}
			if r.ErrorCode != 0 {
				break
			}
			c.joined = *r
			if r.LeaderID == r.MemberID && !r.SkipAssignment {
				if other, ok := f.leaders[r.Generation]; ok && other != r.MemberID {
					f.t.Errorf("%s and %s both lead generation %d", other, r.MemberID, r.Generation)
				}
				f.leaders[r.Generation] = r.MemberID
			}
		default:
		}
		select {
		case <-c.syncing:
			c.syncing = nil
		default:
		}
	}
}

// check holds the group against its invariants.
func (f *fuzzGroup) check() {
	f.t.Helper()
	g, e := f.gs.lock("g", false)
	if e != nil {
		f.generation, f.leaders = 0, map[int32]string{} // forgotten: it counts anew
		return
	}
	defer g.mu.Unlock()
	if g.generation < f.generation {
		f.t.Errorf("generation %d after %d", g.generation, f.generation)
	}
	f.generation = g.generation
	if (len(g.members) == 0) != (g.state == groupEmpty) {
		f.t.Errorf("%s with %d members", g.state, len(g.members))
	}
	support, statics := map[string]int{}, 0
	for id, m := range g.members {
		if id != m.id {
			f.t.Errorf("member %s is filed as %s", m.id, id)
		}
		if m.instance != nil {
			statics++
			if g.static[*m.instance] != m {
				f.t.Errorf("instance %s is not filed", *m.instance)
			}
		}
		if m.waitingJoin != nil && g.state != groupPreparing || m.waitingSync != nil && g.state != groupCompleting {
			f.t.Errorf("%s waits while %s", id, g.state)
		}
		for _, p := range m.protocols {
			support[p.name]++
		}
	}
	if statics != len(g.static) {
		f.t.Errorf("%d static members, %d filed", statics, len(g.static))
	}
	common := false
	for name, n := range support {
		common = common || n == len(g.members)
		if g.support[name] != n {
			f.t.Errorf("%d members have protocol %s, %d are counted", n, name, g.support[name])
		}
	}
	if len(support) != len(g.support) || len(g.members) > 0 && !common {
		f.t.Errorf("protocols %v, counted %v, of %d members", support, g.support, len(g.members))
	}
	if g.state == groupCompleting || g.state == groupStable {
		if g.members[g.leader] == nil || g.support[g.protocol] != len(g.members) {
			f.t.Errorf("%s with leader %q, protocol %q", g.state, g.leader, g.protocol)
		}
	}
}
