package broker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestTopicsLifeThroughAdminClient(t *testing.T) {
	r := startBroker(t)
	ctx := testContext(t)
	adm := kadm.NewClient(r.client())

	made, err := adm.CreateTopic(ctx, 3, -1, map[string]*string{"write.caching": kmsg.StringPtr("true")}, "orders")
	if err != nil || made.NumPartitions != 3 {
		t.Fatalf("create: %+v %v", made, err)
	}
	if _, err := adm.CreateTopic(ctx, 1, 1, nil, "orders"); !errors.Is(err, kerr.TopicAlreadyExists) {
		t.Errorf("create twice: %v", err)
	}
	if _, err := adm.CreatePartitions(ctx, 2, "orders"); err != nil {
		t.Fatal(err)
	}
	if n := len(r.topics.get("orders").logs); n != 5 {
		t.Errorf("%d partitions after adding 2 to 3", n)
	}
	for name, tt := range map[string]struct {
		partitions int32
		replicas   int16
		configs    map[string]*string
		topic      string
		want       *kerr.Error
	}{
		"replication":  {1, 3, nil, "a", kerr.InvalidReplicationFactor},
		"partitions":   {0, 1, nil, "a", kerr.InvalidPartitions},
		"too many":     {maxPartitions + 1, 1, nil, "a", kerr.InvalidPartitions},
		"name":         {1, 1, nil, "a/../b", kerr.InvalidTopicException},
		"dots":         {1, 1, nil, "..", kerr.InvalidTopicException},
		"config":       {1, 1, map[string]*string{"no.such": kmsg.StringPtr("1")}, "a", kerr.InvalidConfig},
		"config value": {1, 1, map[string]*string{"segment.bytes": kmsg.StringPtr("small")}, "a", kerr.InvalidConfig},
	} {
		resp, err := adm.CreateTopic(ctx, tt.partitions, tt.replicas, tt.configs, tt.topic)
		if !errors.Is(err, tt.want) || resp.ErrMessage == "" {
			t.Errorf("%s: %v %q, want %v", name, err, resp.ErrMessage, tt.want)
		}
	}

	r = r.restart()
	configs, err := adm.DescribeTopicConfigs(ctx, "orders")
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(configs[0].Configs, func(c kadm.Config) bool { return c.Key == "write.caching" })
	if i < 0 || *configs[0].Configs[i].Value != "true" || configs[0].Configs[i].Source != kmsg.ConfigSourceDynamicTopicConfig {
		t.Errorf("write.caching after the restart: %+v", configs[0].Configs)
	}

	deleted, err := adm.DeleteTopic(ctx, "orders")
	if err != nil || deleted.ID != made.ID {
		t.Fatalf("delete: %+v %v", deleted, err)
	}
	if _, err := adm.DeleteTopic(ctx, "orders"); !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Errorf("delete twice: %v", err)
	}
	r = r.restart()
	if all := r.topics.all(); len(all) != 0 {
		t.Errorf("topics after deleting: %v", all)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Join(r.cfg.Data, "topics"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if !strings.HasSuffix(e.Name(), "-delete") {
			t.Errorf("left behind: %s", e.Name())
		}
	}
}

func TestAutoCreation(t *testing.T) {
	ask := func(r *running, topic string, allow bool) error {
		req := kmsg.NewPtrMetadataRequest()
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = kmsg.StringPtr(topic)
		req.Topics, req.AllowAutoTopicCreation = append(req.Topics, rt), allow
		resp, err := req.RequestWith(testContext(t), r.client())
		if err != nil {
			t.Fatal(err)
		}
		return kerr.ErrorForCode(resp.Topics[0].ErrorCode)
	}
	r := startBroker(t, func(c *Config) { c.DefaultPartitions = 4 })
	if err := ask(r, "t", false); !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Errorf("not allowed by the client: %v", err)
	}
	if err := ask(r, "t", true); err != nil || len(r.topics.get("t").logs) != 4 {
		t.Errorf("allowed: %v", err)
	}
	if err := ask(r, "bad name", true); !errors.Is(err, kerr.InvalidTopicException) {
		t.Errorf("bad name: %v", err)
	}
	off := startBroker(t, func(c *Config) { c.AutoCreateTopics = false })
	if err := ask(off, "t", true); !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Errorf("not allowed by the broker: %v", err)
	}
}

func TestDeletedTopicWakesItsConsumers(t *testing.T) {
	r := startBroker(t)
	ctx := testContext(t)
	tp, err := r.topics.create(ctx, mustTopic(t, r, "t"))
	if err != nil {
		t.Fatal(err)
	}
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 240_000, 1, 1<<20
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = "t", tp.ID
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.PartitionMaxBytes = 1 << 20
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	cl := r.client()
	if err := cl.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	type outcome struct {
		resp *kmsg.FetchResponse
		err  error
	}
	done := make(chan outcome, 1)
	go func() {
		resp, err := req.RequestWith(ctx, cl.Broker(nodeID))
		done <- outcome{resp, err}
	}()
	if _, err := r.topics.remove(ctx, "t", topicID{}); err != nil {
		t.Fatal(err)
	}
	o := <-done
	if o.err != nil {
		t.Fatal(o.err)
	}
	if code := o.resp.Topics[0].Partitions[0].ErrorCode; code != kerr.UnknownTopicOrPartition.Code && code != kerr.UnknownTopicID.Code {
		t.Errorf("fetch of a deleted topic: %v", kerr.ErrorForCode(code))
	}
}

func TestListOffsetsByTime(t *testing.T) {
	r := startBroker(t)
	ctx := testContext(t)
	cl := r.client(kgo.DefaultProduceTopic("t"))
	base := time.UnixMilli(1_700_000_000_000)
	for i := range 100 {
		if err := cl.ProduceSync(ctx, &kgo.Record{Timestamp: base.Add(time.Duration(i) * time.Second)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	adm := kadm.NewClient(cl)
	for _, tt := range []struct {
		at   int64
		want int64
	}{
		{base.UnixMilli() - 1, 0}, {base.UnixMilli(), 0}, {base.UnixMilli() + 1, 1}, {base.Add(42 * time.Second).UnixMilli(), 42},
		{base.Add(99 * time.Second).UnixMilli(), 99}, {base.Add(100 * time.Second).UnixMilli(), 100},
	} {
		got, err := adm.ListOffsetsAfterMilli(ctx, tt.at, "t")
		if err != nil {
			t.Fatal(err)
		}
		if o, _ := got.Lookup("t", 0); o.Offset != tt.want || o.Err != nil {
			t.Errorf("offset after %d: %d %v, want %d", tt.at, o.Offset, o.Err, tt.want)
		}
	}
	start, err := adm.ListStartOffsets(ctx, "t")
	if err != nil {
		t.Fatal(err)
	}
	end, err := adm.ListEndOffsets(ctx, "t")
	if err != nil {
		t.Fatal(err)
	}
	if s, _ := start.Lookup("t", 0); s.Offset != 0 {
		t.Errorf("start %d", s.Offset)
	}
	if e, _ := end.Lookup("t", 0); e.Offset != 100 {
		t.Errorf("end %d", e.Offset)
	}
}

func TestPartitionsAreBoundedByOpenFiles(t *testing.T) {
	r := startBroker(t)
	r.topics.change.Lock()
	r.topics.fileLimit = 300 // 256 of them are reserved
	r.topics.change.Unlock()
	ctx := testContext(t)
	m, err := r.newTopic("wide", 45, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.topics.create(ctx, m); !errors.Is(err, kerr.PolicyViolation) {
		t.Errorf("45 partitions: %v", err)
	}
	if m, err = r.newTopic("fits", 40, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := r.topics.create(ctx, m); err != nil {
		t.Errorf("40 partitions: %v", err)
	}
	if err := r.topics.grow(ctx, "fits", 45, false); !errors.Is(err, kerr.PolicyViolation) {
		t.Errorf("5 more: %v", err)
	}
	if err := r.topics.grow(ctx, "fits", 44, false); err != nil {
		t.Errorf("4 more: %v", err)
	}
}

// A client that leaves while its topic is created or deleted leaves a topic
// that is there, or one that is not, but nothing in between.
func TestTopicsAreWholeWhenTheClientLeaves(t *testing.T) {
	r := startBroker(t)
	for i := range 60 {
		name := fmt.Sprintf("t%d", i)
		m, err := r.newTopic(name, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, leave := context.WithCancel(testContext(t))
		go leave()
		_, created := r.topics.create(ctx, m)
		leave()
		if _, known := r.meta.topics()[name]; known != (r.topics.get(name) != nil) || known != (created == nil) {
			t.Fatalf("create: %v; served %t, in the metadata %t", created, r.topics.get(name) != nil, known)
		}
		if created != nil {
			continue
		}
		ctx, leave = context.WithCancel(testContext(t))
		go leave()
		_, deleted := r.topics.remove(ctx, name, topicID{})
		leave()
		if _, known := r.meta.topics()[name]; known != (r.topics.get(name) != nil) || known != (deleted != nil) {
			t.Fatalf("delete: %v; served %t, in the metadata %t", deleted, r.topics.get(name) != nil, known)
		}
	}
}
