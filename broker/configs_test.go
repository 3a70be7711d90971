package broker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"mft/protocol"
)

// setConfigs changes configs of a topic through the admin client: a value of "" deletes.
func setConfigs(t *testing.T, adm *kadm.Client, topic string, configs map[string]string) error {
	t.Helper()
	var list []kadm.AlterConfig
	for name, value := range configs {
		c := kadm.AlterConfig{Op: kadm.SetConfig, Name: name, Value: &value}
		if value == "" {
			c.Op, c.Value = kadm.DeleteConfig, nil
		}
		list = append(list, c)
	}
	resp, err := adm.AlterTopicConfigs(testContext(t), list, topic)
	if err != nil {
		t.Fatal(err)
	}
	return resp[0].Err
}

// describe returns the configs set on a topic.
func describe(t *testing.T, adm *kadm.Client, topic string) map[string]string {
	t.Helper()
	described, err := adm.DescribeTopicConfigs(testContext(t), topic)
	if err != nil {
		t.Fatal(err)
	}
	set := map[string]string{}
	for _, c := range described[0].Configs {
		if c.Source == kmsg.ConfigSourceDynamicTopicConfig {
			set[c.Key] = c.MaybeValue()
		}
	}
	return set
}

func TestConfigsChangeAtRunTime(t *testing.T) {
	r := startBroker(t)
	ctx := testContext(t)
	adm := kadm.NewClient(r.client())
	if _, err := adm.CreateTopic(ctx, 2, 1, map[string]*string{"retention.ms": kmsg.StringPtr("1000")}, "t"); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"no.such": "1", "retention.ms": "-2", "cleanup.policy": "shred", "compression.type": "none", "message.timestamp.type": "Never",
		"min.cleanable.dirty.ratio": "2", "segment.ms": "0", "write.caching": "perhaps", "min.insync.replicas": "2",
	} {
		if err := setConfigs(t, adm, "t", map[string]string{name: value, "flush.ms": "77"}); !errors.Is(err, kerr.InvalidConfig) {
			t.Errorf("%s=%s: %v", name, value, err)
		}
	}
	if err := setConfigs(t, adm, "u", map[string]string{"flush.ms": "1"}); !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Errorf("unknown topic: %v", err)
	}
	if got := describe(t, adm, "t"); fmt.Sprint(got) != "map[retention.ms:1000]" {
		t.Errorf("configs after refusals: %v", got)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(setConfigs(t, adm, "t", map[string]string{"segment.bytes": "20000", "retention.bytes": "0", "retention.ms": "", "min.compaction.lag.ms": "9223372036854775807"}))
	appendTo, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.AppendConfig, Name: "cleanup.policy", Value: kmsg.StringPtr("compact")}}, "t")
	must(err)
	must(appendTo[0].Err)
	validated, err := adm.ValidateAlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "flush.ms", Value: kmsg.StringPtr("5")}}, "t")
	must(err)
	must(validated[0].Err)
	want := "map[cleanup.policy:delete,compact min.compaction.lag.ms:9223372036854775807 retention.bytes:0 segment.bytes:20000]"
	for range 2 {
		if got := describe(t, adm, "t"); fmt.Sprint(got) != want {
			t.Errorf("configs: %v, want %s", got, want)
		}
		for _, l := range r.topics.get("t").logs {
			if c := l.Config(); c.SegmentBytes != 20000 || !c.Compact || !c.Delete || c.RetentionTime != 0 || c.RetentionBytes != 1 || c.MinCompactionLag < 1e18 {
				t.Errorf("the log has %+v", c)
			}
		}
		r = r.restart()
	}
	subtract, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SubtractConfig, Name: "cleanup.policy", Value: kmsg.StringPtr("delete")}}, "t")
	must(err)
	must(subtract[0].Err)
	if got := describe(t, adm, "t")["cleanup.policy"]; got != "compact" {
		t.Errorf("cleanup.policy=%s", got)
	}

	// The older request replaces everything that is set.
	state, err := adm.AlterTopicConfigsState(ctx, []kadm.AlterConfig{{Name: "flush.ms", Value: kmsg.StringPtr("5")}}, "t")
	must(err)
	must(state[0].Err)
	if got := describe(t, adm, "t"); fmt.Sprint(got) != "map[flush.ms:5]" {
		t.Errorf("configs: %v", got)
	}
	brokers, err := adm.AlterBrokerConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "num.partitions", Value: kmsg.StringPtr("5")}}, nodeID)
	must(err)
	if !errors.Is(brokers[0].Err, kerr.InvalidRequest) {
		t.Errorf("configs of the broker: %v", brokers[0].Err)
	}
}

// fakeClock is a clock that tests set; the records of clients have real times.
type fakeClock struct{ ahead atomic.Int64 } // ns

func (c *fakeClock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func (c *fakeClock) config(cfg *Config) { cfg.Clock, cfg.CleanInterval = c.now, -1 }

func TestDeleteRecords(t *testing.T) {
	for _, caching := range []string{"false", "true"} {
		var clock fakeClock
		r := startBroker(t, clock.config, func(c *Config) {
			c.TopicDefaults = map[string]string{"write.caching": caching, "segment.bytes": "16384"}
		})
		ctx := testContext(t)
		cl := r.client(kgo.DefaultProduceTopic("t"))
		for i := range 100 {
			if err := cl.ProduceSync(ctx, &kgo.Record{Value: fmt.Appendf(nil, "%4d%s", i, strings.Repeat("x", 1000))}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		adm := kadm.NewClient(cl)
		remove := func(topic string, p int32, offset int64) (kadm.DeleteRecordsResponse, error) {
			t.Helper()
			var o kadm.Offsets
			o.Add(kadm.Offset{Topic: topic, Partition: p, At: offset})
			resp, err := adm.DeleteRecords(ctx, o)
			var shards *kadm.ShardErrors
			if errors.As(err, &shards) {
				return kadm.DeleteRecordsResponse{}, shards.Errs[0].Err
			}
			if err != nil {
				t.Fatal(err)
			}
			got, _ := resp.Lookup(topic, p)
			return got, got.Err
		}
		for _, tt := range []struct {
			topic     string
			partition int32
			offset    int64
			want      *kerr.Error
		}{{"t", 0, 101, kerr.OffsetOutOfRange}, {"t", 0, -2, kerr.OffsetOutOfRange}, {"t", 1, 0, kerr.UnknownTopicOrPartition}} {
			if _, err := remove(tt.topic, tt.partition, tt.offset); !errors.Is(err, tt.want) {
				t.Errorf("%+v: %v", tt, err)
			}
		}
		if got, err := remove("t", 0, 55); err != nil || got.LowWatermark != 55 {
			t.Fatalf("delete to 55: %+v %v", got, err)
		}
		if got, err := remove("t", 0, 10); err != nil || got.LowWatermark != 55 {
			t.Fatalf("delete to 10: %+v %v", got, err)
		}
		crashed := r.cfg // what is on the disk now has the new start
		crashed.Data = filepath.Join(t.TempDir(), "data")
		if err := os.CopyFS(crashed.Data, os.DirFS(r.cfg.Data)); err != nil {
			t.Fatal(err)
		}
		if start := startConfig(t, crashed).topics.get("t").logs[0].StartOffset(); start != 55 {
			t.Errorf("start %d after a crash", start)
		}
		size := r.topics.get("t").logs[0].Size()
		for range 2 {
			if err := r.store.Clean(ctx); err != nil {
				t.Fatal(err)
			}
			l := r.topics.get("t").logs[0]
			if l.StartOffset() != 55 || l.Size() > size/2+16384 {
				t.Errorf("start %d, %d bytes of %d", l.StartOffset(), l.Size(), size)
			}
			got := consume(t, r, "t", 45)
			if got[0].Offset != 55 || string(got[0].Value[:4]) != "  55" {
				t.Errorf("the first record has offset %d", got[0].Offset)
			}
			if _, code := fetchAt(t, r, 54); code != kerr.OffsetOutOfRange.Code {
				t.Errorf("fetch below the start: %v", kerr.ErrorForCode(code))
			}
			starts, err := adm.ListStartOffsets(ctx, "t")
			if err != nil {
				t.Fatal(err)
			}
			if o, _ := starts.Lookup("t", 0); o.Offset != 55 {
				t.Errorf("listed start %d", o.Offset)
			}
			r = r.restart()
		}
		if got, err := remove("t", 0, -1); err != nil || got.LowWatermark != 100 {
			t.Fatalf("delete all: %+v %v", got, err)
		}
		if err := setConfigs(t, adm, "t", map[string]string{"cleanup.policy": "compact"}); err != nil {
			t.Fatal(err)
		}
		if _, err := remove("t", 0, -1); !errors.Is(err, kerr.PolicyViolation) {
			t.Errorf("compacted topic: %v", err)
		}
	}
}

// fetchAt fetches partition 0 of topic t at an offset.
func fetchAt(t *testing.T, r *running, offset int64) (records []byte, code int16) {
	t.Helper()
	req := kmsg.NewPtrFetchRequest()
	req.MinBytes, req.MaxBytes = 1, 1<<20
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = "t", r.topics.get("t").ID
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.FetchOffset, rp.PartitionMaxBytes = offset, 1<<20
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(testContext(t), r.client().Broker(nodeID))
	if err != nil {
		t.Fatal(err)
	}
	p := resp.Topics[0].Partitions[0]
	return p.RecordBatches, p.ErrorCode
}

func TestRetentionThroughConfigs(t *testing.T) {
	var clock fakeClock
	r := startBroker(t, clock.config)
	ctx := testContext(t)
	cl := r.client(kgo.DefaultProduceTopic("t"), kgo.ProducerBatchCompression(kgo.NoCompression()))
	produce := func(n int) {
		t.Helper()
		for range n {
			if err := cl.ProduceSync(ctx, kgo.SliceRecord(make([]byte, 5000))).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	clean := func() {
		t.Helper()
		if err := r.store.Clean(ctx); err != nil {
			t.Fatal(err)
		}
	}
	adm := kadm.NewClient(cl)
	produce(1)
	if err := setConfigs(t, adm, "t", map[string]string{"segment.bytes": "16384", "max.message.bytes": "6000"}); err != nil {
		t.Fatal(err)
	}
	produce(40)
	if err := cl.ProduceSync(ctx, kgo.SliceRecord(make([]byte, 7000))).FirstErr(); !errors.Is(err, kerr.MessageTooLarge) {
		t.Errorf("beyond max.message.bytes: %v", err)
	}
	clock.ahead.Store(int64(1000 * time.Hour))
	clean()
	l := r.topics.get("t").logs[0]
	if l.StartOffset() != 0 {
		t.Fatalf("start %d by default", l.StartOffset())
	}
	if err := setConfigs(t, adm, "t", map[string]string{"retention.bytes": "50000"}); err != nil {
		t.Fatal(err)
	}
	clean()
	if l.Size() < 50000 || l.Size() > 50000+16384 {
		t.Errorf("%d bytes are left of retention.bytes=50000", l.Size())
	}
	if err := setConfigs(t, adm, "t", map[string]string{"retention.ms": "3600000"}); err != nil {
		t.Fatal(err)
	}
	clean()
	if l.StartOffset() != 41 {
		t.Errorf("start %d after everything has expired", l.StartOffset())
	}
	r = r.restart()
	l = r.topics.get("t").logs[0]
	if l.StartOffset() != 41 || l.EndOffset() != 41 {
		t.Errorf("%d to %d after a restart", l.StartOffset(), l.EndOffset())
	}
	produce(1)
	if got := consume(t, r, "t", 1); got[0].Offset != 41 {
		t.Errorf("offset %d", got[0].Offset)
	}
}

// A consumer of a compacted topic sees the last value of every key, from its beginning on, whatever the codec; records without a key are refused.
func TestCompactedTopic(t *testing.T) {
	var clock fakeClock
	r := startBroker(t, clock.config)
	ctx := testContext(t)
	adm := kadm.NewClient(r.client())
	configs := map[string]*string{}
	for name, value := range map[string]string{"cleanup.policy": "compact", "segment.bytes": "16384", "min.cleanable.dirty.ratio": "0", "delete.retention.ms": "60000"} {
		configs[name] = &value
	}
	if _, err := adm.CreateTopic(ctx, 1, 1, configs, "t"); err != nil {
		t.Fatal(err)
	}
	cl := r.client(kgo.DefaultProduceTopic("t"), kgo.ProducerBatchCompression(kgo.ZstdCompression(), kgo.NoCompression()))
	if err := cl.ProduceSync(ctx, kgo.StringRecord("no key")).FirstErr(); !errors.Is(err, kerr.InvalidRecord) {
		t.Errorf("without a key: %v", err)
	}
	cl.Close()
	cl = r.client(kgo.DefaultProduceTopic("t"), kgo.ProducerBatchCompression(kgo.ZstdCompression(), kgo.NoCompression()))
	last := map[string]string{}
	write := func(n int) {
		t.Helper()
		for i := range n {
			var batch []*kgo.Record
			for j := range 20 {
				key := fmt.Sprint((i*7 + j) % 50)
				value := fmt.Sprint(i, j) + strings.Repeat(fmt.Sprint(i*j), 40)
				last[key] = value
				batch = append(batch, kgo.KeyStringRecord(key, value))
			}
			batch = append(batch, &kgo.Record{Key: []byte("dead"), Value: nil})
			if err := cl.ProduceSync(ctx, batch...).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(100)
	l := r.topics.get("t").logs[0]
	size, end := l.Size(), l.EndOffset()
	tombstones := 0
	for step := range 4 {
		if err := r.store.Clean(ctx); err != nil {
			t.Fatal(err)
		}
		if l.EndOffset() != end {
			t.Fatalf("the end went from %d to %d", end, l.EndOffset())
		}
		got := map[string]string{}
		tombstones = 0
		n := 0
		consumeTo(t, r, end, func(rec *kgo.Record) {
			n++
			if rec.Value == nil {
				tombstones++
				return
			}
			got[string(rec.Key)] = string(rec.Value)
		})
		if fmt.Sprint(got) != fmt.Sprint(last) {
			t.Fatalf("step %d: other last values", step)
		}
		if m, err := saramaCount(ctx, r, end); err != nil || m != n {
			t.Errorf("step %d: sarama got %d records of %d: %v", step, m, n, err)
		}
		if kcat, err := exec.LookPath("kcat"); err != nil {
			t.Log("kcat is not installed: librdkafka is not tried")
		} else if out, err := exec.CommandContext(ctx, kcat, "-b", r.addr(), "-C", "-t", "t", "-o", "beginning", "-e", "-q", "-f", "%o\n").Output(); err != nil || strings.Count(string(out), "\n") != n {
			t.Errorf("step %d: kcat got %d records of %d: %v", step, strings.Count(string(out), "\n"), n, err)
		}
		if l.Size() > size/2 || n > int(end)/2 {
			t.Errorf("step %d: %d bytes of %d, %d records of %d are left", step, l.Size(), size, n, end)
		}
		if step == 1 {
			r = r.restart()
			l = r.topics.get("t").logs[0]
		}
		if step == 2 { // the tombstones' time is over; what is new makes the log dirty
			clock.ahead.Store(int64(2 * time.Hour))
			write(40)
			size, end = max(size, l.Size()), l.EndOffset()
		}
	}
}

// saramaCount reads topic t with another client, from its beginning to an offset.
func saramaCount(ctx context.Context, r *running, end int64) (n int, err error) {
	cfg := sarama.NewConfig()
	cfg.Version = sarama.V2_8_0_0
	cfg.Consumer.Return.Errors = true
	c, err := sarama.NewConsumer([]string{r.addr()}, cfg)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	p, err := c.ConsumePartition("t", 0, sarama.OffsetOldest)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	for last := int64(-1); last < end-1; n++ {
		select {
		case m := <-p.Messages():
			if m.Offset <= last {
				return n, fmt.Errorf("offset %d after %d", m.Offset, last)
			}
			last = m.Offset
		case err := <-p.Errors():
			return n, err
		case <-ctx.Done():
			return n, fmt.Errorf("at offset %d of %d: %w", last, end, ctx.Err())
		}
	}
	return n, nil
}

// consumeTo reads topic t from its beginning up to an offset.
func consumeTo(t *testing.T, r *running, end int64, visit func(*kgo.Record)) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	cl := r.client(kgo.ConsumeTopics("t"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer cl.Close()
	for next := int64(0); next < end; {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			t.Fatalf("poll at %d of %d: %v", next, end, err)
		}
		fs.EachRecord(func(rec *kgo.Record) {
			if rec.Offset < next {
				t.Fatalf("offset %d after %d", rec.Offset, next-1)
			}
			next = rec.Offset + 1
			visit(rec)
		})
	}
}

func TestLogAppendTime(t *testing.T) {
	var clock fakeClock
	r := startBroker(t, clock.config)
	ctx := testContext(t)
	cl := r.client(kgo.DefaultProduceTopic("t"), kgo.ProducerBatchCompression(kgo.GzipCompression()))
	old := time.UnixMilli(1_000_000_000_000)
	send := func() (logAppendTime int64) { // kgo does not show what the broker answers
		t.Helper()
		b, err := protocol.EncodeBatch(protocol.BatchOptions{Codec: protocol.Gzip, BaseTimestamp: old.UnixMilli()}, []protocol.Record{{Value: []byte("v")}, {Value: []byte("w")}})
		if err != nil {
			t.Fatal(err)
		}
		req := kmsg.NewPtrProduceRequest()
		req.Acks, req.TimeoutMillis = -1, 10_000
		rt := kmsg.NewProduceRequestTopic()
		rt.Topic, rt.TopicID = "t", r.topics.get("t").ID
		rp := kmsg.NewProduceRequestTopicPartition()
		rp.Records = b
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		resp, err := req.RequestWith(ctx, cl.Broker(nodeID))
		if err != nil {
			t.Fatal(err)
		}
		p := resp.Topics[0].Partitions[0]
		if p.ErrorCode != 0 {
			t.Fatal(kerr.ErrorForCode(p.ErrorCode))
		}
		return p.LogAppendTime
	}
	if err := cl.ProduceSync(ctx, &kgo.Record{Timestamp: old}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if at := send(); at != -1 {
		t.Errorf("CreateTime: the producer is told %d", at)
	}
	adm := kadm.NewClient(cl)
	if err := setConfigs(t, adm, "t", map[string]string{"message.timestamp.type": "LogAppendTime"}); err != nil {
		t.Fatal(err)
	}
	clock.ahead.Store(int64(5 * time.Hour))
	before := clock.now()
	sent := send()
	got := consume(t, r, "t", 5)[2:]
	if !got[0].Timestamp.Equal(old) || got[0].Attrs.TimestampType() != 0 {
		t.Errorf("CreateTime: %v", got[0].Timestamp)
	}
	if at := got[1].Timestamp; at.Before(before.Truncate(time.Millisecond)) || at.Sub(before) > time.Minute || got[1].Attrs.TimestampType() != 1 {
		t.Errorf("LogAppendTime: %v, type %d", at, got[1].Attrs.TimestampType())
	}
	if sent != got[1].Timestamp.UnixMilli() || sent != got[2].Timestamp.UnixMilli() {
		t.Errorf("the producer was told %v, stored is %v and %v", sent, got[1].Timestamp, got[2].Timestamp)
	}
	offsets, err := adm.ListOffsetsAfterMilli(ctx, before.UnixMilli(), "t")
	if err != nil {
		t.Fatal(err)
	}
	if o, _ := offsets.Lookup("t", 0); o.Offset != 3 {
		t.Errorf("by time: offset %d", o.Offset)
	}
}

func TestCompressionType(t *testing.T) {
	r := startBroker(t)
	ctx := testContext(t)
	adm := kadm.NewClient(r.client())
	codecs := map[string]protocol.Codec{"gzip": protocol.Gzip, "snappy": protocol.Snappy, "lz4": protocol.LZ4, "zstd": protocol.Zstd, "uncompressed": protocol.None, "producer": protocol.Snappy}
	if _, err := adm.CreateTopic(ctx, 1, 1, nil, "t"); err != nil {
		t.Fatal(err)
	}
	var want []string
	cl := r.client(kgo.DefaultProduceTopic("t"), kgo.ProducerBatchCompression(kgo.SnappyCompression()))
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range codecs {
			if !yield(name) {
				return
			}
		}
	}) {
		if err := setConfigs(t, adm, "t", map[string]string{"compression.type": name}); err != nil {
			t.Fatal(err)
		}
		offset := r.topics.get("t").logs[0].EndOffset()
		value := strings.Repeat(name, 300)
		want = append(want, value)
		if err := cl.ProduceSync(ctx, kgo.KeyStringRecord("k", value)).FirstErr(); err != nil {
			t.Fatal(err)
		}
		data, code := fetchAt(t, r, offset)
		b, _, err := protocol.NextBatch(data)
		if code != 0 || err != nil || b.Codec() != codecs[name] || b.CheckCRC() != nil {
			t.Errorf("%s: stored as %v: %d %v", name, b.Codec(), code, err)
		}
	}
	for i, rec := range consume(t, r, "t", len(want)) {
		if string(rec.Value) != want[i] {
			t.Errorf("record %d is %.20q", i, rec.Value)
		}
	}
	// What a batch grows to counts as well.
	if err := setConfigs(t, adm, "t", map[string]string{"compression.type": "uncompressed", "max.message.bytes": "2000"}); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(ctx, kgo.StringRecord(strings.Repeat("x", 3000))).FirstErr(); !errors.Is(err, kerr.MessageTooLarge) {
		t.Errorf("a batch that grows beyond max.message.bytes: %v", err)
	}
}
