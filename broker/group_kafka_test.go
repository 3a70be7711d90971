package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// These tests let real clients' consumer groups work against a running broker.

const groupPartitions = 6

// groupBroker starts a broker whose new topics have groupPartitions.
func groupBroker(t *testing.T) *running {
	return startBroker(t, func(c *Config) { c.DefaultPartitions = groupPartitions })
}

// produceNumbers appends the numbers [from, to) to a topic, all partitions in
// turn.
func produceNumbers(t *testing.T, r *running, topic string, from, to int) {
	t.Helper()
	cl := r.client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	var records []*kgo.Record
	for i := from; i < to; i++ {
		records = append(records, &kgo.Record{Topic: topic, Partition: int32(i % groupPartitions), Value: fmt.Append(nil, i)})
	}
	if err := cl.ProduceSync(testContext(t), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// tally is who consumed what, and who has which partitions.
type tally struct {
	mu        sync.Mutex
	changed   *sync.Cond
	seen      map[string]int            // value: how often
	by        map[string]int            // member: how many records
	assigned  map[string]map[int32]bool // member: partitions
	moves     map[string]int            // member: how often its partitions changed
	committed int                       // records
	failed    map[string]error          // member: the error that ended it
}

func newTally() *tally {
	c := &tally{
		seen: map[string]int{}, by: map[string]int{}, assigned: map[string]map[int32]bool{},
		moves: map[string]int{}, failed: map[string]error{},
	}
	c.changed = sync.NewCond(&c.mu)
	return c
}

func (c *tally) update(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	c.changed.Broadcast()
}

func (c *tally) saw(member string, value []byte) {
	c.update(func() { c.seen[string(value)]++; c.by[member]++ })
}

func (c *tally) assign(member string, partitions []int32, have bool) {
	c.update(func() {
		if c.assigned[member] == nil {
			c.assigned[member] = map[int32]bool{}
		}
		for _, p := range partitions {
			if have {
				c.assigned[member][p] = true
			} else {
				delete(c.assigned[member], p)
			}
		}
		if len(partitions) > 0 {
			c.moves[member]++
		}
	})
}

// wait returns when ok, which is called with the lock held, says so.
func (c *tally) wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx := testContext(t)
	stop := context.AfterFunc(ctx, func() { c.update(func() {}) })
	defer stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for !ok() {
		if ctx.Err() != nil {
			t.Fatalf("waited in vain until %s: seen %d values, by %v, assigned %v, failed %v", what, len(c.seen), c.by, c.assigned, c.failed)
		}
		c.changed.Wait()
	}
}

// waitShares returns when every partition has one owner and each member its
// share.
func (c *tally) waitShares(t *testing.T, members ...string) {
	t.Helper()
	c.wait(t, fmt.Sprint("the partitions are shared by ", members), func() bool {
		owned := map[int32]int{}
		for _, m := range members {
			if len(c.assigned[m]) != groupPartitions/len(members) {
				return false
			}
			for p := range c.assigned[m] {
				owned[p]++
			}
		}
		return len(owned) == groupPartitions
	})
}

func (c *tally) waitSeen(t *testing.T, n int) {
	t.Helper()
	c.wait(t, fmt.Sprint(n, " values are seen"), func() bool { return len(c.seen) >= n })
}

// wantOnce checks that the numbers [0, n) were seen, each once.
func (c *tally) wantOnce(t *testing.T, n int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range n {
		if got := c.seen[fmt.Sprint(i)]; got != 1 {
			t.Errorf("number %d was consumed %d times", i, got)
		}
	}
	if len(c.seen) != n {
		t.Errorf("%d different values, want %d", len(c.seen), n)
	}
}

// kgoMember consumes as a member of group "g" until stop is called; it commits
// after every poll.
func kgoMember(t *testing.T, r *running, c *tally, name string, opts ...kgo.Opt) (stop func()) {
	t.Helper()
	change := func(have bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, topics map[string][]int32) {
			c.assign(name, topics["t"], have)
		}
	}
	cl := r.client(append([]kgo.Opt{
		kgo.ConsumerGroup("g"), kgo.ConsumeTopics("t"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.HeartbeatInterval(50 * time.Millisecond),
		kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsAssigned(change(true)),
		kgo.OnPartitionsRevoked(change(false)),
		kgo.OnPartitionsLost(change(false)),
	}, opts...)...)
	whole := testContext(t)
	ctx, cancel := context.WithCancel(whole)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer cl.CloseAllowingRebalance()
		for {
			fs := cl.PollFetches(ctx)
			if ctx.Err() != nil {
				return
			}
			fs.EachError(func(_ string, _ int32, err error) { c.update(func() { c.failed[name] = err }) })
			fs.EachRecord(func(rec *kgo.Record) { c.saw(name, rec.Value) })
			err := cl.CommitUncommittedOffsets(whole)
			c.update(func() {
				if err != nil {
					c.failed[name] = err
				} else {
					c.committed += fs.NumRecords()
				}
			})
			cl.AllowRebalance()
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func TestKgoGroupRebalances(t *testing.T) {
	for _, balancer := range []kgo.GroupBalancer{kgo.CooperativeStickyBalancer(), kgo.RangeBalancer()} {
		t.Run(balancer.ProtocolName(), func(t *testing.T) {
			r, c := groupBroker(t), newTally()
			produceNumbers(t, r, "t", 0, 600)
			opt := kgo.Balancers(balancer)
			stopFirst := kgoMember(t, r, c, "first", opt)
			c.waitSeen(t, 600)
			kgoMember(t, r, c, "second", opt)
			c.waitShares(t, "first", "second")
			produceNumbers(t, r, "t", 600, 1200)
			c.waitSeen(t, 1200)
			stopFirst()
			c.waitShares(t, "second")
			produceNumbers(t, r, "t", 1200, 1800)
			c.waitSeen(t, 1800)
			c.wantOnce(t, 1800)
			if c.by["first"] != 900 || c.by["second"] != 900 {
				t.Errorf("consumed by each: %v, want 900", c.by)
			}
		})
	}
}

// saramaMember is sarama's counterpart of kgoMember.
type saramaMember struct {
	name string
	c    *tally
}

func (m saramaMember) Setup(s sarama.ConsumerGroupSession) error {
	m.c.assign(m.name, s.Claims()["t"], true)
	return nil
}

func (m saramaMember) Cleanup(s sarama.ConsumerGroupSession) error {
	m.c.assign(m.name, s.Claims()["t"], false)
	return nil
}

func (m saramaMember) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case msg, ok := <-claim.Messages():
			if !ok {
				return nil
			}
			m.c.saw(m.name, msg.Value)
			s.MarkMessage(msg, "")
		case <-s.Context().Done():
			return nil
		}
	}
}

func startSarama(t *testing.T, r *running, c *tally, name string) (stop func()) {
	t.Helper()
	cfg := sarama.NewConfig()
	cfg.Version = sarama.V3_6_0_0
	cfg.Consumer.Offsets.Initial = sarama.OffsetOldest
	cfg.Consumer.Group.Heartbeat.Interval = 50 * time.Millisecond
	cfg.Consumer.Group.Rebalance.Retry.Backoff = 50 * time.Millisecond
	cfg.Consumer.Retry.Backoff = 50 * time.Millisecond
	cfg.Consumer.Return.Errors = true
	group, err := sarama.NewConsumerGroup([]string{r.addr()}, "s", cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	var running sync.WaitGroup
	running.Go(func() {
		for err := range group.Errors() {
			c.update(func() { c.failed[name] = err })
		}
	})
	running.Go(func() {
		for ctx.Err() == nil {
			if err := group.Consume(ctx, []string{"t"}, saramaMember{name, c}); err != nil && ctx.Err() == nil {
				c.update(func() { c.failed[name] = err })
				return
			}
		}
	})
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := group.Close(); err != nil {
				t.Error(err)
			}
			running.Wait()
		})
	}
	t.Cleanup(stop)
	return stop
}

func TestSaramaGroupRebalances(t *testing.T) {
	r, c := groupBroker(t), newTally()
	produceNumbers(t, r, "t", 0, 600)
	stopFirst := startSarama(t, r, c, "first")
	c.waitSeen(t, 600)
	startSarama(t, r, c, "second")
	c.waitShares(t, "first", "second")
	produceNumbers(t, r, "t", 600, 1200)
	c.waitSeen(t, 1200)
	stopFirst()
	c.waitShares(t, "second")
	produceNumbers(t, r, "t", 1200, 1800)
	c.waitSeen(t, 1800)
	c.wantOnce(t, 1800)
	if len(c.failed) > 0 {
		t.Errorf("errors: %v", c.failed)
	}
}

// A static member that restarts gets its partitions back, and the other one
// does not notice.
func TestKgoStaticMemberRestarts(t *testing.T) {
	r, c := groupBroker(t), newTally()
	produceNumbers(t, r, "t", 0, 60)
	kgoMember(t, r, c, "first", kgo.InstanceID("one"))
	c.waitSeen(t, 60)
	stop := kgoMember(t, r, c, "second", kgo.InstanceID("two"))
	c.waitShares(t, "first", "second")
	c.mu.Lock()
	had, moves := maps.Clone(c.assigned["second"]), c.moves["first"]
	c.mu.Unlock()
	stop()
	produceNumbers(t, r, "t", 60, 120)
	kgoMember(t, r, c, "again", kgo.InstanceID("two"))
	c.waitSeen(t, 120)
	c.wantOnce(t, 120)
	c.mu.Lock()
	if !maps.Equal(c.assigned["again"], had) || c.moves["first"] != moves {
		t.Errorf("second had %v, again has %v; first's partitions changed %d times, before %d", had, c.assigned["again"], c.moves["first"], moves)
	}
	c.mu.Unlock()

	// Another client that claims to be the same fences it.
	kgoMember(t, r, c, "impostor", kgo.InstanceID("two"))
	c.wait(t, "the older one is fenced", func() bool { return errors.Is(c.failed["again"], kerr.FencedInstanceID) })
}

// A restart of the broker loses the members, who come back, and keeps what they
// have committed.
func TestGroupSurvivesBrokerRestart(t *testing.T) {
	r, c := groupBroker(t), newTally()
	produceNumbers(t, r, "t", 0, 60)
	stop := kgoMember(t, r, c, "first")
	c.waitSeen(t, 60)
	c.wait(t, "all is committed", func() bool { return c.committed == 60 })
	r = r.restart()
	produceNumbers(t, r, "t", 60, 120)
	c.waitSeen(t, 120)
	stop()
	r = r.restart()
	produceNumbers(t, r, "t", 120, 180)
	kgoMember(t, r, c, "second")
	c.waitSeen(t, 180)
	c.wantOnce(t, 180)
}

// Administrators see a group with its lag, and delete it when it is empty.
func TestGroupAdministration(t *testing.T) {
	r, c := groupBroker(t), newTally()
	ctx := testContext(t)
	produceNumbers(t, r, "t", 0, 60)
	stop := kgoMember(t, r, c, "first", kgo.ClientID("someone"))
	c.wait(t, "all is committed", func() bool { return c.committed == 60 })
	admin := kadm.NewClient(r.client())

	described, err := admin.DescribeGroups(ctx, "g", "unknown")
	if err != nil {
		t.Fatal(err)
	}
	g := described["g"]
	if g.State != "Stable" || g.ProtocolType != "consumer" || len(g.Members) != 1 || g.Members[0].ClientID != "someone" || g.Members[0].ClientHost != "/127.0.0.1" {
		t.Errorf("described: %+v", g)
	}
	if got := described.AssignedPartitions(); len(got["t"]) != groupPartitions {
		t.Errorf("assigned: %v", got)
	}
	if e := described["unknown"].Err; !errors.Is(e, kerr.GroupIDNotFound) && described["unknown"].State != "Dead" {
		t.Errorf("unknown group: %+v", described["unknown"])
	}
	if d, _ := admin.DeleteGroup(ctx, "g"); !errors.Is(d.Err, kerr.NonEmptyGroup) {
		t.Errorf("delete while it has a member: %v", d.Err)
	}
	stop()
	produceNumbers(t, r, "t", 60, 90)
	lags, err := admin.Lag(ctx, "g")
	if err != nil {
		t.Fatal(err)
	}
	if lag := lags["g"]; lag.State != "Empty" || lag.Lag.Total() != 30 || lag.Error() != nil {
		t.Errorf("lag %d of a group that is %s, %v; want 30", lag.Lag.Total(), lag.State, lag.Error())
	}
	listed, err := admin.ListGroups(ctx)
	if err != nil || !slices.Equal(listed.Groups(), []string{"g"}) {
		t.Errorf("listed: %v, %v", listed, err)
	}
	if d, err := admin.DeleteGroup(ctx, "g"); err != nil || d.Err != nil {
		t.Errorf("delete: %v, %v", d.Err, err)
	}
	if listed, err := admin.ListGroups(ctx); err != nil || len(listed) != 0 {
		t.Errorf("listed after the deletion: %v, %v", listed, err)
	}
}

// An administrator's reset of an idle group's offsets, and the deletion of a
// topic, which takes its offsets along.
func TestGroupOffsetsOfDeletedTopic(t *testing.T) {
	r := groupBroker(t)
	ctx := testContext(t)
	produceNumbers(t, r, "t", 0, 60)
	admin := kadm.NewClient(r.client())
	commit := kadm.Offsets{}
	commit.AddOffset("t", 0, 5, -1)
	commit.AddOffset("t", groupPartitions, 5, -1)
	done, err := admin.CommitOffsets(ctx, "g", commit)
	if err != nil {
		t.Fatal(err)
	}
	if o, _ := done.Lookup("t", 0); o.Err != nil {
		t.Error(o.Err)
	}
	if o, _ := done.Lookup("t", groupPartitions); !errors.Is(o.Err, kerr.UnknownTopicOrPartition) {
		t.Errorf("commit of an unknown partition: %v", o.Err)
	}
	fetched := func() string {
		t.Helper()
		offsets, err := admin.FetchOffsets(ctx, "g")
		if err != nil {
			t.Fatal(err)
		}
		var all string
		offsets.Each(func(o kadm.OffsetResponse) { all += fmt.Sprintf("%s/%d=%d ", o.Topic, o.Partition, o.At) })
		return all
	}
	if got := fetched(); got != "t/0=5 " {
		t.Errorf("fetched %q", got)
	}
	if d, err := admin.DeleteTopic(ctx, "t"); err != nil || d.Err != nil {
		t.Fatalf("delete the topic: %v, %v", d.Err, err)
	}
	if got := fetched(); got != "" {
		t.Errorf("fetched %q of a topic that is gone", got)
	}
	produceNumbers(t, r, "t", 0, 60)
	if got := fetched(); got != "" {
		t.Errorf("fetched %q of a new topic", got)
	}
}
