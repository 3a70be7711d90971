package consumer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/semaphore"

	"mft/internal/kafka"
)

// MaxStreams is the largest FilesConfig.Streams.
const MaxStreams = 32

const (
	tailPartitionBytes = 1 << 20                // what the tail asks for of one partition
	tailBytes          = 8 << 20                // and in all
	tailWait           = 500 * time.Millisecond // how long a broker may wait for more; a partition that is added waits as long

	laneRoom   = 8 << 20     // for each lane, bytes asked for ahead of what is handed on, of all partitions
	maxRoom    = 64 << 20    // for all lanes
	minPiece   = 1 << 20     // bytes of one request
	maxPiece   = 8 << 20     //
	maxHeads   = 8           // requests beyond the room, each the next of its partition
	slowPiece  = time.Second // a lane that took so long for the last piece gets one at a time
	laneRest   = 5 * time.Second
	piecesLane = 2 // under way in a lane: one is on the way while the next is asked for
)

// streams fetch over several connections. What is far behind the end of its
// partition is fetched in ranges of offsets, many at a time (catchUp); what is
// near it, by the tail, a client of Kafka's usual kind, which waits for news of
// all partitions with one request and knows what to do about every error. A
// partition belongs to one of them at any time. The client that is the group's
// member fetches nothing then.
type streams struct {
	s     *session
	tail  *kgo.Client
	room  *semaphore.Weighted
	heads *semaphore.Weighted
	piece int64 // bytes of one request

	unpack kgo.Decompressor

	running sync.WaitGroup

	mu    sync.Mutex
	lanes []*lane
	freed chan struct{} // closed and replaced when a lane has room again
}

// lane is a client whose connection carries pieces of partitions.
type lane struct {
	client *kgo.Client

	// Of streams.mu.
	busy  int           // pieces under way
	took  time.Duration // the last one
	rests time.Time     // until then it gets none

	mu      sync.Mutex
	leaders map[int32]int32 // brokers by partition; nil: to be asked for
}

func newStreams(s *session, n int) (_ *streams, err error) {
	room := min(int64(n)*laneRoom, maxRoom)
	st := &streams{
		s: s, room: semaphore.NewWeighted(room), heads: semaphore.NewWeighted(maxHeads),
		piece: cmp.Or(s.cfg.pieceBytes, min(max(room/int64(4*n), minPiece), maxPiece)), freed: make(chan struct{}),
		unpack: kgo.DefaultDecompressor(),
	}
	options := s.cfg.clientOptions(s.watch)
	options = options[:len(options):len(options)]
	st.tail, err = kgo.NewClient(append(options,
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchMaxPartitionBytes(tailPartitionBytes),
		kgo.FetchMaxBytes(tailBytes),
		kgo.FetchMaxWait(tailWait),
	)...)
	if err != nil {
		return nil, fmt.Errorf("kafka client: %w", err)
	}
	for i := range n {
		seeds := kafka.NewSeeds(s.cfg.Brokers, i)
		client, err := kgo.NewClient(append(options, seeds.Options()...)...)
		if err != nil {
			st.close()
			return nil, fmt.Errorf("kafka client: %w", err)
		}
		seeds.Attach(client)
		st.lanes = append(st.lanes, &lane{client: client})
	}
	return st, nil
}

// close ends the clients. The session's context has ended.
func (st *streams) close() {
	st.running.Wait()
	st.tail.Close()
	for _, l := range st.lanes {
		l.client.Close()
	}
}

// follow has the tail fetch a partition from an offset on.
func (st *streams) follow(p *partition, at kgo.Offset) {
	st.tail.AddConsumePartitions(map[string]map[int32]kgo.Offset{st.s.cfg.Topic: {p.id: at}})
}

// forget has the tail fetch a partition no more.
func (st *streams) forget(id int32) {
	st.tail.RemoveConsumePartitions(map[string][]int32{st.s.cfg.Topic: {id}})
}

// poll hands on what the tail fetches until the session ends, and has what
// falls behind caught up with.
func (st *streams) poll() {
	s := st.s
	for {
		fetches := st.tail.PollFetches(s.ctx)
		if s.ctx.Err() != nil || fetches.IsClientClosed() {
			return
		}
		fetches.EachError(s.fetchError)
		var got []kgo.FetchTopicPartition
		fetches.EachPartition(func(f kgo.FetchTopicPartition) {
			if len(f.Records) > 0 {
				got = append(got, f)
			}
		})
		for _, f := range got {
			s.mu.Lock()
			p := s.parts[f.Partition]
			s.mu.Unlock()
			if p == nil || p.ranged.Load() {
				continue
			}
			end := stableEnd(f.LastStableOffset, f.HighWatermark)
			select {
			case p.in <- fetched{f.Records, end}:
			case <-p.quit:
				continue
			case <-s.ctx.Done():
				return
			}
			st.judge(p, f.Records, end)
		}
	}
}

// stableEnd is the offset up to which records may be read.
func stableEnd(lastStable, highWatermark int64) int64 {
	if lastStable < 0 {
		return highWatermark
	}
	return lastStable
}

// judge has a partition caught up with in ranges when it is far behind.
func (st *streams) judge(p *partition, records []*kgo.Record, end int64) {
	first, last := records[0], records[len(records)-1]
	size := func(r *kgo.Record) float64 { return float64(len(r.Key) + len(r.Value) + 128) }
	var each float64
	for _, r := range records {
		each += size(r)
	}
	next := last.Offset + 1
	each = max(each/float64(next-first.Offset), size(last)) // a large file is begun by a small record
	if time.Now().UnixNano() < p.rangedAfter.Load() || float64(min(end, p.until)-next)*each < float64(2*st.piece) {
		return
	}
	st.s.cfg.Logger.Debug().Int32("partition", p.id).Int64("from", next).Int64("end", end).Msg("fetching in ranges")
	st.forget(p.id)
	p.ranged.Store(true)
	c := &catchUp{st: st, p: p, next: next, asked: next, epoch: last.LeaderEpoch, end: end, each: each, batch: each, spare: 1, wake: make(chan struct{}, 1)}
	st.running.Go(func() {
		pause, err := c.run()
		if err != nil && st.s.ctx.Err() == nil {
			st.s.cfg.Logger.Debug().Int32("partition", p.id).Err(err).Msg("fetching in ranges; the usual way goes on")
		}
		st.handBack(p, c, pause)
	})
}

// handBack gives a partition that is caught up with, or that there was an
// error of, to the tail.
func (st *streams) handBack(p *partition, c *catchUp, pause time.Duration) {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if st.s.parts[p.id] != p || st.s.ctx.Err() != nil {
		return
	}
	p.rangedAfter.Store(time.Now().Add(pause).UnixNano())
	p.ranged.Store(false)
	st.follow(p, kgo.NewOffset().At(c.next).WithEpoch(c.epoch))
}

// take waits for a lane that has room.
func (st *streams) take(ctx context.Context) (*lane, error) {
	for {
		st.mu.Lock()
		var best *lane
		now := time.Now()
		for _, l := range st.lanes {
			if l.busy < l.most(now) && (best == nil || l.busy < best.busy) {
				best = l
			}
		}
		if best != nil {
			best.busy++
			st.mu.Unlock()
			return best, nil
		}
		freed := st.freed
		st.mu.Unlock()
		select {
		case <-freed:
		case <-time.After(laneRest): // all may be resting
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// most is how many pieces may be under way in the lane. streams.mu is held.
func (l *lane) most(now time.Time) int {
	switch {
	case now.Before(l.rests):
		return 0
	case l.took > slowPiece:
		return 1
	}
	return piecesLane
}

// capacity is how many pieces may be under way in all lanes, at least one.
func (st *streams) capacity() (n int) {
	st.mu.Lock()
	defer st.mu.Unlock()
	now := time.Now()
	for _, l := range st.lanes {
		n += l.most(now)
	}
	return max(n, 1)
}

// give gives a lane back; failed: its connection does not work.
func (st *streams) give(l *lane, took time.Duration, failed bool) {
	if failed {
		l.mu.Lock()
		l.leaders = nil
		l.mu.Unlock()
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	l.busy--
	l.took = took
	if failed {
		l.took, l.rests = 0, time.Now().Add(laneRest)
	}
	close(st.freed)
	st.freed = make(chan struct{})
}

// leader is the broker that leads a partition, as this lane's client knows it.
func (l *lane) leader(ctx context.Context, topic string, partition int32) (*kgo.Broker, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.leaders == nil {
		req := kmsg.NewPtrMetadataRequest()
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = &topic
		req.Topics = append(req.Topics, rt)
		resp, err := req.RequestWith(ctx, l.client)
		if err != nil {
			return nil, err
		}
		leaders := make(map[int32]int32)
		for _, t := range resp.Topics {
			if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
				return nil, err
			}
			for _, p := range t.Partitions {
				if p.Leader >= 0 {
					leaders[p.Partition] = p.Leader
				}
			}
		}
		l.leaders = leaders
	}
	id, ok := l.leaders[partition]
	if !ok {
		l.leaders = nil
		return nil, kerr.LeaderNotAvailable
	}
	return l.client.Broker(int(id)), nil
}

// fetch asks for the batches of a partition from an offset on. What it asks
// for is there, so the broker need not wait.
func (st *streams) fetch(ctx context.Context, l *lane, partition int32, at int64, bytes int64) (*kmsg.FetchResponseTopicPartition, error) {
	broker, err := l.leader(ctx, st.s.cfg.Topic, partition)
	if err != nil {
		return nil, err
	}
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 100, 1, int32(bytes)
	req.IsolationLevel = 1
	rt, rp := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
	rt.Topic, rt.TopicID = st.s.cfg.Topic, st.s.topic.id
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = partition, at, int32(bytes)
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(ctx, broker)
	if err != nil {
		return nil, err
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return nil, err
	}
	for i := range resp.Topics {
		for j := range resp.Topics[i].Partitions {
			if got := &resp.Topics[i].Partitions[j]; got.Partition == partition {
				return got, kerr.ErrorForCode(got.ErrorCode)
			}
		}
	}
	return nil, errors.New("the broker's answer leaves the partition out")
}

// listEnd asks up to where a partition can be read.
func (st *streams) listEnd(ctx context.Context, partition int32) (int64, error) {
	st.mu.Lock()
	l := st.lanes[0]
	for _, other := range st.lanes {
		if other.rests.Before(l.rests) || other.rests.Equal(l.rests) && other.busy < l.busy {
			l = other
		}
	}
	st.mu.Unlock()
	broker, err := l.leader(ctx, st.s.cfg.Topic, partition)
	if err != nil {
		return 0, err
	}
	req := kmsg.NewPtrListOffsetsRequest()
	req.IsolationLevel = 1
	rt, rp := kmsg.NewListOffsetsRequestTopic(), kmsg.NewListOffsetsRequestTopicPartition()
	rt.Topic = st.s.cfg.Topic
	rp.Partition, rp.Timestamp = partition, -1
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(ctx, broker)
	if err != nil {
		return 0, err
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if p.Partition == partition {
				return p.Offset, kerr.ErrorForCode(p.ErrorCode)
			}
		}
	}
	return 0, errors.New("the broker's answer leaves the partition out")
}
