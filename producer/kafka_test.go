package producer_test

import (
	"context"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"mft/broker"
	"mft/producer"
	"mft/protocol"
)

const (
	topic   = "files"
	timeout = 30 * time.Second // of anything that should happen
)

// startKafka starts another Kafka implementation on a loopback port.
func startKafka(t *testing.T, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	cluster, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1), kfake.AllowAutoTopicCreation(), kfake.DefaultNumPartitions(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return cluster
}

// startBroker starts mft's broker on a loopback port.
func startBroker(t *testing.T, partitions int32) []string {
	t.Helper()
	return []string{runBroker(t, t.TempDir(), "127.0.0.1:0", partitions).addr}
}

// runningBroker is a broker that can be stopped before the test ends.
type runningBroker struct {
	addr string
	stop func()
}

func runBroker(t *testing.T, data, addr string, partitions int32) *runningBroker {
	t.Helper()
	cfg := broker.DefaultConfig()
	cfg.Data, cfg.DefaultPartitions = data, partitions
	cfg.Listeners = []broker.Listener{{Addr: addr}}
	b, err := broker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return &runningBroker{b.Addrs()[0].String(), stop}
}

// onEachKafka runs a test against mft's broker and against another implementation.
func onEachKafka(t *testing.T, partitions int32, test func(t *testing.T, brokers []string)) {
	t.Run("mft", func(t *testing.T) { test(t, startBroker(t, partitions)) })
	t.Run("kfake", func(t *testing.T) {
		test(t, startKafka(t, kfake.DefaultNumPartitions(int(partitions))).ListenAddrs())
	})
}

func createTopic(t *testing.T, brokers []string, configs map[string]string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.DisableClientMetrics())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	values := make(map[string]*string)
	for key, value := range configs {
		values[key] = &value
	}
	resp, err := kadm.NewClient(client).CreateTopic(t.Context(), 1, 1, values, topic)
	if err != nil || resp.Err != nil {
		t.Fatal(err, resp.Err)
	}
}

func testLogger(t *testing.T) zerolog.Logger {
	return zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.InfoLevel)
}

func newProducer(t *testing.T, brokers []string, change func(*producer.Config)) *producer.Producer {
	t.Helper()
	cfg := producer.Config{Brokers: brokers, Topic: topic, Logger: testLogger(t)}
	if change != nil {
		change(&cfg)
	}
	p, err := producer.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// reader reads a topic from its beginning.
type reader struct {
	t       *testing.T
	client  *kgo.Client
	pending []*kgo.Record
}

func newReader(t *testing.T, brokers []string) *reader {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(200*time.Millisecond),
		kgo.DisableClientMetrics(), kgo.MetadataMinAge(50*time.Millisecond), kgo.MetadataMaxAge(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return &reader{t: t, client: client}
}

// next returns the next record.
func (r *reader) next() *kgo.Record {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	for len(r.pending) == 0 {
		fetches := r.client.PollFetches(ctx)
		if ctx.Err() != nil {
			r.t.Fatal("no further record arrived")
		}
		r.pending = fetches.Records()
	}
	rec := r.pending[0]
	r.pending = r.pending[1:]
	return rec
}

// values returns the values of the next n records.
func (r *reader) values(n int) []string {
	r.t.Helper()
	var values []string
	for range n {
		values = append(values, string(r.next().Value))
	}
	return values
}

// received is what came of one transfer.
type received struct {
	manifest protocol.Manifest
	data     []byte
	ended    bool
	aborted  string // reason
	codec    kgo.RecordAttrs
}

// files reads transfers until n were ended, and checks each. The slice is in
// the order of their ends and aborts.
func (r *reader) files(n int) []*received {
	r.t.Helper()
	open := make(map[protocol.TransferID]*received)
	partition := make(map[protocol.TransferID]int32)
	var done []*received
	for ended := 0; ended < n; {
		rec := r.next()
		f, err := protocol.ParseFileRecord(rec.Key, rec.Value, rec.Headers)
		if err != nil {
			r.t.Fatal(err)
		}
		got := open[f.Transfer]
		switch f.Kind {
		case protocol.KindBegin:
			if got != nil {
				r.t.Fatalf("transfer %s begins twice", f.Transfer)
			}
			if err := protocol.CheckName(f.Manifest.Name); err != nil {
				r.t.Fatal(err)
			}
			open[f.Transfer] = &received{manifest: *f.Manifest}
			partition[f.Transfer] = rec.Partition
			continue
		case protocol.KindChunk:
			if f.Offset != int64(len(got.data)) {
				r.t.Fatalf("%s: chunk at %d, want %d", got.manifest.Name, f.Offset, len(got.data))
			}
			got.data = append(got.data, f.Data...)
			got.codec = rec.Attrs
		case protocol.KindEnd:
			got.ended = true
			ended++
			done = append(done, got)
			r.check(got, f.End)
		case protocol.KindAbort:
			got.aborted = f.Abort.Reason
			done = append(done, got)
		}
		if partition[f.Transfer] != rec.Partition {
			r.t.Fatalf("%s: records in partitions %d and %d", got.manifest.Name, partition[f.Transfer], rec.Partition)
		}
	}
	return done
}

func (r *reader) check(got *received, end *protocol.End) {
	r.t.Helper()
	m := got.manifest
	if end.Size != m.Size || int64(len(got.data)) != m.Size {
		r.t.Errorf("%s: manifest says %d bytes, end says %d, %d came", m.Name, m.Size, end.Size, len(got.data))
	}
	if m.Type == protocol.TypeDir {
		return
	}
	digest, err := protocol.NewDigest(m.Digest)
	if err != nil {
		r.t.Fatal(err)
	}
	digest.Write(got.data)
	if sum := hex.EncodeToString(digest.Sum(nil)); sum != end.Digest {
		r.t.Errorf("%s: digest %s, want %s", m.Name, end.Digest, sum)
	}
}

// writeFile makes a file, and the directories it needs.
func writeFile(t *testing.T, name string, data []byte) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// pattern is n bytes that compress and yet differ from chunk to chunk.
func pattern(n int) []byte {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte('a' + (i/64+i/4096)%26)
	}
	return data
}

func names(files []*received) []string {
	var names []string
	for _, f := range files {
		name := f.manifest.Name
		if f.manifest.Type == protocol.TypeDir {
			name += "/"
		}
		names = append(names, name)
	}
	return names
}

func sorted(s []string) string {
	s = slices.Clone(s)
	slices.Sort(s)
	return strings.Join(s, "\n")
}
