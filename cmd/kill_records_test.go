package cmd_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mft/internal/commandtest"
)

// traffic is idempotent producers that write numbered records to every partition of some topics, as fast as acks allow.
type traffic struct {
	t          *testing.T
	addr       string
	topics     []string
	partitions int
	producers  int
	size       int // bytes of a value, at least

	stop    context.CancelFunc
	running sync.WaitGroup
	acked   atomic.Int64

	mu   sync.Mutex
	sent map[stream]int64 // records of each stream that were handed to the client; all of them are acked once finish returns
	at   map[place]string // value of each acked record
}

// stream is what keeps an order: the records of one producer in one partition.
type stream struct {
	producer  int
	topic     string
	partition int32
}

// place is where a record was acknowledged to be.
type place struct {
	topic     string
	partition int32
	offset    int64
}

// startTraffic creates the topics and starts the producers.
func startTraffic(t *testing.T, addr string, topics, partitions, producers, size int) *traffic {
	t.Helper()
	l := &traffic{t: t, addr: addr, partitions: partitions, producers: producers, size: size, sent: map[stream]int64{}, at: map[place]string{}}
	for i := range topics {
		topic := fmt.Sprintf("load-%d", i)
		commands.Run(t, "mft-admin", "topics", "create", "-b", addr, topic, "-p", strconv.Itoa(partitions), "--config", "segment.bytes=500000")
		l.topics = append(l.topics, topic)
	}
	ctx, stop := context.WithCancel(t.Context())
	l.stop = stop
	for p := range producers {
		l.running.Go(func() { l.produce(ctx, p) })
	}
	return l
}

func (l *traffic) client(opts ...kgo.Opt) *kgo.Client {
	client, err := kgo.NewClient(append(opts, kgo.SeedBrokers(l.addr), kgo.MetadataMinAge(20*time.Millisecond),
		kgo.RetryBackoffFn(func(int) time.Duration { return 10 * time.Millisecond }), kgo.DialTimeout(5*time.Second))...)
	if err != nil {
		panic(err) // options of our own
	}
	return client
}

// produce is one producer: until ctx ends it hands over records, then it waits for the acks of all of them.
func (l *traffic) produce(ctx context.Context, producer int) {
	client := l.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0), kgo.MaxBufferedRecords(4*l.partitions))
	defer client.Close()
	rng := rand.New(rand.NewPCG(uint64(producer), 7))
	padding := make([]byte, l.size)
	for i := range padding {
		padding[i] = 'a' + byte(i%26)
	}
	next := map[stream]int64{}
	for ctx.Err() == nil {
		s := stream{producer, l.topics[rng.IntN(len(l.topics))], rng.Int32N(int32(l.partitions))}
		value := fmt.Sprintf("%d %d %s", producer, next[s], padding)
		next[s]++
		client.Produce(context.Background(), &kgo.Record{Topic: s.topic, Partition: s.partition, Value: []byte(value)}, func(r *kgo.Record, err error) {
			if err != nil {
				l.t.Errorf("producer %d: %v", producer, err)
				return
			}
			l.acked.Add(1)
			l.mu.Lock()
			defer l.mu.Unlock()
			at := place{r.Topic, r.Partition, r.Offset}
			if other, ok := l.at[at]; ok {
				l.t.Errorf("offset %d of %s-%d was given to %.20q and to %.20q", r.Offset, r.Topic, r.Partition, other, value)
			}
			l.at[at] = value
		})
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := client.Flush(ctx); err != nil {
		l.t.Errorf("producer %d: %d records are not acknowledged: %v", producer, client.BufferedProduceRecords(), err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for s, n := range next {
		l.sent[s] = n
	}
}

// waitAcked waits until n more records are acked than now.
func (l *traffic) waitAcked(n int64) {
	l.t.Helper()
	want, deadline := l.acked.Load()+n, time.Now().Add(time.Minute)
	for l.acked.Load() < want {
		if time.Now().After(deadline) {
			l.t.Fatalf("%d of %d records acknowledged within a minute", l.acked.Load(), want)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// finish ends the producers, which get their last acks, and checks what the topics hold: every record once, in order, where its ack said.
func (l *traffic) finish() {
	l.t.Helper()
	l.stop()
	l.running.Wait()
	l.check()
}

// check reads all topics from the beginning up to all records that are acked now.
func (l *traffic) check() {
	l.t.Helper()
	l.mu.Lock()
	want := make(map[place]string, len(l.at))
	for at, value := range l.at {
		want[at] = value
	}
	sent := l.sent
	l.mu.Unlock()
	client := l.client(kgo.ConsumeTopics(l.topics...))
	defer client.Close()
	ctx := withDeadline(l.t, 2*time.Minute)
	next := map[stream]int64{}
	for len(want) > 0 {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			l.t.Fatalf("%d acknowledged records are lost, among them %v", len(want), anyOf(want))
		}
		for _, err := range fetches.Errors() {
			l.t.Fatalf("%s-%d: %v", err.Topic, err.Partition, err.Err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			var producer int
			var seq int64
			if _, err := fmt.Sscan(string(r.Value), &producer, &seq); err != nil {
				l.t.Fatalf("%s-%d offset %d holds %.40q", r.Topic, r.Partition, r.Offset, r.Value)
			}
			s := stream{producer, r.Topic, r.Partition}
			if seq != next[s] {
				l.t.Errorf("%s-%d offset %d: record %d of producer %d where %d was to come", r.Topic, r.Partition, r.Offset, seq, producer, next[s])
			}
			next[s] = seq + 1
			at := place{r.Topic, r.Partition, r.Offset}
			if value, ok := want[at]; ok && value != string(r.Value) {
				l.t.Errorf("%s-%d offset %d holds %.40q, acknowledged was %.40q", r.Topic, r.Partition, r.Offset, r.Value, value)
			}
			delete(want, at)
		})
		if l.t.Failed() {
			l.t.FailNow()
		}
	}
	for s, n := range sent {
		if next[s] != n {
			l.t.Errorf("%s-%d: %d records of producer %d, %d were sent", s.topic, s.partition, next[s], s.producer, n)
		}
	}
}

func anyOf(m map[place]string) any {
	for at, value := range m {
		return fmt.Sprintf("%s-%d offset %d: %.40q", at.topic, at.partition, at.offset, value)
	}
	return nil
}

// killCount is how often the broker is killed: a couple of dozen times, or MFT_TEST_KILLS times, hundreds in a nightly run for instance.
func killCount(t *testing.T) int {
	text := os.Getenv("MFT_TEST_KILLS")
	if text == "" {
		return 20
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("MFT_TEST_KILLS=%s: give a number", text)
	}
	return n
}

// TestKillBrokerUnderLoad kills the broker with signal 9 again and again while idempotent producers write to many partitions. Every record is there
// at the end, once, in order, and where its ack said; and nothing on the disk is damaged.
func TestKillBrokerUnderLoad(t *testing.T) {
	n, seed := killCount(t), uint64(time.Now().UnixNano())
	t.Logf("%d kills, seed %d", n, seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	data := t.TempDir()
	b := commands.StartBroker(t, data, "")
	l := startTraffic(t, b.Addr, 3, 16, 4, 200)
	for range n {
		l.waitAcked(1 + rng.Int64N(3000)) // a moment, counted in acks: each run of the broker does something
		b.KillNow()
		b = commands.StartBroker(t, data, l.addr)
	}
	l.finish()
	t.Logf("%d records", l.acked.Load())
	verifyData(t, data, b)
}

// verifyData stops the broker and checks its data directory offline.
func verifyData(t *testing.T, data string, b *commandtest.Broker) {
	t.Helper()
	stopBroker(t, b)
	commands.Run(t, "mft-admin", "dump", "--verify", data)
}

// TestDumpBesideTheBroker checks a data directory again and again while a broker writes to it, begins segments and makes checkpoints: nothing of that
// looks like damage.
func TestDumpBesideTheBroker(t *testing.T) {
	data := t.TempDir()
	b := commands.StartBroker(t, data, "")
	l := startTraffic(t, b.Addr, 2, 4, 3, 2000)
	for range 6 {
		l.waitAcked(500)
		commands.Run(t, "mft-admin", "dump", "--verify", data)
	}
	l.finish()
	verifyData(t, data, b)
}
