package broker

// The APIs by which administrators see and delete groups:
//
//	DescribeGroups (15) 0–6  an unknown group is Dead, and GROUP_ID_NOT_FOUND from version 6
//	ListGroups     (16) 0–5  filters by state (4) and type (5); all groups are "classic"
//	DeleteGroups   (42) 0–2
//
// A group exists if it has had members since the broker's start, or has offsets.
// One that has only offsets is Empty and of no protocol type.

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const classicGroup = "classic"

// groupOperations is what everyone may do with a group as long as there is no
// authorization: Kafka's bit field of read (3), delete (6) and describe (8).
const groupOperations = 1<<3 | 1<<6 | 1<<8

// describe answers DescribeGroups.
func (gs *groups) describe(req *kmsg.DescribeGroupsRequest) *kmsg.DescribeGroupsResponse {
	resp := req.ResponseKind().(*kmsg.DescribeGroupsResponse)
	for _, name := range req.Groups {
		d := gs.describeGroup(req.Version, name)
		if req.IncludeAuthorizedOperations && d.ErrorCode == 0 {
			d.AuthorizedOperations = groupOperations
		}
		resp.Groups = append(resp.Groups, d)
	}
	return resp
}

func (gs *groups) describeGroup(version int16, name string) kmsg.DescribeGroupsResponseGroup {
	d := kmsg.NewDescribeGroupsResponseGroup()
	d.Group = name
	if e := checkOffsetGroup(name); e != nil {
		d.ErrorCode = e.Code
		return d
	}
	g, e := gs.lock(name, false)
	switch {
	case e == kerr.UnknownMemberID && gs.cfg.Offsets.has(name):
		d.State = groupEmpty.String()
		return d
	case e == kerr.UnknownMemberID:
		d.State = groupDead.String()
		if version >= 6 {
			d.ErrorCode = kerr.GroupIDNotFound.Code
			d.ErrorMessage = kmsg.StringPtr("group " + name + " has neither members nor offsets")
		}
		return d
	case e != nil:
		d.ErrorCode = e.Code
		return d
	}
	defer g.mu.Unlock()
	d.State, d.ProtocolType = g.state.String(), g.protocolType
	stable := g.state == groupStable // until then there is no assignment to tell of
	if stable {
		d.Protocol = g.protocol
	}
	for _, m := range g.members {
		dm := kmsg.DescribeGroupsResponseGroupMember{
			MemberID:   m.id,
			InstanceID: m.instance,
			ClientID:   m.client.ID,
			ClientHost: m.client.Host,
		}
		if stable {
			dm.ProtocolMetadata, dm.MemberAssignment = m.metadata(g.protocol), m.assignment
		}
		d.Members = append(d.Members, dm)
	}
	slices.SortFunc(d.Members, func(a, b kmsg.DescribeGroupsResponseGroupMember) int {
		return cmp.Compare(a.MemberID, b.MemberID)
	})
	return d
}

// list answers ListGroups.
func (gs *groups) list(req *kmsg.ListGroupsRequest) *kmsg.ListGroupsResponse {
	resp := req.ResponseKind().(*kmsg.ListGroupsResponse)
	inMemory, e := gs.all()
	if e != nil {
		resp.ErrorCode = e.Code
		return resp
	}
	wanted := func(filter []string, value string) bool {
		return len(filter) == 0 || slices.ContainsFunc(filter, func(f string) bool { return strings.EqualFold(f, value) })
	}
	if !wanted(req.TypesFilter, classicGroup) {
		return resp
	}
	add := func(name, protocolType string, state groupState) {
		if wanted(req.StatesFilter, state.String()) {
			resp.Groups = append(resp.Groups, kmsg.ListGroupsResponseGroup{
				Group:        name,
				ProtocolType: protocolType,
				GroupState:   state.String(),
				GroupType:    classicGroup,
			})
		}
	}
	listed := map[string]bool{}
	for _, g := range inMemory {
		g.mu.Lock()
		if g.state != groupDead {
			listed[g.name] = true
			add(g.name, g.protocolType, g.state)
		}
		g.mu.Unlock()
	}
	for _, name := range gs.cfg.Offsets.names() {
		if !listed[name] {
			add(name, "", groupEmpty)
		}
	}
	slices.SortFunc(resp.Groups, func(a, b kmsg.ListGroupsResponseGroup) int { return cmp.Compare(a.Group, b.Group) })
	return resp
}

// delete answers DeleteGroups.
func (gs *groups) delete(ctx context.Context, req *kmsg.DeleteGroupsRequest) *kmsg.DeleteGroupsResponse {
	resp := req.ResponseKind().(*kmsg.DeleteGroupsResponse)
	for _, name := range req.Groups {
		resp.Groups = append(resp.Groups, kmsg.DeleteGroupsResponseGroup{
			Group:     name,
			ErrorCode: code(gs.deleteGroup(ctx, name)),
		})
	}
	return resp
}

// deleteGroup deletes an empty group with its offsets. The group stays locked
// until that is durable, so that nobody joins a group that is about to go.
func (gs *groups) deleteGroup(ctx context.Context, name string) *kerr.Error {
	if e := checkOffsetGroup(name); e != nil {
		return e
	}
	hasOffsets := gs.cfg.Offsets.has(name)
	g, e := gs.lock(name, false)
	switch {
	case e == nil:
		defer g.mu.Unlock()
		if g.state != groupEmpty {
			return kerr.NonEmptyGroup
		}
	case e != kerr.UnknownMemberID:
		return e
	case !hasOffsets:
		return kerr.GroupIDNotFound
	}
	if hasOffsets {
		if e := gs.propose(ctx, offsetsEntry{Kind: kindGroupDelete, Group: name}); e != nil {
			return e
		}
	}
	if g != nil {
		g.kill(kerr.UnknownMemberID)
	}
	return nil
}
