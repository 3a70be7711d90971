package broker

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// beatAs is a heartbeat of a static member.
func (gs *testGroups) beatAs(instance string, r *kmsg.JoinGroupResponse) int16 {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.Generation = 4, "g", r.MemberID, r.Generation
	req.InstanceID = &instance
	return gs.heartbeat(req).ErrorCode
}

func TestGroupStaticMemberReturns(t *testing.T) {
	for _, tt := range []struct {
		name     string
		version  int16
		leader   bool // whether the one that returns leads
		skip     bool
		keepLead bool // whether the returning leader is told that it leads
	}{
		{"leader", 9, true, true, true},
		{"follower", 9, false, false, false},
		{"leader, old version", 8, true, false, false},
		{"follower, old version", 5, false, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			groupTest(t, func(t *testing.T, gs *testGroups) {
				joined := gs.form(static(joinReq(tt.version, ""), "one"), static(joinReq(tt.version, ""), "two"))
				instance := map[string]string{joined[0].MemberID: "one", joined[1].MemberID: "two"}
				leader, others := byRole(joined)
				old, other := others[0], leader
				if tt.leader {
					old, other = leader, others[0]
				}
				name := instance[old.MemberID]

				now := gs.joinNow(static(joinReq(tt.version, ""), name))
				wantCode(t, "return", now.ErrorCode, nil)
				if now.MemberID == old.MemberID || now.Generation != old.Generation {
					t.Errorf("returned as %q in generation %d, was %q in %d", now.MemberID, now.Generation, old.MemberID, old.Generation)
				}
				if now.SkipAssignment != tt.skip {
					t.Errorf("skip assignment: %v", now.SkipAssignment)
				}
				if leads := now.LeaderID == now.MemberID; leads != tt.keepLead || leads != (len(now.Members) == 2) {
					t.Errorf("told that it leads: %v, of %d members", leads, len(now.Members))
				}
				wantCode(t, "heartbeat of the other", gs.beat(other), nil)
				wantCode(t, "heartbeat of the old id", gs.beatAs(name, old), kerr.FencedInstanceID)
				wantCode(t, "heartbeat of the old id alone", gs.beat(old), kerr.UnknownMemberID)
				wantCode(t, "heartbeat of the new id", gs.beatAs(name, now), nil)
				if r := gs.syncNow(syncReq(now)); string(r.MemberAssignment) != "for "+old.MemberID {
					t.Errorf("assignment %q is not the old one", r.MemberAssignment)
				}
				wantCode(t, "join with the old id", gs.joinNow(static(joinReq(tt.version, old.MemberID), name)).ErrorCode, kerr.FencedInstanceID)
				wantCode(t, "join as an unknown instance", gs.joinNow(static(joinReq(tt.version, old.MemberID), "three")).ErrorCode, kerr.UnknownMemberID)
			})
		})
	}
}

// A returning member whose protocols lead to another choice is a rebalance, and
// so is one that returns while the leader assigns.
func TestGroupStaticMemberReturnsWithRebalance(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		gs.form(static(joinReq(9, "", "range", "sticky"), "one"))
		again := gs.joinNow(static(joinReq(9, "", "sticky", "range"), "one"))
		if again.Generation != 2 || *again.Protocol != "sticky" {
			t.Errorf("returned: %+v", again)
		}
	})
	groupTest(t, func(t *testing.T, gs *testGroups) {
		first := gs.joinNow(static(joinReq(9, ""), "one"))
		again := gs.joinNow(static(joinReq(9, ""), "one")) // before the first's sync
		if again.Generation != 2 || again.LeaderID != again.MemberID || again.SkipAssignment {
			t.Errorf("returned: %+v", again)
		}
		wantCode(t, "sync of the old id", gs.syncNow(syncReq(first)).ErrorCode, kerr.UnknownMemberID)
		gs.syncNow(syncReq(again))
		gs.wantState("Stable")
	})
}

// Whoever waits under the old id is fenced at once.
func TestGroupStaticMemberFencesWaiting(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		first := gs.form(joinReq(9, ""))[0]
		old := gs.startJoin(static(joinReq(9, ""), "one"))
		now := gs.startJoin(static(joinReq(9, ""), "one"))
		wantCode(t, "the old join", old.got().ErrorCode, kerr.FencedInstanceID)
		joined := []*kmsg.JoinGroupResponse{}
		for _, c := range []call[*kmsg.JoinGroupResponse]{gs.startJoin(joinReq(9, first.MemberID)), now} {
			joined = append(joined, c.got())
		}
		_, others := byRole(joined)
		if others[0].MemberID != joined[1].MemberID {
			t.Fatal("the dynamic member no longer leads")
		}
		sync := gs.startSync(syncReq(joined[1]))
		gs.startJoin(static(joinReq(9, ""), "one")).wantWaiting()
		wantCode(t, "the old sync", sync.got().ErrorCode, kerr.FencedInstanceID)
	})
}

// A static member that is away keeps its place until its session ends, and a
// rebalance goes on without it.
func TestGroupStaticMemberIsAway(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		long := static(joinReq(9, ""), "away")
		long.SessionTimeoutMillis = int32((3 * testRebalance).Milliseconds())
		first := joinReq(9, gs.newID())
		away, joining := gs.startJoin(long), gs.startJoin(first)
		joined := gs.finish(away, joining)
		again := gs.startJoin(joinReq(9, first.MemberID, "range=new"))
		time.Sleep(testRebalance)
		synctest.Wait()
		now := again.got()
		wantCode(t, "join", now.ErrorCode, nil)
		if now.LeaderID != now.MemberID || len(now.Members) != 2 {
			t.Errorf("the member that is there should lead two: %+v", now)
		}
		if r := gs.syncNow(syncReq(now, joined[0].MemberID+"=kept")); r.ErrorCode != 0 {
			t.Errorf("sync: %+v", r)
		}
		back := gs.joinNow(static(joinReq(9, ""), "away"))
		if r := gs.syncNow(syncReq(back)); string(r.MemberAssignment) != "kept" {
			t.Errorf("back with %q", r.MemberAssignment)
		}
	})
	groupTest(t, func(t *testing.T, gs *testGroups) { // all are away: sessions decide
		r := gs.form(static(joinReq(9, ""), "away"))[0]
		id := gs.newID()
		joining := gs.startJoin(joinReq(9, id))
		joining.wantWaiting()
		gs.leaveNow(5, id)
		wantCode(t, "the join of who left", joining.got().ErrorCode, kerr.UnknownMemberID)
		gs.wantState("PreparingRebalance")
		wantCode(t, "heartbeat", gs.beatAs("away", r), kerr.RebalanceInProgress)
		time.Sleep(testSession)
		synctest.Wait()
		gs.wantState("Empty")
	})
	groupTest(t, func(t *testing.T, gs *testGroups) { // also when they outlast the join phase
		long := static(joinReq(9, ""), "away")
		long.SessionTimeoutMillis = int32((3 * testRebalance).Milliseconds())
		gs.form(long)
		id := gs.newID()
		joining := gs.startJoin(joinReq(9, id))
		gs.leaveNow(5, id)
		joining.got()
		time.Sleep(2 * testRebalance)
		synctest.Wait()
		gs.wantState("PreparingRebalance")
		time.Sleep(testRebalance)
		synctest.Wait()
		gs.wantState("Empty")
	})
}

func TestGroupStaticMemberLeaves(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		r := gs.form(static(joinReq(9, ""), "one"))[0]
		leave := func(id, instance string) int16 {
			req := kmsg.NewPtrLeaveGroupRequest()
			req.Version, req.Group = 5, "g"
			req.Members = []kmsg.LeaveGroupRequestMember{{MemberID: id, InstanceID: &instance}}
			return gs.leave(req).Members[0].ErrorCode
		}
		wantCode(t, "leave with another id", leave("other", "one"), kerr.FencedInstanceID)
		wantCode(t, "leave of an unknown instance", leave("", "two"), kerr.UnknownMemberID)
		wantCode(t, "leave of an unknown instance", leave(r.MemberID, "two"), kerr.UnknownMemberID)
		wantCode(t, "heartbeat", gs.beat(r), nil)
		wantCode(t, "leave by instance alone", leave("", "one"), nil)
		gs.wantState("Empty")
		wantCode(t, "leave again", leave(r.MemberID, "one"), kerr.UnknownMemberID)
	})
}
