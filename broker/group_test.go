package broker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestGroupFormsWithOneRebalance(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		joined := gs.form(joinReq(9, ""), joinReq(9, ""), joinReq(9, ""))
		gs.wantState("Stable")
		leader, others := byRole(joined)
		if len(others) != 2 || len(leader.Members) != 3 {
			t.Fatalf("%d followers, and the leader was told of %d members", len(others), len(leader.Members))
		}
		for _, r := range joined {
			if r.Generation != 1 || *r.Protocol != "range" || *r.ProtocolType != "consumer" || r.LeaderID != leader.MemberID {
				t.Errorf("joined: %+v", r)
			}
			wantCode(t, "heartbeat", gs.beat(r), nil)
		}
		for _, m := range leader.Members {
			if string(m.ProtocolMetadata) != "m" {
				t.Errorf("metadata %q", m.ProtocolMetadata)
			}
		}
	})
}

func TestGroupMemberJoinsAndLeaves(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		first := gs.form(joinReq(9, ""))[0]
		second := gs.startJoin(joinReq(9, gs.newID()))
		second.wantWaiting()
		gs.wantState("PreparingRebalance")
		wantCode(t, "heartbeat while preparing", gs.beat(first), kerr.RebalanceInProgress)
		both := gs.finish(gs.startJoin(joinReq(9, first.MemberID)), second)
		if both[0].Generation != 2 {
			t.Errorf("generation %d, want 2", both[0].Generation)
		}
		wantCode(t, "heartbeat of generation 1", gs.beat(first), kerr.IllegalGeneration)

		left := gs.leaveNow(5, both[0].MemberID, "nobody")
		wantCode(t, "leave", left.ErrorCode, nil)
		wantCode(t, "leave", left.Members[0].ErrorCode, nil)
		wantCode(t, "leave of nobody", left.Members[1].ErrorCode, kerr.UnknownMemberID)
		wantCode(t, "heartbeat after another left", gs.beat(both[1]), kerr.RebalanceInProgress)
		wantCode(t, "heartbeat after leaving", gs.beat(both[0]), kerr.UnknownMemberID)
		last := gs.finish(gs.startJoin(joinReq(9, both[1].MemberID)))[0]
		if last.Generation != 3 || len(last.Members) != 1 {
			t.Errorf("the last member: %+v", last)
		}
		wantCode(t, "leave, old version", gs.leaveNow(2, last.MemberID).ErrorCode, nil)
		gs.wantState("Empty")
		wantCode(t, "leave again, old version", gs.leaveNow(2, last.MemberID).ErrorCode, kerr.UnknownMemberID)

		time.Sleep(emptyGroupRetention)
		synctest.Wait()
		gs.wantState("Dead")
	})
}

// A leave in which nobody is a member must not disturb the others.
func TestGroupLeaveOfNobody(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		r := gs.form(joinReq(9, ""))[0]
		gs.leaveNow(5, "nobody")
		gs.leaveNow(5)
		wantCode(t, "heartbeat", gs.beat(r), nil)
		gs.newID()
		wantCode(t, "heartbeat with an id pending", gs.beat(r), nil)
	})
}

func TestGroupSessionExpiry(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		joined := gs.form(joinReq(9, ""), joinReq(9, ""))
		for range 5 { // only the first is heard of
			time.Sleep(testSession / 2)
			gs.beat(joined[0])
		}
		wantCode(t, "heartbeat of the silent member", gs.beat(joined[1]), kerr.UnknownMemberID)
		wantCode(t, "heartbeat of the other", gs.beat(joined[0]), kerr.RebalanceInProgress)
		last := gs.finish(gs.startJoin(joinReq(9, joined[0].MemberID)))[0]
		if len(last.Members) != 1 {
			t.Errorf("%d members, want 1", len(last.Members))
		}
		time.Sleep(testSession)
		synctest.Wait()
		gs.wantState("Empty")
	})
}

// A session lasts exactly its timeout from when the member was last heard of,
// and a member that waits for the others does not lose it.
func TestGroupSessionWhileWaiting(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		first := gs.form(joinReq(9, ""))[0]
		second := gs.startJoin(joinReq(9, gs.newID()))
		for range 5 {
			time.Sleep(testSession - time.Millisecond)
			wantCode(t, "heartbeat", gs.beat(first), kerr.RebalanceInProgress)
		}
		second.wantWaiting()
		joined := []*kmsg.JoinGroupResponse{}
		calls := []call[*kmsg.JoinGroupResponse]{gs.startJoin(joinReq(9, first.MemberID)), second}
		for _, c := range calls {
			joined = append(joined, c.got())
		}
		leader, others := byRole(joined)
		follower := gs.startSync(syncReq(others[0]))
		for range 5 {
			time.Sleep(testSession - time.Millisecond)
			wantCode(t, "the leader's heartbeat", gs.beat(leader), nil)
		}
		follower.wantWaiting()
		gs.syncNow(syncReq(leader, others[0].MemberID+"=x"))
		if r := follower.got(); string(r.MemberAssignment) != "x" {
			t.Errorf("sync: %+v", r)
		}
		time.Sleep(testSession - time.Millisecond)
		wantCode(t, "heartbeat", gs.beat(others[0]), nil)
	})
}

func TestGroupRebalanceTimeoutRemovesTheSlow(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		joined := gs.form(joinReq(9, ""), joinReq(9, ""))
		third := gs.startJoin(joinReq(9, gs.newID()))
		again := gs.startJoin(joinReq(9, joined[0].MemberID))
		for waited := time.Duration(0); waited < testRebalance-time.Second; waited += time.Second {
			time.Sleep(time.Second)
			wantCode(t, "heartbeat of the slow member", gs.beat(joined[1]), kerr.RebalanceInProgress)
		}
		third.wantWaiting()
		time.Sleep(time.Second)
		now := gs.finish(again, third)
		leader, _ := byRole(now)
		if len(leader.Members) != 2 {
			t.Errorf("%d members, want 2", len(leader.Members))
		}
		wantCode(t, "heartbeat of the slow member", gs.beat(joined[1]), kerr.UnknownMemberID)
		wantCode(t, "join of the slow member", gs.joinNow(joinReq(9, joined[1].MemberID)).ErrorCode, kerr.UnknownMemberID)
	})
}

func TestGroupSyncTimeoutRemovesTheSilent(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		a, b := joinReq(9, gs.newID()), joinReq(9, gs.newID())
		first, second := gs.startJoin(a), gs.startJoin(b)
		leader, others := byRole([]*kmsg.JoinGroupResponse{first.got(), second.got()})
		waiting := gs.startSync(syncReq(others[0]))
		for waited := time.Duration(0); waited < testRebalance; waited += time.Second {
			gs.beat(leader) // alive, but never assigns
			time.Sleep(time.Second)
		}
		wantCode(t, "sync", waiting.got().ErrorCode, kerr.RebalanceInProgress)
		wantCode(t, "heartbeat of the leader", gs.beat(leader), kerr.UnknownMemberID)
		last := gs.finish(gs.startJoin(joinReq(9, others[0].MemberID)))[0]
		if len(last.Members) != 1 || last.LeaderID != others[0].MemberID {
			t.Errorf("the group that is left: %+v", last)
		}
	})
}

func TestGroupMemberIDRequired(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		wantCode(t, "join with an id nobody gave", gs.joinNow(joinReq(9, "mine")).ErrorCode, kerr.UnknownMemberID)
		gs.wantState("Dead")
		if r := gs.joinNow(joinReq(3, "")); r.ErrorCode != 0 || r.MemberID == "" {
			t.Fatalf("join of version 3: %+v", r)
		}
	})
	groupTest(t, func(t *testing.T, gs *testGroups) { // a pending id ends with its session
		id := gs.newID()
		gs.wantState("Empty")
		time.Sleep(testSession)
		synctest.Wait()
		gs.wantState("Dead")
		wantCode(t, "join, too late", gs.joinNow(joinReq(9, id)).ErrorCode, kerr.UnknownMemberID)
	})
	groupTest(t, func(t *testing.T, gs *testGroups) { // and leaves by LeaveGroup
		id, join := gs.newID(), gs.startJoin(joinReq(9, gs.newID()))
		join.wantWaiting()
		wantCode(t, "leave", gs.leaveNow(5, id).Members[0].ErrorCode, nil)
		wantCode(t, "join", join.got().ErrorCode, nil)
	})
	groupTest(t, func(t *testing.T, gs *testGroups) { // it holds up others for its grace only
		id, join := gs.newID(), gs.startJoin(joinReq(9, gs.newID()))
		time.Sleep(pendingGrace - time.Millisecond)
		join.wantWaiting()
		time.Sleep(time.Millisecond)
		first := gs.finish(join)[0]
		second := gs.startJoin(joinReq(9, id)) // the id is good all the same
		gs.finish(gs.startJoin(joinReq(9, first.MemberID)), second)
	})
}

func TestGroupInitialRebalanceDelay(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		var calls []call[*kmsg.JoinGroupResponse]
		for range 4 { // each comes within the delay of the one before
			calls = append(calls, gs.startJoin(joinReq(9, gs.newID())))
			time.Sleep(2 * time.Second)
		}
		// Joins at 0, 2, 4 and 6 s; the wait ends at 3, is taken up at 3 and 6
		// because someone came, and ends at 9 or 12.
		for _, c := range calls {
			c.wantWaiting()
		}
		time.Sleep(4 * time.Second)
		joined := gs.finish(calls...)
		if joined[0].Generation != 1 {
			t.Errorf("generation %d, want 1", joined[0].Generation)
		}
	}, func(c *groupConfig) { c.InitialRebalanceDelay = 3 * time.Second })
	groupTest(t, func(t *testing.T, gs *testGroups) { // the rebalance timeout bounds it
		calls := []call[*kmsg.JoinGroupResponse]{}
		for range 6 {
			calls = append(calls, gs.startJoin(joinReq(9, gs.newID())))
			time.Sleep(10 * time.Second)
		}
		gs.finish(calls...)
	}, func(c *groupConfig) { c.InitialRebalanceDelay = 15 * time.Second })
}

func TestGroupProtocolSelection(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		joined := gs.form(
			joinReq(9, "", "sticky", "range", "mine"),
			joinReq(9, "", "range", "sticky"),
			joinReq(9, "", "theirs", "range", "sticky"),
		)
		if *joined[0].Protocol != "range" {
			t.Errorf("protocol %q, want range, which two of three prefer", *joined[0].Protocol)
		}
		other := joinReq(9, "", "mine", "theirs")
		wantCode(t, "join without a common protocol", gs.joinNow(other).ErrorCode, kerr.InconsistentGroupProtocol)
		other = joinReq(9, "", "range")
		other.ProtocolType = "connect"
		wantCode(t, "join of another type", gs.joinNow(other).ErrorCode, kerr.InconsistentGroupProtocol)
		for _, r := range joined {
			wantCode(t, "heartbeat", gs.beat(r), nil)
		}
		r := joined[0]
		req := syncReq(r)
		req.Protocol = kmsg.StringPtr("sticky")
		wantCode(t, "sync with another protocol", gs.syncNow(req).ErrorCode, kerr.InconsistentGroupProtocol)
		req = syncReq(r)
		req.ProtocolType = kmsg.StringPtr("connect")
		wantCode(t, "sync with another type", gs.syncNow(req).ErrorCode, kerr.InconsistentGroupProtocol)
		req = syncReq(r)
		req.Generation--
		wantCode(t, "sync of another generation", gs.syncNow(req).ErrorCode, kerr.IllegalGeneration)
		req = syncReq(r)
		req.MemberID = "nobody"
		wantCode(t, "sync of nobody", gs.syncNow(req).ErrorCode, kerr.UnknownMemberID)
	})
	groupTest(t, func(t *testing.T, gs *testGroups) { // a name said twice counts once
		joined := gs.form(joinReq(9, "", "x", "x", "range"))
		wantCode(t, "join", gs.joinNow(joinReq(9, "", "y")).ErrorCode, kerr.InconsistentGroupProtocol)
		second := gs.startJoin(joinReq(9, gs.newID(), "range"))
		second.wantWaiting()
		now := gs.finish(gs.startJoin(joinReq(9, joined[0].MemberID, "x", "x", "range")), second)
		if *now[0].Protocol != "range" {
			t.Errorf("protocol %q, want range", *now[0].Protocol)
		}
	})
}

func TestGroupRejoin(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		a, b := joinReq(9, gs.newID(), "range=1"), joinReq(9, gs.newID(), "range=2")
		first, second := gs.startJoin(a), gs.startJoin(b)
		leader, others := byRole([]*kmsg.JoinGroupResponse{first.got(), second.got()})
		follower := others[0]
		metadata := map[string]string{a.MemberID: "range=1", b.MemberID: "range=2"}

		// While the leader assigns, one who says the same gets the same.
		if r := gs.joinNow(joinReq(9, leader.MemberID, metadata[leader.MemberID])); r.ErrorCode != 0 || r.Generation != 1 || len(r.Members) != 2 {
			t.Errorf("the leader's join repeated: %+v", r)
		}
		sync := gs.startSync(syncReq(follower))
		gs.syncNow(syncReq(leader, follower.MemberID+"=x"))
		sync.got()

		// So does a follower later, and it can ask for its assignment again.
		if r := gs.joinNow(joinReq(9, follower.MemberID, metadata[follower.MemberID])); r.ErrorCode != 0 || r.Generation != 1 || len(r.Members) != 0 {
			t.Errorf("a follower's join repeated: %+v", r)
		}
		if r := gs.syncNow(syncReq(follower)); string(r.MemberAssignment) != "x" {
			t.Errorf("sync repeated: %+v", r)
		}
		// The leader's join is a rebalance, and so is one with news.
		again := gs.startJoin(joinReq(9, leader.MemberID, metadata[leader.MemberID]))
		again.wantWaiting()
		now := gs.finish(again, gs.startJoin(joinReq(9, follower.MemberID, metadata[follower.MemberID])))
		_, others = byRole(now)
		news := gs.startJoin(joinReq(9, others[0].MemberID, "range=3"))
		news.wantWaiting()
		gs.wantState("PreparingRebalance")
	})
}

func TestGroupJoinDuringSyncStartsOver(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		a, b := joinReq(9, gs.newID()), joinReq(9, gs.newID())
		first, second := gs.startJoin(a), gs.startJoin(b)
		_, others := byRole([]*kmsg.JoinGroupResponse{first.got(), second.got()})
		waiting := gs.startSync(syncReq(others[0]))
		third := gs.startJoin(joinReq(9, gs.newID()))
		wantCode(t, "sync", waiting.got().ErrorCode, kerr.RebalanceInProgress)
		wantCode(t, "sync while preparing", gs.syncNow(syncReq(others[0])).ErrorCode, kerr.RebalanceInProgress)
		gs.finish(gs.startJoin(a), gs.startJoin(b), third)
	})
}

func TestGroupLimits(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		for _, session := range []int32{-1, 0, 5999, 1_800_001} {
			req := joinReq(9, "")
			req.SessionTimeoutMillis = session
			wantCode(t, fmt.Sprint("session timeout ", session), gs.joinNow(req).ErrorCode, kerr.InvalidSessionTimeout)
		}
		for _, group := range []string{"", "\xff"} {
			req := joinReq(9, "")
			req.Group = group
			wantCode(t, "join", gs.joinNow(req).ErrorCode, kerr.InvalidGroupID)
			sync := kmsg.NewPtrSyncGroupRequest()
			sync.Group = group
			wantCode(t, "sync", gs.syncNow(sync).ErrorCode, kerr.InvalidGroupID)
			beat := kmsg.NewPtrHeartbeatRequest()
			beat.Group = group
			wantCode(t, "heartbeat", gs.heartbeat(beat).ErrorCode, kerr.InvalidGroupID)
			leave := kmsg.NewPtrLeaveGroupRequest()
			leave.Group = group
			wantCode(t, "leave", gs.leave(leave).ErrorCode, kerr.InvalidGroupID)
		}
		empty := joinReq(9, "")
		empty.Protocols = nil
		wantCode(t, "join without protocols", gs.joinNow(empty).ErrorCode, kerr.InconsistentGroupProtocol)
		empty = joinReq(9, "")
		empty.ProtocolType = ""
		wantCode(t, "join without a type", gs.joinNow(empty).ErrorCode, kerr.InconsistentGroupProtocol)
		if len(gs.byName) != 0 {
			t.Errorf("refused joins left %d groups behind", len(gs.byName))
		}
		endless := joinReq(2, "")
		endless.RebalanceTimeoutMillis = -1
		wantCode(t, "join with a negative rebalance timeout", gs.joinNow(endless).ErrorCode, nil)
	})
	groupTest(t, func(t *testing.T, gs *testGroups) {
		joined := gs.form(joinReq(9, ""), static(joinReq(9, ""), "s"))
		gs.newID() // the third place
		wantCode(t, "join of a full group", gs.joinNow(joinReq(9, "")).ErrorCode, kerr.GroupMaxSizeReached)
		wantCode(t, "join of a full group", gs.joinNow(joinReq(0, "")).ErrorCode, kerr.GroupMaxSizeReached)
		wantCode(t, "a static member's return", gs.joinNow(static(joinReq(9, ""), "s")).ErrorCode, nil)
		wantCode(t, "heartbeat", gs.beat(joined[0]), nil)
	}, func(c *groupConfig) { c.MaxSize = 3 })
}

func TestGroupUnknownMembersInAssignmentAreIgnored(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		r := gs.joinNow(joinReq(3, ""))
		got := gs.syncNow(syncReq(r, "nobody=x", "=y"))
		if got.ErrorCode != 0 || len(got.MemberAssignment) != 0 {
			t.Errorf("sync: %+v, want an empty assignment", got)
		}
	})
}

// A client that gives up while it waits does not hold up the others.
func TestGroupConnectionEndsWhileWaiting(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		first := gs.form(joinReq(9, ""))[0]
		ctx, hangUp := context.WithCancel(t.Context())
		id := gs.newID()
		gone := start(t, func() *kmsg.JoinGroupResponse { return gs.join(ctx, joinReq(9, id), clientInfo{}) })
		gone.wantWaiting()
		hangUp()
		gone.got()
		wantCode(t, "heartbeat", gs.beat(first), kerr.RebalanceInProgress)
		first = gs.finish(gs.startJoin(joinReq(9, first.MemberID)))[0]
		if len(first.Members) != 1 {
			t.Errorf("%d members, want 1", len(first.Members))
		}
		// One that has been a member may come back.
		second := gs.startJoin(joinReq(9, gs.newID()))
		ctx, hangUp = context.WithCancel(t.Context())
		gone = start(t, func() *kmsg.JoinGroupResponse {
			return gs.join(ctx, joinReq(9, first.MemberID, "range=new"), clientInfo{})
		})
		leader, others := byRole([]*kmsg.JoinGroupResponse{gone.got(), second.got()})
		syncing := start(t, func() *kmsg.SyncGroupResponse { return gs.sync(ctx, syncReq(others[0])) })
		syncing.wantWaiting()
		hangUp()
		syncing.got()
		gs.syncNow(syncReq(leader, others[0].MemberID+"=x"))
		if r := gs.syncNow(syncReq(others[0])); string(r.MemberAssignment) != "x" {
			t.Errorf("sync after coming back: %+v", r)
		}
	})
}

// A member that was one before keeps its place when its connection ends.
func TestGroupConnectionEndsWhileRejoining(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		joined := gs.form(joinReq(9, ""), joinReq(9, ""))
		ctx, hangUp := context.WithCancel(t.Context())
		gone := start(t, func() *kmsg.JoinGroupResponse {
			return gs.join(ctx, joinReq(9, joined[0].MemberID, "range=new"), clientInfo{})
		})
		gone.wantWaiting()
		hangUp()
		gone.got()
		other := gs.startJoin(joinReq(9, joined[1].MemberID))
		other.wantWaiting()
		gs.finish(other, gs.startJoin(joinReq(9, joined[0].MemberID)))
	})
}

// An id that is made from the client's fits Kafka's strings.
func TestGroupMemberIDIsShort(t *testing.T) {
	m := &member{client: clientInfo{ID: strings.Repeat("ü", 16_000)}}
	if id := newMemberID(m); len(id) > 200 || !utf8.ValidString(id) {
		t.Errorf("%d bytes: %q", len(id), id)
	}
}

// The older of two joins of one member is answered, not forgotten.
func TestGroupJoinTwice(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		first := gs.form(joinReq(9, ""))[0]
		id := gs.newID()
		older := gs.startJoin(joinReq(9, id))
		newer := gs.startJoin(joinReq(9, id))
		wantCode(t, "the older join", older.got().ErrorCode, kerr.RebalanceInProgress)
		gs.finish(newer, gs.startJoin(joinReq(9, first.MemberID)))
	})
}

func TestGroupCoordinatorCloses(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		first := gs.form(joinReq(9, ""))[0]
		join := gs.startJoin(joinReq(9, gs.newID()))
		other := joinReq(3, "")
		other.Group = "h"
		gs.joinNow(other)
		second := joinReq(3, "")
		second.Group = "h"
		joinOther := gs.startJoin(second)
		gs.close()
		wantCode(t, "a waiting join", join.got().ErrorCode, kerr.CoordinatorNotAvailable)
		wantCode(t, "a waiting join", joinOther.got().ErrorCode, kerr.CoordinatorNotAvailable)
		wantCode(t, "heartbeat", gs.beat(first), kerr.CoordinatorNotAvailable)
		wantCode(t, "join", gs.joinNow(joinReq(9, "")).ErrorCode, kerr.CoordinatorNotAvailable)
		wantCode(t, "sync", gs.syncNow(syncReq(first)).ErrorCode, kerr.CoordinatorNotAvailable)
		wantCode(t, "leave", gs.leaveNow(5, first.MemberID).ErrorCode, kerr.CoordinatorNotAvailable)
		wantCode(t, "list", gs.list(kmsg.NewPtrListGroupsRequest()).ErrorCode, kerr.CoordinatorNotAvailable)
		wantCode(t, "describe", gs.describeGroup(6, "g").ErrorCode, kerr.CoordinatorNotAvailable)
		wantCode(t, "delete", code(gs.deleteGroup(t.Context(), "g")), kerr.CoordinatorNotAvailable)
		wantCode(t, "commit", code(gs.checkCommit(kmsg.NewPtrOffsetCommitRequest())), kerr.CoordinatorNotAvailable)
		gs.close()
	})
}

// Every version of a whole life is answered with what encodes and decodes.
func TestGroupEveryVersion(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		again := func(r kmsg.Response) {
			t.Helper()
			bytes := r.AppendTo(nil)
			back := r.RequestKind().ResponseKind()
			back.SetVersion(r.GetVersion())
			if err := back.ReadFrom(bytes); err != nil {
				t.Errorf("%T of version %d: %v", r, r.GetVersion(), err)
			} else if !slices.Equal(back.AppendTo(nil), bytes) {
				t.Errorf("%T of version %d changes by coding", r, r.GetVersion())
			}
		}
		for v := range int16(10) {
			id := ""
			if v >= 4 {
				r := gs.joinNow(joinReq(v, ""))
				again(r)
				id = r.MemberID
			}
			joined := gs.joinNow(joinReq(v, id))
			again(joined)
			wantCode(t, fmt.Sprint("join of version ", v), joined.ErrorCode, nil)
			req := syncReq(joined, joined.MemberID+"=x")
			req.Version = min(v, 5)
			again(gs.syncNow(req))
			beat := kmsg.NewPtrHeartbeatRequest()
			beat.Version, beat.Group, beat.MemberID, beat.Generation = min(v, 4), "g", joined.MemberID, joined.Generation
			again(gs.heartbeat(beat))
			describe := kmsg.NewPtrDescribeGroupsRequest()
			describe.Version, describe.Groups, describe.IncludeAuthorizedOperations = min(v, 6), []string{"g", "unknown"}, true
			again(gs.describe(describe))
			list := kmsg.NewPtrListGroupsRequest()
			list.Version = min(v, 5)
			again(gs.list(list))
			find := kmsg.NewPtrFindCoordinatorRequest()
			find.Version, find.CoordinatorKey, find.CoordinatorKeys = min(v, 6), "g", []string{"g", "h"}
			again(gs.findCoordinator(find, brokerNode{ID: 1, Host: "localhost", Port: 9999}))
			find.CoordinatorType = 9
			again(gs.findCoordinator(find, brokerNode{ID: 1, Host: "localhost", Port: 9999}))
			commit := kmsg.NewPtrOffsetCommitRequest()
			commit.Version, commit.Group, commit.MemberID, commit.Generation = 2+v%9, "g", joined.MemberID, joined.Generation
			commit.Topics = commitTopics("a", topicID{1}, 0, 1)
			again(gs.commit(t.Context(), commit))
			fetch := kmsg.NewPtrOffsetFetchRequest()
			fetch.Version, fetch.Group = 1+v, "g"
			fetch.Groups = []kmsg.OffsetFetchRequestGroup{{Group: "g"}}
			again(gs.fetchOffsets(fetch))
			left := gs.leaveNow(min(v, 5), joined.MemberID)
			again(left)
			wantCode(t, fmt.Sprint("leave of version ", v), left.ErrorCode, nil)
			remove := kmsg.NewPtrDeleteGroupsRequest()
			remove.Version, remove.Groups = min(v, 2), []string{"g", "unknown"}
			removed := gs.delete(t.Context(), remove)
			again(removed)
			wantCode(t, "delete", removed.Groups[0].ErrorCode, nil)
		}
	})
}
