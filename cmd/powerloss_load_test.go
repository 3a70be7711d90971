//go:build linux

package cmd_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

type powerTopic struct {
	name       string
	partitions int32
	configs    map[string]*string
	repeats    bool // its producer is not idempotent: a record may be there more than once
}

// The topics under load: many partitions, segments that roll often and seldom.
var powerTopics = []powerTopic{
	{"plain", 24, nil, false},
	{"small", 24, map[string]*string{"segment.bytes": new("16384"), "index.interval.bytes": new("512")}, false},
	{"medium", 12, map[string]*string{"segment.bytes": new("131072")}, false},
	{"repeats", 4, map[string]*string{"segment.bytes": new("32768")}, true},
}

const (
	powerProducers = 4
	readersGroup   = "readers" // consumes and commits what it has read
	bulkGroup      = "bulk"    // commits much metadata, so that the journal fills and checkpoints happen
	churnNames     = 5         // topics that come and go
)

// lane is a partition.
type lane struct {
	topic     string
	partition int32
}

// stamp says which record it is: of a producer, and the how-manieth in its lane.
type stamp struct {
	producer uint32
	sequence uint64
}

// A value is the stamp, the lane, random bytes, and a CRC over it all.
func encodeValue(l lane, s stamp, padding int, random *rand.Rand) []byte {
	v := binary.BigEndian.AppendUint32(nil, s.producer)
	v = binary.BigEndian.AppendUint64(v, s.sequence)
	v = binary.BigEndian.AppendUint32(v, uint32(l.partition))
	v = append(append(v, byte(len(l.topic))), l.topic...)
	for range padding / 8 {
		v = binary.BigEndian.AppendUint64(v, random.Uint64())
	}
	v = append(v, "padding"[:padding%8]...)
	return binary.BigEndian.AppendUint32(v, crc32.ChecksumIEEE(v))
}

// decodeValue checks a record that was read.
func decodeValue(r *kgo.Record) (stamp, error) {
	v := r.Value
	if len(v) < 21 || crc32.ChecksumIEEE(v[:len(v)-4]) != binary.BigEndian.Uint32(v[len(v)-4:]) {
		return stamp{}, fmt.Errorf("%s-%d, offset %d: a value of %d bytes is damaged", r.Topic, r.Partition, r.Offset, len(v))
	}
	if n := int(v[16]); n != len(r.Topic) || string(v[17:17+n]) != r.Topic || binary.BigEndian.Uint32(v[12:]) != uint32(r.Partition) {
		return stamp{}, fmt.Errorf("%s-%d, offset %d: the record belongs elsewhere", r.Topic, r.Partition, r.Offset)
	}
	return stamp{binary.BigEndian.Uint32(v), binary.BigEndian.Uint64(v[4:])}, nil
}

// load is what clients do to a broker, and what it has acknowledged to them.
type load struct {
	t         *testing.T
	addr      string
	seed      uint64
	log       *os.File // of the clients, among the artifacts
	topics    []powerTopic
	steady    bool            // no topics come and go
	ctx       context.Context // of new work
	stop      context.CancelFunc
	sending   context.Context // of what is on its way
	giveUp    context.CancelFunc
	clients   []*kgo.Client // the producers
	producing sync.WaitGroup
	others    sync.WaitGroup
	quiet     sync.RWMutex // held by verify, and for reading by what changes anything

	mu        sync.Mutex
	acked     map[lane]map[int64]stamp
	count     int
	sent      map[lane]map[uint32]uint64 // by producer, how many records
	committed map[string]map[lane]int64  // by group
	churn     map[string]*churnTopic
	strange   []error       // what must not happen
	more      chan struct{} // cap 1: count has grown
	closing   bool          // errors of producers are to be expected
}

// churnTopic is one that comes and goes.
type churnTopic struct {
	exists, gone bool // neither: its creation or deletion was not acknowledged
	partitions   int32
	life         uint32 // how often it was created; the producer's number in its records
}

func newLoad(t *testing.T, addr string, seed uint64, topics []powerTopic) *load {
	l := &load{
		t: t, addr: addr, seed: seed, topics: topics,
		acked: map[lane]map[int64]stamp{}, sent: map[lane]map[uint32]uint64{},
		committed: map[string]map[lane]int64{readersGroup: {}, bulkGroup: {}},
		churn:     map[string]*churnTopic{},
		more:      make(chan struct{}, 1),
	}
	log, err := os.OpenFile(filepath.Join(t.ArtifactDir(), "clients.log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	l.log = log
	l.ctx, l.stop = context.WithCancel(context.Background())
	l.sending, l.giveUp = context.WithCancel(context.Background())
	t.Cleanup(l.end)
	return l
}

// client connects, with the patience of someone whose broker comes back soon.
func (l *load) client(opts ...kgo.Opt) *kgo.Client {
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(l.addr),
		kgo.MetadataMinAge(20 * time.Millisecond),
		kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond }),
		kgo.DialTimeout(time.Second),
		kgo.AlwaysRetryEOF(), // a broker may die between accepting a connection and its first answer, for which records would be given up
		kgo.WithLogger(kgo.BasicLogger(l.log, kgo.LogLevelWarn, func() string { return time.Now().Format("15:04:05.000 ") })),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.UnknownTopicRetries(-1),
		kgo.ProducerLinger(0),
		kgo.FetchMaxWait(50 * time.Millisecond),
	}, opts...)...)
	if err != nil {
		l.t.Fatal(err)
	}
	return cl
}

func (l *load) createTopics() error {
	cl := l.client()
	defer cl.Close()
	ctx, cancel := context.WithTimeout(l.ctx, 30*time.Second)
	defer cancel()
	for _, topic := range l.topics {
		if _, err := kadm.NewClient(cl).CreateTopic(ctx, topic.partitions, -1, topic.configs, topic.name); err != nil {
			return fmt.Errorf("create %s: %w", topic.name, err)
		}
	}
	return nil
}

func (l *load) start() {
	for i := range powerProducers {
		codecs := []kgo.CompressionCodec{kgo.NoCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()}
		cl := l.client(kgo.ProducerBatchCompression(codecs[i]), kgo.MaxBufferedRecords(300))
		l.clients = append(l.clients, cl)
		l.producing.Go(func() { l.produce(cl, uint32(i), false) })
	}
	if slices.ContainsFunc(l.topics, func(t powerTopic) bool { return t.repeats }) {
		cl := l.client(kgo.DisableIdempotentWrite(), kgo.MaxBufferedRecords(100))
		l.clients = append(l.clients, cl)
		l.producing.Go(func() { l.produce(cl, powerProducers, true) })
	}
	l.others.Go(l.consume)
	l.others.Go(l.commitMuch)
	if !l.steady {
		l.others.Go(l.createAndDelete)
	}
}

// end ends it all at once.
func (l *load) end() {
	l.mu.Lock()
	l.closing = true
	l.mu.Unlock()
	l.stop()
	l.giveUp()
	l.producing.Wait()
	l.others.Wait()
	for _, cl := range l.clients {
		cl.Close()
	}
	l.clients = nil
	if err := l.log.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		l.t.Error(err)
	}
}

// finish sends the rest, and checks that then everything that was sent is there.
func (l *load) finish() error {
	l.stop()
	l.producing.Wait()
	l.others.Wait()
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
	defer cancel()
	for _, cl := range l.clients {
		if err := cl.Flush(ctx); err != nil {
			return fmt.Errorf("send the rest: %w", err)
		}
	}
	if err := l.verify(rand.New(rand.NewPCG(l.seed, 9))); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for at, producers := range l.sent {
		var sent uint64
		for _, n := range producers {
			sent += n
		}
		if got := uint64(len(l.acked[at])); got != sent {
			return fmt.Errorf("%v: %d records were sent and %d acknowledged", at, sent, got)
		}
	}
	return nil
}

// complain notes what must not happen.
func (l *load) complain(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closing && len(l.strange) < 20 {
		l.strange = append(l.strange, fmt.Errorf(format, args...))
	}
}

// acknowledge notes a record that was acknowledged.
func (l *load) acknowledge(at lane, offset int64, s stamp) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.acked[at] == nil {
		l.acked[at] = map[int64]stamp{}
	}
	if other, ok := l.acked[at][offset]; ok && other != s && len(l.strange) < 20 {
		l.strange = append(l.strange, fmt.Errorf("%w: %v, offset %d was acknowledged for %v and then for %v", errLost, at, offset, other, s))
	}
	l.acked[at][offset] = s
	l.count++
	select {
	case l.more <- struct{}{}:
	default:
	}
}

func (l *load) acknowledged() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count
}

// waitFor waits until so many records were acknowledged.
func (l *load) waitFor(count int) {
	l.t.Helper()
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	for l.acknowledged() < count {
		select {
		case <-l.more:
		case <-limit.C:
			l.t.Fatalf("%d records acknowledged in a minute, want %d", l.acknowledged(), count)
		}
	}
}

// produce sends records to random lanes, at a rate that the disk can follow.
func (l *load) produce(cl *kgo.Client, producer uint32, repeats bool) {
	random := rand.New(rand.NewPCG(l.seed, uint64(producer)+100))
	var lanes []lane
	for _, topic := range l.topics {
		for p := range topic.partitions {
			if topic.repeats == repeats {
				lanes = append(lanes, lane{topic.name, p})
			}
		}
	}
	pace := time.NewTicker(4 * time.Millisecond)
	defer pace.Stop()
	for {
		select {
		case <-pace.C:
		case <-l.ctx.Done():
			return
		}
		l.quiet.RLock()
		at := lanes[random.IntN(len(lanes))]
		for range 1 + random.IntN(6) {
			if random.IntN(3) > 0 { // otherwise into one batch
				at = lanes[random.IntN(len(lanes))]
			}
			size := random.IntN(1500)
			if random.IntN(50) == 0 {
				size = random.IntN(40_000)
			}
			l.mu.Lock()
			if l.sent[at] == nil {
				l.sent[at] = map[uint32]uint64{}
			}
			s := stamp{producer, l.sent[at][producer]}
			l.sent[at][producer]++
			l.mu.Unlock()
			r := &kgo.Record{Topic: at.topic, Partition: at.partition, Value: encodeValue(at, s, size, random)}
			cl.Produce(l.sending, r, func(r *kgo.Record, err error) {
				if err != nil {
					l.complain("producer %d gave up record %d of %s-%d: %w", producer, s.sequence, r.Topic, r.Partition, err)
					return
				}
				l.acknowledge(lane{r.Topic, r.Partition}, r.Offset, s)
			})
		}
		l.quiet.RUnlock()
	}
}

// consume reads all topics in a group, and commits.
func (l *load) consume() {
	var topics []string
	for _, topic := range l.topics {
		topics = append(topics, topic.name)
	}
	cl := l.client(kgo.ConsumerGroup(readersGroup), kgo.ConsumeTopics(topics...), kgo.DisableAutoCommit(),
		kgo.HeartbeatInterval(200*time.Millisecond), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer cl.Close()
	last := time.Now()
	for {
		fetches := cl.PollFetches(l.ctx)
		if l.ctx.Err() != nil {
			return
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if _, err := decodeValue(r); err != nil {
				l.complain("the group was served: %w", err)
			}
		})
		for _, e := range fetches.Errors() {
			if errors.Is(e.Err, kerr.CorruptMessage) || errors.Is(e.Err, kerr.OffsetOutOfRange) {
				l.complain("the group reads %s-%d: %w", e.Topic, e.Partition, e.Err)
			}
		}
		if time.Since(last) < 20*time.Millisecond {
			continue
		}
		last = time.Now()
		l.quiet.RLock()
		cl.CommitOffsetsSync(l.ctx, cl.UncommittedOffsets(), func(_ *kgo.Client, req *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
			if err != nil {
				return // the broker is away
			}
			failed := map[lane]bool{}
			for _, topic := range resp.Topics {
				for _, p := range topic.Partitions {
					failed[lane{topic.Topic, p.Partition}] = p.ErrorCode != 0
				}
			}
			for _, topic := range req.Topics {
				for _, p := range topic.Partitions {
					if at := (lane{topic.Topic, p.Partition}); !failed[at] {
						l.commit(readersGroup, at, p.Offset)
					}
				}
			}
		})
		l.quiet.RUnlock()
	}
}

// commit notes an offset whose commit was acknowledged.
func (l *load) commit(group string, at lane, offset int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.committed[group][at] = max(l.committed[group][at], offset)
}

// bulkMetadata is what is committed with an offset of bulkGroup.
func bulkMetadata(at lane, offset int64) string {
	text := fmt.Sprintf("%s-%d@%d ", at.topic, at.partition, offset)
	return strings.Repeat(text, 3000/len(text))
}

// commitMuch commits offsets that count up, with metadata.
func (l *load) commitMuch() {
	cl := l.client()
	defer cl.Close()
	adm := kadm.NewClient(cl)
	pace := time.NewTicker(50 * time.Millisecond)
	defer pace.Stop()
	for n := int64(1); ; n++ {
		select {
		case <-pace.C:
		case <-l.ctx.Done():
			return
		}
		var offsets kadm.Offsets
		for _, topic := range l.topics {
			for p := range topic.partitions {
				offsets.Add(kadm.Offset{Topic: topic.name, Partition: p, At: n, LeaderEpoch: -1, Metadata: bulkMetadata(lane{topic.name, p}, n)})
			}
		}
		l.quiet.RLock()
		responses, err := adm.CommitOffsets(l.ctx, bulkGroup, offsets)
		if err == nil {
			responses.Each(func(r kadm.OffsetResponse) {
				if r.Err == nil {
					l.commit(bulkGroup, lane{r.Topic, r.Partition}, n)
				}
			})
		}
		l.quiet.RUnlock()
	}
}

// createAndDelete creates topics, sends them a few records, and deletes them, under the same few names.
func (l *load) createAndDelete() {
	random := rand.New(rand.NewPCG(l.seed, 300))
	cl := l.client()
	defer cl.Close()
	adm := kadm.NewClient(cl)
	for l.ctx.Err() == nil {
		l.quiet.RLock()
		name := fmt.Sprintf("churn-%d", random.IntN(churnNames))
		l.mu.Lock()
		topic := l.churn[name]
		if topic == nil {
			topic = &churnTopic{gone: true}
			l.churn[name] = topic
		}
		was := *topic
		topic.exists, topic.gone = was.exists && random.IntN(2) == 0, false
		more := topic.exists
		l.mu.Unlock()
		switch {
		case was.gone:
			partitions := 1 + random.Int32N(3)
			_, err := adm.CreateTopic(l.ctx, partitions, -1, nil, name)
			if err == nil || errors.Is(err, kerr.TopicAlreadyExists) { // a try before this one got through, its answer did not
				l.mu.Lock()
				*topic = churnTopic{exists: true, partitions: partitions, life: was.life + 1}
				l.mu.Unlock()
				l.produceFew(random, name, partitions, was.life+1)
			}
		case more:
			l.produceFew(random, name, was.partitions, was.life)
		default:
			l.mu.Lock()
			maps.DeleteFunc(l.acked, func(at lane, _ map[int64]stamp) bool { return at.topic == name })
			l.mu.Unlock()
			_, err := adm.DeleteTopic(l.ctx, name)
			if err == nil || errors.Is(err, kerr.UnknownTopicOrPartition) {
				l.mu.Lock()
				topic.gone = true
				l.mu.Unlock()
			}
		}
		l.quiet.RUnlock()
	}
}

// produceFew sends a few records. Its client is a new one: others know an earlier topic of the same name.
func (l *load) produceFew(random *rand.Rand, name string, partitions int32, life uint32) {
	cl := l.client(kgo.DisableIdempotentWrite())
	defer cl.Close()
	ctx, cancel := context.WithTimeout(l.ctx, 5*time.Second) // if the topic is lost
	defer cancel()
	for i := range 1 + random.IntN(5) {
		at := lane{name, random.Int32N(partitions)}
		s := stamp{life, uint64(i)}
		r, err := cl.ProduceSync(ctx, &kgo.Record{Topic: name, Partition: at.partition, Value: encodeValue(at, s, random.IntN(9000), random)}).First()
		if err == nil {
			l.acknowledge(at, r.Offset, s)
		}
	}
}
