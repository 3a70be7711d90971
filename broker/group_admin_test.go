package broker

import (
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestDescribeGroups(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		if d := gs.describeGroup(5, "g"); d.State != "Dead" || d.ErrorCode != 0 {
			t.Errorf("unknown group: %+v", d)
		}
		wantCode(t, "unknown group", gs.describeGroup(6, "g").ErrorCode, kerr.GroupIDNotFound)
		wantCode(t, "commit", gs.commitNow("", -1), nil)
		if d := gs.describeGroup(6, "g"); d.State != "Empty" || d.ErrorCode != 0 {
			t.Errorf("group with offsets only: %+v", d)
		}
		r := gs.joinNow(static(joinReq(9, ""), "one"))
		if d := gs.describeGroup(6, "g"); d.State != "CompletingRebalance" || d.Protocol != "" || d.Members[0].ProtocolMetadata != nil {
			t.Errorf("group without assignments: %+v", d)
		}
		gs.syncNow(syncReq(r, r.MemberID+"=x"))
		req := kmsg.NewPtrDescribeGroupsRequest()
		req.Version, req.Groups, req.IncludeAuthorizedOperations = 6, []string{"g", "\xff"}, true
		resp := gs.describe(req)
		d := resp.Groups[0]
		if d.State != "Stable" || d.ProtocolType != "consumer" || d.Protocol != "range" || len(d.Members) != 1 || d.AuthorizedOperations != groupOperations {
			t.Fatalf("group: %+v", d)
		}
		if m := d.Members[0]; m.MemberID != r.MemberID || *m.InstanceID != "one" || m.ClientID != "client" || m.ClientHost != "/127.0.0.1" ||
			string(m.ProtocolMetadata) != "m" || string(m.MemberAssignment) != "x" {
			t.Errorf("member: %+v", m)
		}
		wantCode(t, "group id", resp.Groups[1].ErrorCode, kerr.InvalidGroupID)
	})
}

func TestListGroups(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		gs.form(joinReq(9, ""))
		commit := kmsg.NewPtrOffsetCommitRequest()
		commit.Version, commit.Group, commit.Topics = 9, "offsets", commitTopics("a", topicID{}, 0)
		gs.commit(t.Context(), commit)
		for _, tt := range []struct {
			states, types []string
			want          string
		}{
			{nil, nil, "g/consumer/Stable/classic offsets//Empty/classic"},
			{[]string{"stable", "Dead"}, nil, "g/consumer/Stable/classic"},
			{[]string{"Empty"}, []string{"Classic"}, "offsets//Empty/classic"},
			{nil, []string{"consumer"}, ""},
		} {
			req := kmsg.NewPtrListGroupsRequest()
			req.Version, req.StatesFilter, req.TypesFilter = 5, tt.states, tt.types
			var got []string
			for _, g := range gs.list(req).Groups {
				got = append(got, strings.Join([]string{g.Group, g.ProtocolType, g.GroupState, g.GroupType}, "/"))
			}
			if got := strings.Join(got, " "); got != tt.want {
				t.Errorf("states %v, types %v: %s, want %s", tt.states, tt.types, got, tt.want)
			}
		}
	})
}

func TestDeleteGroups(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		remove := func() int16 { return code(gs.deleteGroup(t.Context(), "g")) }
		wantCode(t, "unknown group", remove(), kerr.GroupIDNotFound)
		r := gs.joinNow(joinReq(3, ""))
		wantCode(t, "group that assigns", remove(), kerr.NonEmptyGroup)
		gs.syncNow(syncReq(r))
		wantCode(t, "stable group", remove(), kerr.NonEmptyGroup)
		wantCode(t, "commit", gs.commitNow(r.MemberID, r.Generation), nil)
		gs.leaveNow(5, r.MemberID)
		gs.broken = errTest
		wantCode(t, "while the journal is broken", remove(), kerr.CoordinatorNotAvailable)
		gs.wantState("Empty")
		gs.broken = nil
		wantCode(t, "empty group", remove(), nil)
		gs.wantState("Dead")
		wantCode(t, "again", remove(), kerr.GroupIDNotFound)
		if gs.cfg.Offsets.has("g") {
			t.Error("offsets are left")
		}
		wantCode(t, "commit", gs.commitNow("", -1), nil)
		wantCode(t, "group with offsets only", remove(), nil)
		id := gs.newID()
		wantCode(t, "group with a pending id", remove(), nil)
		wantCode(t, "join with that id", gs.joinNow(joinReq(9, id)).ErrorCode, kerr.UnknownMemberID)
	})
}

func TestFindCoordinator(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		self := brokerNode{ID: 1, Host: "here", Port: 9999}
		req := kmsg.NewPtrFindCoordinatorRequest()
		for _, tt := range []struct {
			kind int8
			want *kerr.Error
		}{{0, nil}, {1, nil}, {2, kerr.InvalidRequest}, {-1, kerr.InvalidRequest}} {
			req.CoordinatorType, req.CoordinatorKeys = tt.kind, []string{"x", "y"}
			req.Version = 3
			old := gs.findCoordinator(req, self)
			wantCode(t, "version 3", old.ErrorCode, tt.want)
			if tt.want == nil && (old.NodeID != 1 || old.Host != "here" || old.Port != 9999) {
				t.Errorf("version 3: %+v", old)
			}
			req.Version = 6
			now := gs.findCoordinator(req, self).Coordinators
			if len(now) != 2 || now[0].Key != "x" || now[1].Key != "y" {
				t.Fatalf("version 6: %+v", now)
			}
			wantCode(t, "version 6", now[1].ErrorCode, tt.want)
			if tt.want == nil && (now[1].NodeID != 1 || now[1].Host != "here" || now[1].Port != 9999) {
				t.Errorf("version 6: %+v", now[1])
			}
		}
		gs.close()
		wantCode(t, "closed", gs.findCoordinator(req, self).Coordinators[0].ErrorCode, kerr.CoordinatorNotAvailable)
	})
}
