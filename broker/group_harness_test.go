package broker

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Timeouts of the members in these tests. The clock is that of a synctest
// bubble: it stands still while anything runs, so every wait is exact.
const (
	testSession   = 10 * time.Second
	testRebalance = 60 * time.Second
)

// testGroups is a coordinator on a journal that is a slice.
type testGroups struct {
	*groups
	t       *testing.T
	journal [][]byte
	broken  error // of Propose
	topics  map[string]topicID
}

// groupTest runs f in a bubble with a coordinator that knows topics "a" and "b"
// of four partitions each. The bubble fails the test if a goroutine is left.
func groupTest(t *testing.T, f func(t *testing.T, gs *testGroups), change ...func(*groupConfig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		gs := &testGroups{t: t, topics: map[string]topicID{"a": {1}, "b": {2}}}
		cfg := groupConfig{Logger: zerolog.New(zerolog.NewTestWriter(t)), Offsets: newGroupOffsets()}
		cfg.Propose = func(_ context.Context, entry []byte) error {
			if gs.broken != nil {
				return gs.broken
			}
			gs.journal = append(gs.journal, entry)
			return cfg.Offsets.apply(entry)
		}
		cfg.TopicID = func(name string) (topicID, bool) {
			id, ok := gs.topics[name]
			return id, ok
		}
		cfg.TopicName = func(id topicID) (string, bool) {
			for name, have := range gs.topics {
				if have == id {
					return name, true
				}
			}
			return "", false
		}
		cfg.PartitionExists = func(topic string, partition int32) bool {
			_, ok := gs.topics[topic]
			return ok && partition >= 0 && partition < 4
		}
		for _, c := range change {
			c(&cfg)
		}
		gs.groups = newGroups(cfg)
		defer gs.close()
		f(t, gs)
	})
}

func wantCode(t *testing.T, what string, got int16, want *kerr.Error) {
	t.Helper()
	if got != code(want) {
		t.Errorf("%s: %v, want %v", what, kerr.ErrorForCode(got), kerr.ErrorForCode(code(want)))
	}
}

// joinReq is a join of group "g" with protocols "name" or "name=metadata".
func joinReq(version int16, id string, protocols ...string) *kmsg.JoinGroupRequest {
	req := kmsg.NewPtrJoinGroupRequest()
	req.Version, req.Group, req.MemberID, req.ProtocolType = version, "g", id, "consumer"
	req.SessionTimeoutMillis = int32(testSession.Milliseconds())
	req.RebalanceTimeoutMillis = int32(testRebalance.Milliseconds())
	if len(protocols) == 0 {
		protocols = []string{"range=m"}
	}
	for _, p := range protocols {
		name, metadata, _ := strings.Cut(p, "=")
		req.Protocols = append(req.Protocols, kmsg.JoinGroupRequestProtocol{Name: name, Metadata: []byte(metadata)})
	}
	return req
}

func static(req *kmsg.JoinGroupRequest, instance string) *kmsg.JoinGroupRequest {
	req.InstanceID = &instance
	return req
}

// call is a request in progress.
type call[R any] struct {
	t    *testing.T
	done chan R
}

// got returns the answer, which must have come or come without waiting.
func (c call[R]) got() R {
	c.t.Helper()
	synctest.Wait()
	select {
	case r := <-c.done:
		return r
	default:
		c.t.Fatal("the request still waits")
		panic("unreachable")
	}
}

func (c call[R]) wantWaiting() {
	c.t.Helper()
	synctest.Wait()
	if len(c.done) > 0 {
		c.t.Fatalf("the request was answered: %+v", <-c.done)
	}
}

func start[R any](t *testing.T, f func() R) call[R] {
	c := call[R]{t, make(chan R, 1)}
	go func() { c.done <- f() }()
	synctest.Wait()
	return c
}

func (gs *testGroups) startJoin(req *kmsg.JoinGroupRequest) call[*kmsg.JoinGroupResponse] {
	return start(gs.t, func() *kmsg.JoinGroupResponse {
		return gs.join(gs.t.Context(), req, clientInfo{ID: "client", Host: "/127.0.0.1"})
	})
}

// joinNow joins and must not have to wait.
func (gs *testGroups) joinNow(req *kmsg.JoinGroupRequest) *kmsg.JoinGroupResponse {
	gs.t.Helper()
	return gs.startJoin(req).got()
}

// newID obtains a member id as clients since version 4 do.
func (gs *testGroups) newID() string {
	gs.t.Helper()
	r := gs.joinNow(joinReq(9, ""))
	wantCode(gs.t, "join without an id", r.ErrorCode, kerr.MemberIDRequired)
	if r.MemberID == "" {
		gs.t.Fatal("no member id")
	}
	return r.MemberID
}

func syncReq(r *kmsg.JoinGroupResponse, assignments ...string) *kmsg.SyncGroupRequest {
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version, req.Group, req.MemberID, req.Generation = 5, "g", r.MemberID, r.Generation
	req.ProtocolType, req.Protocol = r.ProtocolType, r.Protocol
	for _, a := range assignments {
		id, value, _ := strings.Cut(a, "=")
		req.GroupAssignment = append(req.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{MemberID: id, MemberAssignment: []byte(value)})
	}
	return req
}

func (gs *testGroups) startSync(req *kmsg.SyncGroupRequest) call[*kmsg.SyncGroupResponse] {
	return start(gs.t, func() *kmsg.SyncGroupResponse { return gs.sync(gs.t.Context(), req) })
}

func (gs *testGroups) syncNow(req *kmsg.SyncGroupRequest) *kmsg.SyncGroupResponse {
	gs.t.Helper()
	return gs.startSync(req).got()
}

func (gs *testGroups) beat(r *kmsg.JoinGroupResponse) int16 {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.Generation = 4, "g", r.MemberID, r.Generation
	return gs.heartbeat(req).ErrorCode
}

func (gs *testGroups) leaveNow(version int16, ids ...string) *kmsg.LeaveGroupResponse {
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Version, req.Group = version, "g"
	for _, id := range ids {
		req.MemberID = id
		req.Members = append(req.Members, kmsg.LeaveGroupRequestMember{MemberID: id})
	}
	return gs.leave(req)
}

// form makes a stable group of the joins' members and returns what each was
// told, in order. Each member's assignment is "for " and its id.
func (gs *testGroups) form(joins ...*kmsg.JoinGroupRequest) []*kmsg.JoinGroupResponse {
	gs.t.Helper()
	hold := gs.newID() // until all have joined, so that there is one rebalance
	var calls []call[*kmsg.JoinGroupResponse]
	for _, j := range joins {
		if j.MemberID == "" && j.InstanceID == nil && j.Version >= 4 {
			j.MemberID = gs.newID()
		}
		calls = append(calls, gs.startJoin(j))
	}
	gs.leaveNow(5, hold)
	return gs.finish(calls...)
}

// finish takes joins that are being answered through SyncGroup.
func (gs *testGroups) finish(calls ...call[*kmsg.JoinGroupResponse]) []*kmsg.JoinGroupResponse {
	gs.t.Helper()
	var joined []*kmsg.JoinGroupResponse
	var syncs []call[*kmsg.SyncGroupResponse]
	var assignments []string
	var leader *kmsg.JoinGroupResponse
	for _, c := range calls {
		r := c.got()
		wantCode(gs.t, "join", r.ErrorCode, nil)
		joined = append(joined, r)
		assignments = append(assignments, r.MemberID+"=for "+r.MemberID)
		if r.LeaderID == r.MemberID {
			leader = r
		} else {
			syncs = append(syncs, gs.startSync(syncReq(r)))
		}
	}
	if leader == nil {
		gs.t.Fatal("no leader")
	}
	for _, c := range syncs {
		c.wantWaiting()
	}
	if r := gs.syncNow(syncReq(leader, assignments...)); r.ErrorCode != 0 || string(r.MemberAssignment) != "for "+leader.MemberID {
		gs.t.Fatalf("the leader's sync: %+v", r)
	}
	for _, c := range syncs {
		if r := c.got(); r.ErrorCode != 0 || !strings.HasPrefix(string(r.MemberAssignment), "for ") {
			gs.t.Fatalf("a follower's sync: %+v", r)
		}
	}
	return joined
}

func (gs *testGroups) wantState(want string) {
	gs.t.Helper()
	if got := gs.describeGroup(6, "g"); got.State != want {
		gs.t.Errorf("the group is %s, want %s", got.State, want)
	}
}

// notLeader returns the members but the leader, and the leader.
func byRole(joined []*kmsg.JoinGroupResponse) (leader *kmsg.JoinGroupResponse, others []*kmsg.JoinGroupResponse) {
	for _, r := range joined {
		if r.LeaderID == r.MemberID {
			leader = r
		} else {
			others = append(others, r)
		}
	}
	return leader, others
}

var errTest = errors.New("the test's error")
