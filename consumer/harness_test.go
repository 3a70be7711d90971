package consumer

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"mft/broker"
	"mft/protocol"
)

// sender produces hand-made file streams.
type sender struct {
	t       testing.TB
	brokers []string
	client  *kgo.Client
	topic   string
}

// otherKafka starts another Kafka: kfake, on a real socket.
func otherKafka(t testing.TB) []string {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return cluster.ListenAddrs()
}

// onBoth runs a test against mft's broker and against another Kafka.
func onBoth(t *testing.T, test func(t *testing.T, brokers []string)) {
	t.Parallel()
	t.Run("mft", func(t *testing.T) {
		t.Parallel()
		test(t, startBroker(t, t.TempDir(), "127.0.0.1:0").addrs)
	})
	t.Run("kafka", func(t *testing.T) {
		t.Parallel()
		test(t, otherKafka(t))
	})
}

// running is a broker of mft's in this process.
type running struct {
	addrs []string
	stop  func()
}

func startBroker(t testing.TB, data, listen string) *running {
	t.Helper()
	cfg := broker.DefaultConfig()
	cfg.Data, cfg.Listeners = data, []broker.Listener{{Addr: listen}}
	b, err := broker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	r := &running{addrs: []string{b.Addrs()[0].String()}}
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	r.stop = stop
	t.Cleanup(stop)
	return r
}

// newSender makes a topic on its broker and a client to fill it.
func newSender(t testing.TB, brokers []string, topic string, partitions int32) *sender {
	t.Helper()
	client, err := kgo.NewClient(
		kgo.SeedBrokers(brokers...),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.ProducerLinger(0),
		kgo.MetadataMinAge(10*time.Millisecond),
		kgo.DisableClientMetrics(),
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	s := &sender{t, brokers, client, topic}
	s.createTopic(partitions)
	return s
}

func (s *sender) createTopic(partitions int32) {
	s.t.Helper()
	if _, err := kadm.NewClient(s.client).CreateTopic(s.t.Context(), partitions, 1, nil, s.topic); err != nil {
		s.t.Fatal(err)
	}
}

// send produces the records to a partition, in order, and waits for them.
func (s *sender) send(partition int32, records ...*kgo.Record) {
	s.t.Helper()
	for _, r := range records {
		r.Topic, r.Partition = s.topic, partition
	}
	if err := s.client.ProduceSync(s.t.Context(), records...).FirstErr(); err != nil {
		s.t.Fatal(err)
	}
}

// upload is a file as it is sent.
type upload struct {
	id       protocol.TransferID
	manifest protocol.Manifest
	content  []byte
}

var testTime = time.Date(2024, 2, 29, 12, 34, 56, 789_000_000, time.UTC)

func newUpload(name string, content []byte) *upload {
	return &upload{protocol.NewTransferID(), protocol.Manifest{
		Name: name, Type: protocol.TypeFile, Size: int64(len(content)), Mode: 0o640, ModTime: testTime, Digest: protocol.DigestXXH3,
	}, content}
}

func newDir(name string, mode protocol.Mode) *upload {
	return &upload{protocol.NewTransferID(), protocol.Manifest{
		Name: name, Type: protocol.TypeDir, Mode: mode, ModTime: testTime,
	}, nil}
}

func record(r protocol.FileRecord) *kgo.Record {
	key, value, headers := r.Encode()
	out := &kgo.Record{Key: key, Value: bytes.Clone(value)}
	for _, h := range headers {
		out.Headers = append(out.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
	}
	return out
}

func (u *upload) begin() *kgo.Record {
	m := u.manifest
	return record(protocol.FileRecord{Transfer: u.id, Kind: protocol.KindBegin, Manifest: &m})
}

func (u *upload) chunk(from, to int) *kgo.Record {
	return record(protocol.FileRecord{Transfer: u.id, Kind: protocol.KindChunk, Offset: int64(from), Data: u.content[from:to]})
}

func (u *upload) chunks(size int) (list []*kgo.Record) {
	for from := 0; from < len(u.content); from += size {
		list = append(list, u.chunk(from, min(from+size, len(u.content))))
	}
	return list
}

func (u *upload) end() *kgo.Record {
	end := protocol.End{Size: int64(len(u.content))}
	if u.manifest.Type == protocol.TypeFile {
		h, err := protocol.NewDigest(u.manifest.Digest)
		if err != nil {
			panic(err)
		}
		h.Write(u.content)
		end.Digest = hex.EncodeToString(h.Sum(nil))
	}
	return u.endAs(end)
}

func (u *upload) endAs(end protocol.End) *kgo.Record {
	return record(protocol.FileRecord{Transfer: u.id, Kind: protocol.KindEnd, End: &end})
}

func (u *upload) abort() *kgo.Record {
	return record(protocol.FileRecord{Transfer: u.id, Kind: protocol.KindAbort, Abort: &protocol.Abort{Reason: "changed"}})
}

// records are all of it, in order.
func (u *upload) records(chunk int) []*kgo.Record {
	return append(append([]*kgo.Record{u.begin()}, u.chunks(chunk)...), u.end())
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	source := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)})
	if _, err := source.Read(b); err != nil {
		panic(err)
	}
	return b
}

// tree is what stands in a directory: content by name, names of directories
// ending in a slash. A work directory that is in use is left out.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || name == "." {
			return err
		}
		switch {
		case name == workDir && inUse(dir):
			return fs.SkipDir
		case d.IsDir():
			found[filepath.ToSlash(name)+"/"] = ""
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			found[filepath.ToSlash(name)] = "-> " + target
		default:
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			found[filepath.ToSlash(name)] = string(content)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func inUse(dir string) bool {
	lock := flock.New(filepath.Join(dir, workDir, lockFile))
	defer lock.Close()
	free, err := lock.TryLock()
	return err == nil && !free
}

// equalTrees compares what stands in dir with what should.
func equalTrees(t testing.TB, dir string, want map[string]string) {
	t.Helper()
	got := tree(t, dir)
	for name, content := range want {
		have, ok := got[name]
		switch {
		case !ok:
			t.Errorf("%s is missing", name)
		case have != content:
			t.Errorf("%s: %d bytes that differ from the %d sent", name, len(have), len(content))
		}
		for parent := filepath.ToSlash(filepath.Dir(name)); parent != "."; parent = filepath.ToSlash(filepath.Dir(parent)) {
			delete(got, parent+"/")
		}
		delete(got, name)
	}
	for name := range got {
		t.Errorf("%s is there and should not be", name)
	}
}

// testLog shows the log of a test that fails.
func testLog(t testing.TB) zerolog.Logger {
	return zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.InfoLevel)
}

// config receives over several streams in the tests that say so by their name.
func (s *sender) config(dir string) FilesConfig {
	cfg := FilesConfig{Config: Config{Brokers: s.brokers, Topic: s.topic, Logger: testLog(s.t)}, Dir: dir, Once: true}
	if strings.HasPrefix(s.t.Name(), "TestStreams") {
		cfg.Streams, cfg.pieceBytes = 4, 4096 // so small that nearly everything is fetched in ranges
	}
	return cfg
}

// receive runs ReceiveFiles to its end.
func receive(t testing.TB, cfg FilesConfig) Summary {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
	defer cancel()
	summary, err := ReceiveFiles(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if ctx.Err() != nil {
		t.Fatalf("receiving did not end by itself: %+v", summary)
	}
	return summary
}

// outcomeLog collects events.
type outcomeLog struct {
	done    chan string // names
	failed  []string
	dropped []string
	names   map[string]string
}

func newOutcomeLog() *outcomeLog {
	return &outcomeLog{done: make(chan string, 100_000), names: make(map[string]string)}
}

func (o *outcomeLog) events() Events {
	return Events{
		Begin:   func(id, name string, _ int64, _ bool) { o.names[id] = name },
		Done:    func(id, _ string) { o.done <- o.names[id] },
		Failed:  func(_, name string, why error) { o.failed = append(o.failed, fmt.Sprintf("%s: %v", name, why)) },
		Dropped: func(_, name string, why error) { o.dropped = append(o.dropped, fmt.Sprintf("%s: %v", name, why)) },
	}
}

func (o *outcomeLog) wait(t testing.TB, n int) (names []string) {
	t.Helper()
	for range n {
		select {
		case name := <-o.done:
			names = append(names, name)
		case <-time.After(40 * time.Second):
			t.Fatalf("only %d of %d files arrived: %s", len(names), n, strings.Join(names, ", "))
		}
	}
	return names
}

// start runs ReceiveFiles in the background; stop ends it and returns what it did.
func start(t testing.TB, cfg FilesConfig) (stop func() Summary) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	type result struct {
		summary Summary
		err     error
	}
	ended := make(chan result, 1)
	go func() {
		summary, err := ReceiveFiles(ctx, cfg)
		ended <- result{summary, err}
	}()
	stopped := false
	stop = func() Summary {
		t.Helper()
		stopped = true
		cancel()
		r := <-ended
		if r.err != nil {
			t.Error(r.err)
		}
		return r.summary
	}
	t.Cleanup(func() {
		if !stopped {
			stop()
		}
	})
	return stop
}
