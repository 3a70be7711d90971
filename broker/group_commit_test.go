package broker

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// commitTopics is one topic with offset 100+n of each partition n.
func commitTopics(topic string, id topicID, partitions ...int32) []kmsg.OffsetCommitRequestTopic {
	t := kmsg.OffsetCommitRequestTopic{Topic: topic, TopicID: id}
	for _, p := range partitions {
		rp := kmsg.NewOffsetCommitRequestTopicPartition()
		rp.Partition, rp.Offset, rp.LeaderEpoch, rp.Metadata = p, 100+int64(p), 7, kmsg.StringPtr("meta")
		t.Partitions = append(t.Partitions, rp)
	}
	return []kmsg.OffsetCommitRequestTopic{t}
}

// commitNow commits partition 0 of topic "a" and returns its code.
func (gs *testGroups) commitNow(id string, generation int32) int16 {
	gs.t.Helper()
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Version, req.Group, req.MemberID, req.Generation = 9, "g", id, generation
	req.Topics = commitTopics("a", topicID{}, 0)
	return gs.commit(gs.t.Context(), req).Topics[0].Partitions[0].ErrorCode
}

// fetched returns group "g"'s offsets as "topic/partition=offset".
func (gs *testGroups) fetched(version int16) string {
	gs.t.Helper()
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Version, req.Groups = version, []kmsg.OffsetFetchRequestGroup{{Group: "g"}}
	var all []string
	for _, t := range gs.fetchOffsets(req).Groups[0].Topics {
		for _, p := range t.Partitions {
			all = append(all, fmt.Sprintf("%s/%d=%d", t.Topic, p.Partition, p.Offset))
		}
	}
	return strings.Join(all, " ")
}

func TestCommitRules(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		wantCode(t, "of an unknown group's member", gs.commitNow("x", 3), kerr.IllegalGeneration)
		wantCode(t, "without a group", gs.commitNow("", -1), nil)
		wantCode(t, "of a member after a restart", gs.commitNow("x", 3), kerr.UnknownMemberID)

		first := joinReq(9, gs.newID())
		wantCode(t, "without a group while an id is pending", gs.commitNow("", -1), nil)
		r := gs.startJoin(first).got()
		wantCode(t, "while the leader assigns", gs.commitNow(r.MemberID, r.Generation), kerr.RebalanceInProgress)
		gs.syncNow(syncReq(r))
		wantCode(t, "of a member", gs.commitNow(r.MemberID, r.Generation), nil)
		wantCode(t, "of an older generation", gs.commitNow(r.MemberID, r.Generation-1), kerr.IllegalGeneration)
		wantCode(t, "of a member without its generation", gs.commitNow(r.MemberID, -1), kerr.IllegalGeneration)
		wantCode(t, "without a group while there are members", gs.commitNow("", -1), kerr.UnknownMemberID)
		wantCode(t, "of nobody", gs.commitNow("nobody", r.Generation), kerr.UnknownMemberID)

		second := gs.startJoin(joinReq(9, gs.newID()))
		wantCode(t, "while members join", gs.commitNow(r.MemberID, r.Generation), nil)
		joined := gs.finish(gs.startJoin(joinReq(9, r.MemberID)), second)
		wantCode(t, "of the last generation", gs.commitNow(r.MemberID, r.Generation), kerr.IllegalGeneration)
		gs.leaveNow(5, joined[0].MemberID, joined[1].MemberID)
		wantCode(t, "of one who left", gs.commitNow(r.MemberID, r.Generation), kerr.UnknownMemberID)
		wantCode(t, "without a group when all have left", gs.commitNow("", -1), nil)
	})
	groupTest(t, func(t *testing.T, gs *testGroups) { // static members
		old := gs.form(static(joinReq(9, ""), "one"))[0]
		now := gs.joinNow(static(joinReq(9, ""), "one"))
		as := func(id string) int16 {
			req := kmsg.NewPtrOffsetCommitRequest()
			req.Version, req.Group, req.MemberID, req.Generation, req.InstanceID = 9, "g", id, now.Generation, kmsg.StringPtr("one")
			req.Topics = commitTopics("a", topicID{}, 0)
			return gs.commit(t.Context(), req).Topics[0].Partitions[0].ErrorCode
		}
		wantCode(t, "of the old id", as(old.MemberID), kerr.FencedInstanceID)
		wantCode(t, "of the new id", as(now.MemberID), nil)
	})
}

func TestCommitPartitions(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		req := kmsg.NewPtrOffsetCommitRequest()
		req.Version, req.Group = 9, "g"
		req.Topics = append(commitTopics("a", topicID{}, 0, 1, 2, 4, -1), commitTopics("nowhere", topicID{}, 0)...)
		long, longest := strings.Repeat("x", maxOffsetMetadata+1), strings.Repeat("x", maxOffsetMetadata)
		req.Topics[0].Partitions[1].Metadata = &long
		req.Topics[0].Partitions[2].Metadata = &longest
		resp := gs.commit(t.Context(), req)
		for i, want := range []*kerr.Error{nil, kerr.OffsetMetadataTooLarge, nil, kerr.UnknownTopicOrPartition, kerr.UnknownTopicOrPartition} {
			wantCode(t, fmt.Sprint("partition ", i), resp.Topics[0].Partitions[i].ErrorCode, want)
		}
		wantCode(t, "unknown topic", resp.Topics[1].Partitions[0].ErrorCode, kerr.UnknownTopicOrPartition)
		if got := gs.fetched(9); got != "a/0=100 a/2=102" {
			t.Errorf("fetched %s", got)
		}

		req.Version, req.Topics = 10, append(commitTopics("", topicID{2}, 3, 9), commitTopics("", topicID{9}, 0)...)
		resp = gs.commit(t.Context(), req)
		wantCode(t, "by id", resp.Topics[0].Partitions[0].ErrorCode, nil)
		wantCode(t, "unknown partition by id", resp.Topics[0].Partitions[1].ErrorCode, kerr.UnknownTopicOrPartition)
		wantCode(t, "unknown id", resp.Topics[1].Partitions[0].ErrorCode, kerr.UnknownTopicID)
		if resp.Topics[1].TopicID != (topicID{9}) {
			t.Errorf("the answer names topic %x", resp.Topics[1].TopicID)
		}
		if got := gs.fetched(9); got != "a/0=100 a/2=102 b/3=103" {
			t.Errorf("fetched %s", got)
		}

		gs.broken = errTest
		req.Topics = commitTopics("", topicID{2}, 0, 9)
		resp = gs.commit(t.Context(), req)
		wantCode(t, "not stored", resp.Topics[0].Partitions[0].ErrorCode, kerr.CoordinatorNotAvailable)
		wantCode(t, "not stored and unknown", resp.Topics[0].Partitions[1].ErrorCode, kerr.UnknownTopicOrPartition)
		req.Group = "\xff"
		wantCode(t, "group id", gs.commit(t.Context(), req).Topics[0].Partitions[0].ErrorCode, kerr.InvalidGroupID)
	})
}

func TestOffsetFetch(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		wantCode(t, "commit", gs.commitNow("", -1), nil)

		req := kmsg.NewPtrOffsetFetchRequest()
		req.Group = "g"
		for req.Version = 1; req.Version <= 7; req.Version++ {
			req.Topics = []kmsg.OffsetFetchRequestTopic{{Topic: "a", Partitions: []int32{0, 1}}, {Topic: "nowhere", Partitions: []int32{0}}}
			resp := gs.fetchOffsets(req)
			p := resp.Topics[0].Partitions
			if p[0].Offset != 100 || p[0].LeaderEpoch != 7 || *p[0].Metadata != "meta" || p[0].ErrorCode != 0 {
				t.Errorf("version %d: %+v", req.Version, p[0])
			}
			for _, p := range append(p[1:2], resp.Topics[1].Partitions...) {
				if p.Offset != -1 || p.LeaderEpoch != -1 || *p.Metadata != "" || p.ErrorCode != 0 {
					t.Errorf("version %d, nothing committed: %+v", req.Version, p)
				}
			}
			req.Topics = nil
			if n := len(gs.fetchOffsets(req).Topics); n != min(1, int(req.Version)/2) {
				t.Errorf("version %d, no topics asked for: %d", req.Version, n)
			}
		}

		req.Version = 10
		req.Groups = []kmsg.OffsetFetchRequestGroup{
			{Group: "g", Topics: []kmsg.OffsetFetchRequestGroupTopic{{TopicID: topicID{1}, Partitions: []int32{0}}, {TopicID: topicID{9}, Partitions: []int32{0}}}},
			{Group: "unknown", Topics: []kmsg.OffsetFetchRequestGroupTopic{{TopicID: topicID{1}, Partitions: []int32{0}}}},
			{Group: "\xff"},
			{Group: "g"},
		}
		resp := gs.fetchOffsets(req)
		if p := resp.Groups[0].Topics[0].Partitions[0]; p.Offset != 100 {
			t.Errorf("by id: %+v", p)
		}
		wantCode(t, "unknown id", resp.Groups[0].Topics[1].Partitions[0].ErrorCode, kerr.UnknownTopicID)
		if p := resp.Groups[1].Topics[0].Partitions[0]; p.Offset != -1 || p.ErrorCode != 0 || resp.Groups[1].ErrorCode != 0 {
			t.Errorf("unknown group: %+v", resp.Groups[1])
		}
		wantCode(t, "group id", resp.Groups[2].ErrorCode, kerr.InvalidGroupID)
		if ts := resp.Groups[3].Topics; len(ts) != 1 || ts[0].TopicID != (topicID{1}) {
			t.Errorf("all: %+v", ts)
		}

		// A topic of the same name that is another topic has no offsets.
		gs.topics["a"] = topicID{3}
		if got := gs.fetched(9); got != "" {
			t.Errorf("fetched %s of a topic that is gone", got)
		}
		req.Version, req.Topics = 5, []kmsg.OffsetFetchRequestTopic{{Topic: "a", Partitions: []int32{0}}}
		if p := gs.fetchOffsets(req).Topics[0].Partitions[0]; p.Offset != -1 || p.ErrorCode != 0 {
			t.Errorf("of a topic that is gone: %+v", p)
		}
	})
}

// The state after a snapshot, a restore and the rest of the journal is that of
// the whole journal, wherever the snapshot is taken.
func TestOffsetsSurviveSnapshotAndReplay(t *testing.T) {
	entries := []string{
		`{"kind":"offsets.commit","group":"g","offsets":[{"topic":"a","topic_id":"01000000000000000000000000000000","partition":0,"offset":5,"epoch":1,"metadata":"m","time":9},{"topic":"b","partition":2,"offset":6,"epoch":-1}]}`,
		`{"kind":"offsets.commit","group":"h","offsets":[{"topic":"a","partition":1,"offset":7}]}`,
		`{"kind":"offsets.commit","group":"g","offsets":[{"topic":"a","partition":0,"offset":8},{"topic":"a","partition":3,"offset":9}]}`,
		`{"kind":"offsets.delete","group":"g","offsets":[{"topic":"a","partition":3},{"topic":"x","partition":3}]}`,
		`{"kind":"offsets.delete","group":"unknown","offsets":[{"topic":"a","partition":3}]}`,
		`{"kind":"group.delete","group":"h"}`,
		`{"kind":"offsets.commit","group":"i","offsets":[{"topic":"b","partition":0,"offset":1}]}`,
		`drop b`,
	}
	apply := func(o *groupOffsets, entries []string) {
		t.Helper()
		for _, e := range entries {
			if topic, ok := strings.CutPrefix(e, "drop "); ok {
				o.dropTopic(topic)
			} else if err := o.apply([]byte(e)); err != nil {
				t.Fatal(err)
			}
		}
	}
	whole := newGroupOffsets()
	apply(whole, entries)
	if c, ok := whole.get("g", "a", 0); !ok || c.Offset != 8 || len(whole.of("g")) != 1 || whole.has("h") || whole.has("i") {
		t.Errorf("state: %+v", whole.groups)
	}
	for at := range len(entries) + 1 {
		before := newGroupOffsets()
		apply(before, entries[:at])
		snapshot, err := before.snapshot()
		if err != nil {
			t.Fatal(err)
		}
		after := newGroupOffsets()
		if err := after.restore(snapshot); err != nil {
			t.Fatal(err)
		}
		apply(after, entries[at:])
		if !reflect.DeepEqual(after.groups, whole.groups) {
			t.Errorf("snapshot after %d entries: %+v, want %+v", at, after.groups, whole.groups)
		}
	}
	if err := whole.restore(nil); err != nil || len(whole.names()) != 0 {
		t.Errorf("restore of nothing: %v, %v", err, whole.names())
	}
	for _, bad := range []string{`{"kind":"else","group":"g"}`, `{`, `{"kind":"offsets.commit","offsets":[{"topic_id":"x"}]}`} {
		if err := whole.apply([]byte(bad)); err == nil {
			t.Errorf("entry %s was applied", bad)
		}
	}
	if err := whole.restore(json.RawMessage(`[]`)); err == nil {
		t.Error("a snapshot that is none was restored")
	}
}

// What the coordinator proposes is enough to have the offsets again.
func TestOffsetsComeBackFromTheJournal(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		wantCode(t, "commit", gs.commitNow("", -1), nil)
		again := newGroupOffsets()
		for _, e := range gs.journal {
			if err := again.apply(e); err != nil {
				t.Fatal(err)
			}
		}
		if !reflect.DeepEqual(again.groups, gs.cfg.Offsets.groups) || !again.has("g") {
			t.Errorf("%+v, want %+v", again.groups, gs.cfg.Offsets.groups)
		}
	})
}

func TestOffsetDelete(t *testing.T) {
	groupTest(t, func(t *testing.T, gs *testGroups) {
		req := kmsg.NewPtrOffsetDeleteRequest()
		req.Group = "g"
		for _, topic := range []string{"a", "b", "nowhere"} {
			req.Topics = append(req.Topics, kmsg.OffsetDeleteRequestTopic{Topic: topic, Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{Partition: 0}}})
		}
		wantCode(t, "unknown group", gs.deleteOffsets(t.Context(), req).ErrorCode, kerr.GroupIDNotFound)
		commit := kmsg.NewPtrOffsetCommitRequest()
		commit.Version, commit.Group = 9, "g"
		commit.Topics = append(commitTopics("a", topicID{}, 0, 1), commitTopics("b", topicID{}, 0)...)
		gs.commit(t.Context(), commit)

		said := kmsg.NewConsumerMemberMetadata()
		said.Topics = []string{"a"}
		join := joinReq(3, "", "range="+string(said.AppendTo(nil)))
		r := gs.joinNow(join)
		resp := gs.deleteOffsets(t.Context(), req)
		for i, want := range []*kerr.Error{kerr.GroupSubscribedToTopic, nil, kerr.UnknownTopicOrPartition} {
			wantCode(t, req.Topics[i].Topic, resp.Topics[i].Partitions[0].ErrorCode, want)
		}
		if got := gs.fetched(9); got != "a/0=100 a/1=101" {
			t.Errorf("left: %s", got)
		}
		gs.leaveNow(5, r.MemberID)
		wantCode(t, "empty group", gs.deleteOffsets(t.Context(), req).Topics[0].Partitions[0].ErrorCode, nil)
		if got := gs.fetched(9); got != "a/1=101" {
			t.Errorf("left: %s", got)
		}
		gs.joinNow(joinReq(3, "", "range=not metadata"))
		wantCode(t, "members of unknown topics", gs.deleteOffsets(t.Context(), req).ErrorCode, kerr.NonEmptyGroup)
	})
}
