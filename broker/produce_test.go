package broker

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"mft/protocol"
)

// consume reads n records of a topic from its beginning.
func consume(t *testing.T, r *running, topic string, n int) []*kgo.Record {
	t.Helper()
	ctx := testContext(t)
	cl := r.client(kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	var records []*kgo.Record
	for len(records) < n {
		fs := cl.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			t.Fatalf("poll after %d of %d records: %v", len(records), n, err)
		}
		fs.EachError(func(topic string, p int32, err error) { t.Fatalf("fetch %s/%d: %v", topic, p, err) })
		records = append(records, fs.Records()...)
	}
	return records
}

func TestProduceAndConsumeEveryCodec(t *testing.T) {
	r := startBroker(t)
	ctx := testContext(t)
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	for name, codec := range codecs {
		t.Run(name, func(t *testing.T) {
			topic := "codec-" + name
			cl := r.client(kgo.ProducerBatchCompression(codec), kgo.DefaultProduceTopic(topic))
			var want []*kgo.Record
			for i := range 500 {
				rec := &kgo.Record{
					Key: fmt.Appendf(nil, "key-%d", i), Value: bytes.Repeat([]byte{byte('a' + i%26)}, i),
					Headers: []kgo.RecordHeader{{Key: "n", Value: fmt.Append(nil, i)}, {Key: "empty"}},
				}
				if i%10 == 0 {
					rec.Key, rec.Headers = nil, nil
				}
				want = append(want, rec)
			}
			if err := cl.ProduceSync(ctx, want...).FirstErr(); err != nil {
				t.Fatal(err)
			}
			got := consume(t, r, topic, len(want))
			for i, rec := range got {
				w := want[i]
				if rec.Offset != int64(i) || !bytes.Equal(rec.Key, w.Key) || (rec.Key == nil) != (w.Key == nil) || !bytes.Equal(rec.Value, w.Value) || len(rec.Headers) != len(w.Headers) {
					t.Fatalf("record %d: got %v %q, want %q", i, rec.Offset, rec.Value, w.Value)
				}
				for h := range rec.Headers {
					if rec.Headers[h].Key != w.Headers[h].Key || !bytes.Equal(rec.Headers[h].Value, w.Headers[h].Value) {
						t.Fatalf("record %d header %d: got %v, want %v", i, h, rec.Headers[h], w.Headers[h])
					}
				}
			}
		})
	}
}

func TestRecordsSurviveRestart(t *testing.T) {
	r := startBroker(t)
	ctx := testContext(t)
	value := make([]byte, 300_000)
	rng := rand.NewChaCha8([32]byte{1})
	if _, err := rng.Read(value); err != nil {
		t.Fatal(err)
	}
	cl := r.client(kgo.DefaultProduceTopic("t"), kgo.ProducerBatchCompression(kgo.NoCompression()))
	for range 20 {
		if err := cl.ProduceSync(ctx, &kgo.Record{Value: value}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	id, epoch := r.topics.get("t").ID, r.store.Epoch()
	r = r.restart()
	if got := r.topics.get("t"); got == nil || got.ID != id {
		t.Fatalf("topic after the restart: %+v, want id %x", got, id)
	}
	if r.store.Epoch() <= epoch {
		t.Errorf("leader epoch %d after the restart, was %d", r.store.Epoch(), epoch)
	}
	// The same client goes on with the same producer id and sequence.
	if err := cl.ProduceSync(ctx, &kgo.Record{Value: []byte("after")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	got := consume(t, r, "t", 21)
	for _, rec := range got[:20] {
		if !bytes.Equal(rec.Value, value) {
			t.Fatalf("record %d differs", rec.Offset)
		}
	}
	if string(got[20].Value) != "after" || got[20].Offset != 20 {
		t.Errorf("record 20: %d %q", got[20].Offset, got[20].Value)
	}
}

func TestFetchWakesOnAppend(t *testing.T) {
	r := startBroker(t)
	ctx := testContext(t)
	cl := r.client(kgo.DefaultProduceTopic("live"), kgo.ProducerLinger(0))
	if err := cl.ProduceSync(ctx, &kgo.Record{Value: []byte("0")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	// Were the fetch to wait for its time and not for the append, this test
	// would run into its deadline.
	sub := r.client(kgo.ConsumeTopics("live"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(4*time.Minute), kgo.FetchMinBytes(1))
	for i := range 20 {
		fs := sub.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			t.Fatalf("poll %d: %v", i, err)
		}
		for _, rec := range fs.Records() {
			next := &kgo.Record{Value: fmt.Append(nil, i+1)}
			if string(rec.Value) != fmt.Sprint(i) {
				t.Fatalf("got %q, want %d", rec.Value, i)
			}
			if err := cl.ProduceSync(ctx, next).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// produceRaw sends one batch as it is and returns the partition's answer.
func produceRaw(ctx context.Context, cl *kgo.Client, topic string, id topicID, records []byte) (kmsg.ProduceResponseTopicPartition, error) {
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, 10_000
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.TopicID = topic, id
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Records = records
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(ctx, cl.Broker(nodeID))
	if err != nil {
		return kmsg.ProduceResponseTopicPartition{}, err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return kmsg.ProduceResponseTopicPartition{}, fmt.Errorf("response %+v", resp)
	}
	return resp.Topics[0].Partitions[0], nil
}

func TestBadBatchesAreRefusedAndNotStored(t *testing.T) {
	r := startBroker(t, func(c *Config) { c.TopicDefaults = map[string]string{"max.message.bytes": "4096"} })
	ctx := testContext(t)
	cl := r.client(kgo.DefaultProduceTopic("t"))
	if err := cl.ProduceSync(ctx, &kgo.Record{Value: []byte("good")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	good := testBatch(t, protocol.None, "one", "two", "three")
	zstd := testBatch(t, protocol.Zstd, "one", "two", "three")
	changed := func(b protocol.Batch, at int, to byte, recount bool) []byte {
		c := bytes.Clone(b)
		c[at] = to
		if recount {
			fixCRC(c)
		}
		return c
	}
	for _, tt := range []struct {
		name    string
		records []byte
		want    *kerr.Error
	}{
		{"empty", nil, kerr.CorruptMessage},
		{"cut short", good[:len(good)-1], kerr.CorruptMessage},
		{"header only", good[:20], kerr.CorruptMessage},
		{"flipped bit in a record", changed(good, len(good)-2, good[len(good)-2]^1, false), kerr.CorruptMessage},
		{"old magic", changed(good, 16, 1, false), kerr.UnsupportedForMessageFormat},
		{"wrong count", changed(good, 60, 4, true), kerr.InvalidRecord},
		{"unknown codec", changed(good, 22, 7, true), kerr.UnsupportedCompressionType},
		{"zstd that does not decode", changed(zstd, protocol.BatchHeaderLen+1, 0xff, true), kerr.InvalidRecord},
		{"control batch", changed(good, 22, 1<<5, true), kerr.InvalidRecord},
		{"transactional batch", changed(good, 22, 1<<4, true), kerr.InvalidTxnState},
		{"two batches", append(bytes.Clone(good), good...), kerr.InvalidRecord},
		{"too large", testBatch(t, protocol.None, string(make([]byte, 5000))), kerr.MessageTooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := produceRaw(ctx, cl, "t", r.topics.get("t").ID, tt.records)
			if err != nil {
				t.Fatal(err)
			}
			if p.ErrorCode != tt.want.Code || p.BaseOffset != -1 {
				t.Errorf("answer %v at offset %d, want %v", kerr.ErrorForCode(p.ErrorCode), p.BaseOffset, tt.want)
			}
			if p.ErrorMessage == nil || *p.ErrorMessage == "" {
				t.Error("the answer does not say why")
			}
		})
	}
	if end := r.topics.get("t").logs[0].EndOffset(); end != 1 {
		t.Fatalf("log end %d: something bad was stored", end)
	}
	if p, err := produceRaw(ctx, cl, "t", r.topics.get("t").ID, good); err != nil || p.ErrorCode != 0 || p.BaseOffset != 1 {
		t.Fatalf("a good batch afterwards: %+v %v", p, err)
	}
}

func testBatch(t testing.TB, codec protocol.Codec, values ...string) protocol.Batch {
	t.Helper()
	return encode(t, protocol.BatchOptions{Codec: codec}, values...)
}

func encode(t testing.TB, o protocol.BatchOptions, values ...string) protocol.Batch {
	t.Helper()
	records := make([]protocol.Record, len(values))
	for i, v := range values {
		records[i].Value = []byte(v)
	}
	batch, err := protocol.EncodeBatch(o, records)
	if err != nil {
		t.Fatal(err)
	}
	return batch
}

func TestIdempotentSequencesAcrossRestart(t *testing.T) {
	r := startBroker(t)
	ctx := testContext(t)
	cl := r.client()
	if _, err := r.topics.create(ctx, mustTopic(t, r, "t")); err != nil {
		t.Fatal(err)
	}
	send := func(pid int64, epoch int16, seq int32) (int64, *kerr.Error) {
		t.Helper()
		batch := encode(t, protocol.BatchOptions{Producer: &protocol.BatchProducer{ID: pid, Epoch: epoch, Sequence: seq}},
			fmt.Sprintf("%d/%d", pid, seq), fmt.Sprintf("%d/%d", pid, seq+1))
		p, err := produceRaw(ctx, cl, "t", r.topics.get("t").ID, batch)
		if err != nil {
			t.Fatal(err)
		}
		var e *kerr.Error
		if errors.As(kerr.ErrorForCode(p.ErrorCode), &e) {
			return p.BaseOffset, e
		}
		return p.BaseOffset, nil
	}
	steps := []struct {
		name    string
		pid     int64
		epoch   int16
		seq     int32
		restart bool
		offset  int64
		err     *kerr.Error
	}{
		{name: "first", pid: 7, seq: 0, offset: 0},
		{name: "second", pid: 7, seq: 2, offset: 2},
		{name: "retry of the second", pid: 7, seq: 2, offset: 2},
		{name: "retry of the first", pid: 7, seq: 0, offset: 0},
		{name: "gap", pid: 7, seq: 6, offset: -1, err: kerr.OutOfOrderSequenceNumber},
		{name: "another producer", pid: 8, seq: 0, offset: 4},
		{name: "retry after a restart", pid: 7, seq: 2, offset: 2, restart: true},
		{name: "gap after a restart", pid: 7, seq: 6, offset: -1, err: kerr.OutOfOrderSequenceNumber},
		{name: "next after a restart", pid: 7, seq: 4, offset: 6},
		{name: "new epoch", pid: 7, epoch: 1, seq: 0, offset: 8},
		{name: "old epoch", pid: 7, epoch: 0, seq: 6, offset: -1, err: kerr.InvalidProducerEpoch},
	}
	for _, s := range steps {
		if s.restart {
			r = r.restart()
			cl = r.client()
		}
		offset, err := send(s.pid, s.epoch, s.seq)
		if offset != s.offset || err != s.err {
			t.Fatalf("%s: offset %d, %v; want %d, %v", s.name, offset, err, s.offset, s.err)
		}
	}
}

// fixCRC makes the checksum of a changed batch right again.
func fixCRC(b []byte) {
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
}

func mustTopic(t testing.TB, r *running, name string) *topicMeta {
	t.Helper()
	m, err := r.newTopic(name, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// What the broker allocates for a Produce request does not depend on the
// number of its records.
func TestProduceAllocatesNothingPerRecord(t *testing.T) {
	r := startBroker(t, func(c *Config) { c.TopicDefaults = map[string]string{"write.caching": "true"} })
	if _, err := r.topics.create(testContext(t), mustTopic(t, r, "t")); err != nil {
		t.Fatal(err)
	}
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	c := newConn(r.listeners[0], server)
	c.ctx, c.drain = t.Context(), t.Context()

	for _, codec := range []protocol.Codec{protocol.None, protocol.Gzip, protocol.Snappy, protocol.LZ4, protocol.Zstd} {
		allocs := func(records int) float64 {
			values := make([]string, records)
			for i := range values {
				values[i] = fmt.Sprintf("value %d", i)
			}
			sent := produceRequest(t, 0, testBatch(t, codec, values...), -1)[4:]
			frame := make([]byte, len(sent))
			return testing.AllocsPerRun(50, func() {
				copy(frame, sent) // appending sets the batch's offset in place
				h, req, err := protocol.ParseRequest(frame)
				if err != nil {
					t.Fatal(err)
				}
				resp := c.begin(h, req, nil)().response.(*kmsg.ProduceResponse)
				if code := resp.Topics[0].Partitions[0].ErrorCode; code != 0 {
					t.Fatal(kerr.ErrorForCode(code))
				}
			})
		}
		one, many := allocs(1), allocs(500)
		t.Logf("%s: %.0f allocations for one record, %.0f for 500", codec, one, many)
		if many > one+40 {
			t.Errorf("%s: %.0f allocations for one record, %.0f for 500", codec, one, many)
		}
	}
}
