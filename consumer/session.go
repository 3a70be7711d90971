package consumer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"mft/protocol"
)

const (
	sessionTimeout    = 10 * time.Second // after which a killed member's partitions go to others
	heartbeatInterval = time.Second      // also how soon a rebalance is noticed
	stopGrace         = 10 * time.Second // for what is at the placer, the last commit and leaving
	topicWatch        = 5 * time.Second  // between two looks whether the topic is still the same
)

// session is membership in the consumer group for one incarnation of a topic.
//
// kgo calls its callbacks (assigned, offsetsFetched, adjust, revoked, lost) one
// at a time, never while poll has records that it has not handed over: see
// BlockRebalanceOnPoll.
type session struct {
	*receiver
	client  *kgo.Client
	streams *streams // nil: client fetches
	topic   topicInfo
	spans   map[int32]span // with Once: what is to be read
	ends    map[int32]span // of the partitions when the session began, if something was kept of them

	ctx    context.Context // of polling; ends with a cause
	end    context.CancelCauseFunc
	change chan struct{} // something got further; capacity 1

	mu       sync.Mutex
	parts    map[int32]*partition
	owned    map[int32]bool // assigned; in parts once their offsets are known
	assigned time.Time      // when partitions were last assigned or taken away; zero: never
	moved    bool           // a partition was taken away, or none was assigned
	refused  int            // times in a row that joining the group failed
	notes    map[int32]note // of the last OffsetFetch

	commitMu  sync.Mutex // one commit at a time, and none of partitions that are being given back
	committed map[int32]commitPoint
}

// session waits for the topic, joins the group and receives until ctx ends, the
// topic is gone or, with Once, all is received. It never returns nil.
func (r *receiver) session(ctx context.Context) (err error) {
	s := &session{
		receiver: r, change: make(chan struct{}, 1),
		parts: make(map[int32]*partition), owned: make(map[int32]bool), committed: make(map[int32]commitPoint),
	}
	s.ctx, s.end = context.WithCancelCause(ctx)
	defer s.end(nil)
	asking, err := kgo.NewClient(r.cfg.clientOptions(r.watch)...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	defer asking.Close()
	if s.topic, _, err = awaitTopic(ctx, asking, &r.cfg.Config, r.watch, r.connectTimeout(), r.cfg.Once); err != nil {
		return err
	}
	if r.cfg.Once {
		if s.spans, err = listSpans(ctx, asking, &r.cfg.Config); err != nil {
			return err
		}
	}
	if r.cfg.Streams > 1 {
		if s.streams, err = newStreams(s, r.cfg.Streams); err != nil {
			return err
		}
		defer s.streams.close()
	}
	s.keeper.serve(r.cfg.Group, r.cfg.Topic, s.topic.id)
	if s.keeper.any() {
		s.ends = s.listEnds(ctx, asking)
	}
	size := new(fetchSize)
	s.client, err = kgo.NewClient(append(r.cfg.clientOptions(r.watch),
		kgo.WithHooks(size),
		kgo.ConsumeTopics(r.cfg.Topic),
		kgo.ConsumerGroup(r.cfg.Group),
		kgo.InstanceID(r.target.work.member),
		kgo.SessionTimeout(sessionTimeout),
		kgo.HeartbeatInterval(heartbeatInterval),
		kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsAssigned(s.onAssigned),
		kgo.OnPartitionsRevoked(s.onRevoked),
		kgo.OnPartitionsLost(s.onLost),
		kgo.OnOffsetsFetched(s.onOffsetsFetched),
		kgo.AdjustFetchOffsetsFn(s.adjustOffsets),
	)...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	defer s.client.CloseAllowingRebalance()
	size.attach(s.client)

	var helpers sync.WaitGroup
	if s.streams != nil {
		s.client.PauseFetchTopics(r.cfg.Topic)
		helpers.Go(s.streams.poll)
	}
	helpers.Go(s.commitLoop)
	helpers.Go(func() { s.watchTopic(asking) })
	helpers.Go(s.watchPlacer)
	s.poll()
	helpers.Wait()
	return s.close()
}

// poll hands records to their partitions until the session ends.
func (s *session) poll() {
	for {
		fetches := s.client.PollFetches(s.ctx)
		if s.ctx.Err() != nil || fetches.IsClientClosed() {
			s.client.AllowRebalance()
			return
		}
		fetches.EachError(s.fetchError)
		type delivery struct {
			to *partition
			fetched
		}
		var deliveries []delivery
		s.mu.Lock()
		fetches.EachPartition(func(f kgo.FetchTopicPartition) {
			if p := s.parts[f.Partition]; p != nil && len(f.Records) > 0 && s.streams == nil {
				deliveries = append(deliveries, delivery{p, fetched{f.Records, stableEnd(f.LastStableOffset, f.HighWatermark)}})
			}
		})
		s.mu.Unlock()
		// From here on partitions may be taken away; a partition that is drops
		// what it is given.
		s.client.AllowRebalance()
		for _, d := range deliveries {
			select {
			case d.to.in <- d.fetched:
			case <-d.to.quit:
			case <-s.ctx.Done():
				return
			}
		}
	}
}

// fetchError judges an error that kgo passes on. It retries what can be
// retried; here are the rest and notices.
func (s *session) fetchError(topic string, partition int32, err error) {
	if errors.Is(err, context.Canceled) || errors.Is(err, kgo.ErrClientClosed) {
		return
	}
	if lost, ok := errors.AsType[*kgo.ErrDataLoss](err); ok {
		s.cfg.Logger.Warn().Str("topic", topic).Int32("partition", partition).Err(lost).
			Msg("the broker has lost records that were received already; receiving goes on behind them")
		return
	}
	code, _ := errors.AsType[*kerr.Error](err)
	switch code {
	case kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed:
		s.end(topicFailure(s.cfg.Topic, code))
	case kerr.GroupAuthorizationFailed:
		s.end(fmt.Errorf("group %s: this user may not join it: ask the broker's administrator for the permission: %w", s.cfg.Group, code))
	case kerr.FencedInstanceID:
		s.end(fmt.Errorf("group %s: a receiver with a copy of %s has taken this one's place: remove the copy and start again: %w", s.cfg.Group, s.target.work.path, code))
	case kerr.InvalidGroupID, kerr.InconsistentGroupProtocol, kerr.GroupMaxSizeReached, kerr.UnsupportedVersion:
		s.end(fmt.Errorf("group %s: %w", s.cfg.Group, code))
	case kerr.CorruptMessage:
		s.end(fmt.Errorf("topic %s, partition %d: the broker serves damaged records: %w", topic, partition, err))
	default:
		if tooLarge, ok := errors.AsType[*kgo.ErrDecompressTooLarge](err); ok {
			s.end(fmt.Errorf("topic %s, partition %d: %w", topic, partition, tooLarge))
			return
		}
		s.cfg.Logger.Debug().Str("topic", topic).Int32("partition", partition).Err(err).Msg("fetching")
		if group, ok := errors.AsType[*kgo.ErrGroupSession](err); ok {
			s.joinFailed(group)
		}
	}
}

// joinFailed tells when the group cannot be joined for longer than a moment.
func (s *session) joinFailed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused++; s.refused == 3 {
		s.cfg.Logger.Warn().Str("group", s.cfg.Group).Err(err).Msg("the group cannot be joined, trying on")
	}
}

func (s *session) onAssigned(_ context.Context, _ *kgo.Client, added map[string][]int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range added[s.cfg.Topic] {
		s.owned[p] = true
	}
	s.assigned, s.refused = time.Now(), 0
	if len(s.owned) == 0 {
		s.moved = true
	}
	s.kick()
}

// onOffsetsFetched remembers the notes that come with the committed offsets.
func (s *session) onOffsetsFetched(_ context.Context, _ *kgo.Client, resp *kmsg.OffsetFetchResponse) error {
	notes := make(map[int32]note)
	add := func(partition int32, offset int64, metadata *string) {
		if offset < 0 || metadata == nil {
			return
		}
		n, err := parseNote(*metadata, offset)
		if err != nil {
			s.cfg.Logger.Debug().Int32("partition", partition).Err(err).Msg("committed offset")
			return
		}
		notes[partition] = n
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			add(p.Partition, p.Offset, p.Metadata)
		}
	}
	for _, g := range resp.Groups {
		for _, t := range g.Topics { // only ours was asked for; by name or by id
			for _, p := range t.Partitions {
				add(p.Partition, p.Offset, p.Metadata)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notes = notes
	return nil
}

// adjustOffsets starts the partitions whose committed offsets are known now.
func (s *session) adjustOffsets(_ context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil { // close may have stopped all partitions already
		return offsets, nil
	}
	for id, offset := range offsets[s.cfg.Topic] {
		at := offset.EpochOffset().Offset
		n, noted := s.notes[id]
		if at >= 0 && noted && n.topicID != s.topic.id && n.topicID != [16]byte{} && s.topic.id != [16]byte{} {
			s.cfg.Logger.Warn().Str("topic", s.cfg.Topic).Int32("partition", id).
				Msg("the topic was made anew since the last run: receiving from its beginning")
			at, n = -1, note{}
			offsets[s.cfg.Topic][id] = kgo.NewOffset().AtStart()
		}
		if old := s.parts[id]; old != nil { // assigned again without having been taken away
			old.stop(true)
			<-old.done
			if s.streams != nil {
				s.streams.forget(id)
			}
			old.leave()
		}
		p := s.newPartition(id, max(at, -1), n)
		if from := p.ledger.position(); at >= 0 && from < at {
			offsets[s.cfg.Topic][id] = kgo.NewOffset().At(from)
		}
		if from, ok := p.restore(s.usable(id), max(at, -1), n); ok {
			offsets[s.cfg.Topic][id] = kgo.NewOffset().At(from.Offset).WithEpoch(from.Epoch)
		}
		s.parts[id] = p
		go p.run()
		if s.streams != nil {
			s.streams.follow(p, offsets[s.cfg.Topic][id])
		}
	}
	s.kick()
	return offsets, nil
}

// newPartition makes a partition that starts at a committed offset, or at the
// beginning for -1.
func (s *session) newPartition(id int32, start int64, n note) *partition {
	until := int64(math.MaxInt64)
	if s.cfg.Once {
		whole := s.spans[id] // none for a partition that is newer than the start of the run: nothing to read
		if until = whole.end; start < 0 && whole.start >= whole.end {
			start = whole.end
		}
	}
	from, wanted := start, map[int64]bool(nil)
	if start >= 0 {
		from, wanted = s.mirrorStart(id, start, n)
	}
	moved := make(chan struct{}, 1)
	p := &partition{
		topicID: s.topic.id, mirrors: make(map[protocol.TransferID]*mirror), replay: start, wanted: wanted, synced: make(chan mirrorSync, 1),
		id: id, topic: s.cfg.Topic, target: s.target, placer: s.placer, report: s.report, log: s.cfg.Logger, moved: moved,
		receipts: s.receipts, born: time.Now(),
		changed: func() {
			s.kick()
			select {
			case moved <- struct{}{}:
			default:
			}
		},
		route: s.cfg.Route, keys: s.cfg.Keys, acceptPlain: s.cfg.AcceptPlain, fatal: s.end,
		ledger: newLedger(from), inPlace: make(map[int64]bool), midway: start >= 0, until: until, abandon: s.cfg.AbandonAfter,
		transfers: make(map[protocol.TransferID]*transfer), settled: newOutcomes(maxSettledIDs), stable: -1,
		in: make(chan fetched), quit: make(chan struct{}), dropped: make(chan struct{}), done: make(chan struct{}),
	}
	p.keeper, p.whole = s.keeper, make(map[int64]*keptTransfer)
	p.committedAt.Store(start)
	for _, begin := range n.done {
		p.inPlace[begin] = true
	}
	p.ledger.floor = start
	for _, m := range n.mirrors {
		p.ledger.openMirror(m)
	}
	return p
}

// onRevoked commits what is done of partitions that go to another receiver,
// and drops the rest.
func (s *session) onRevoked(_ context.Context, _ *kgo.Client, lost map[string][]int32) {
	s.giveBack(lost[s.cfg.Topic], true)
}

// onLost drops partitions that are another receiver's already.
func (s *session) onLost(_ context.Context, _ *kgo.Client, lost map[string][]int32) {
	s.giveBack(lost[s.cfg.Topic], false)
}

// What was received in part is of no use when another receiver begins with the
// partition. When it is lost, it may well come back: the broker was away for long.
func (s *session) giveBack(ids []int32, commit bool) {
	s.mu.Lock()
	var parts []*partition
	for _, id := range ids {
		if p := s.parts[id]; p != nil {
			parts = append(parts, p)
		}
		delete(s.parts, id)
		delete(s.owned, id)
	}
	if len(ids) > 0 {
		s.moved, s.assigned = true, time.Now()
	}
	s.mu.Unlock()
	for _, p := range parts {
		p.stop(true)
		if s.streams != nil {
			s.streams.forget(p.id)
		}
	}
	for _, p := range parts {
		<-p.done
		for _, t := range p.transfers {
			s.report.dropped(string(t.id), t.name, t.errorf("partition %d was given to another receiver", p.id))
		}
		if commit {
			p.discardAll()
		} else {
			p.leave()
		}
	}
	if commit {
		ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
		defer cancel()
		// What got its name is told before the next owner looks what did.
		for _, p := range parts {
			s.awaitPlaced(ctx, p)
		}
		if err := s.commit(ctx, parts); err != nil {
			s.cfg.Logger.Debug().Err(err).Msg("committing before partitions are given back; their next owner repeats some work")
		}
	}
	s.commitMu.Lock()
	for _, p := range parts {
		delete(s.committed, p.id)
	}
	s.commitMu.Unlock()
	s.kick()
}

// watchTopic ends the session when the topic is deleted or made anew.
func (s *session) watchTopic(client *kgo.Client) {
	ticker := time.NewTicker(topicWatch)
	defer ticker.Stop()
	for missing := 0; ; {
		select {
		case <-s.ctx.Done():
			return
		case <-ticker.C:
		}
		info, err := askTopic(s.ctx, client, s.cfg.Topic)
		switch {
		case err == nil && info.id != s.topic.id:
			s.end(errTopicNew)
		case err == nil:
			missing = 0
		case errors.Is(err, kerr.UnknownTopicOrPartition):
			if missing++; missing > 1 { // once may be a broker that has just started
				s.end(errTopicGone)
			}
		}
	}
}

// watchPlacer ends the session when files cannot be placed at all.
func (s *session) watchPlacer() {
	select {
	case <-s.ctx.Done():
	case <-s.placer.failed:
		s.end(s.placer.err)
	}
}

// close gives everything back in an orderly way and returns why the session
// ended:
//
//  1. the partitions stop reading; what is whole is still placed,
//  2. what is open is kept for the next run; with Once it is reported,
//  3. the last commit,
//  4. leaving the group, so that others need not wait for the session timeout.
func (s *session) close() error {
	cause := context.Cause(s.ctx)
	reached := errors.Is(cause, errReached)
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()

	parts := s.current()
	for _, p := range parts {
		p.stop(false)
	}
	for _, p := range parts {
		<-p.done
		s.awaitPlaced(ctx, p)
		if reached {
			p.unfinished(time.Now())
			s.awaitPlaced(ctx, p) // the receipts of what was given up
		}
	}
	gone := errors.Is(cause, errTopicGone) || errors.Is(cause, errTopicNew)
	for _, p := range parts {
		if gone || errors.Is(cause, errSpoiled) {
			p.discardAll()
		} else {
			p.leave()
		}
	}
	if err := s.commit(ctx, parts); err != nil && !gone {
		s.cfg.Logger.Warn().Str("group", s.cfg.Group).Err(err).
			Msg("the last commit failed; the next run receives some files again, to the same result")
	}
	s.mu.Lock()
	s.parts = make(map[int32]*partition) // nothing is left for onRevoked
	s.mu.Unlock()
	s.leave(ctx)
	return cause
}

// awaitPlaced waits until the placer has done all of a partition, and its
// receipts are acknowledged, or drops it.
func (s *session) awaitPlaced(ctx context.Context, p *partition) {
	for p.placing.Load() > 0 {
		select {
		case <-p.moved:
		case <-s.placer.failed:
			p.stop(true)
			return
		case <-ctx.Done():
			p.stop(true)
			return
		}
	}
}

// leave ends the membership. kgo does not do that for a static member, which
// is meant to come back; one that stops cleanly is not.
func (s *session) leave(ctx context.Context) {
	member, _ := s.client.GroupMetadata()
	err := s.client.LeaveGroupContext(ctx)
	if err == nil && member != "" {
		req := kmsg.NewPtrLeaveGroupRequest()
		req.Group = s.cfg.Group
		m := kmsg.NewLeaveGroupRequestMember()
		m.MemberID, m.InstanceID = member, &s.target.work.member
		req.Members = append(req.Members, m)
		var resp *kmsg.LeaveGroupResponse
		if resp, err = req.RequestWith(ctx, s.client); err == nil {
			err = kerr.ErrorForCode(resp.ErrorCode)
		}
	}
	if err != nil {
		s.cfg.Logger.Debug().Str("group", s.cfg.Group).Err(err).Msg("leaving the group; it notices by itself after the session timeout")
	}
}
