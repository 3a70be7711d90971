package consumer

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	commitInterval = 200 * time.Millisecond // between two commits
	commitTimeout  = 10 * time.Second       // for one commit
	settleTime     = 3 * heartbeatInterval  // with Once: for a rebalance to hand out what is left
)

type commitPoint struct {
	offset int64
	note   string
}

// kick tells commitLoop that something got further.
func (s *session) kick() {
	select {
	case s.change <- struct{}{}:
	default:
	}
}

// commitLoop commits while there is something new, and ends the session when,
// with Once, all is received.
func (s *session) commitLoop() {
	last := time.Time{}
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.change:
		case <-again.C:
		}
		if s.cfg.Once {
			if wait, ok := s.reached(); ok && wait <= 0 {
				s.end(errReached)
				return
			} else if ok {
				again.Reset(wait)
			}
		}
		if wait := commitInterval - time.Since(last); wait > 0 {
			again.Reset(wait)
			continue
		}
		ctx, cancel := context.WithTimeout(s.ctx, commitTimeout)
		err := s.commit(ctx, s.current())
		cancel()
		last = time.Now()
		if err != nil {
			if s.ctx.Err() != nil {
				return
			}
			s.cfg.Logger.Debug().Err(err).Msg("commit failed, trying again")
			again.Reset(commitInterval)
		}
	}
}

// reached tells whether, with Once, everything is received that this member
// owns. As long as partitions move between members, more may come: wait says
// how long to look on.
func (s *session) reached() (wait time.Duration, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.assigned.IsZero() {
		return 0, false
	}
	for id := range s.owned {
		if p := s.parts[id]; p == nil || !p.idle() {
			return 0, false
		}
	}
	if s.moved {
		return settleTime - time.Since(s.assigned), true
	}
	return 0, true
}

func (s *session) current() []*partition {
	s.mu.Lock()
	defer s.mu.Unlock()
	parts := make([]*partition, 0, len(s.parts))
	for _, p := range s.parts {
		parts = append(parts, p)
	}
	return parts
}

// commit commits how far the given partitions are, as far as that is news.
func (s *session) commit(ctx context.Context, parts []*partition) error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	offsets := make(map[int32]kgo.EpochOffset)
	points := make(map[int32]commitPoint)
	byID := make(map[int32]*partition, len(parts))
	for _, p := range parts {
		offset, epoch, n := p.ledger.point()
		if offset < 0 {
			continue
		}
		n.topicID = s.topic.id
		point := commitPoint{offset, n.encode(offset)}
		if s.committed[p.id] != point {
			byID[p.id] = p
			points[p.id], offsets[p.id] = point, kgo.EpochOffset{Epoch: epoch, Offset: offset}
		}
	}
	if len(offsets) == 0 {
		return nil
	}
	ctx = kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error {
		for i := range req.Topics {
			for j := range req.Topics[i].Partitions {
				p := &req.Topics[i].Partitions[j]
				text := points[p.Partition].note
				p.Metadata = &text
			}
		}
		return nil
	})
	var failed error
	s.client.CommitOffsetsSync(ctx, map[string]map[int32]kgo.EpochOffset{s.cfg.Topic: offsets},
		func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
			if err != nil {
				failed = err
				return
			}
			for _, t := range resp.Topics {
				for _, p := range t.Partitions {
					if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
						failed = fmt.Errorf("partition %d: %w", p.Partition, err)
					} else {
						s.committed[p.Partition] = points[p.Partition]
						if of := byID[p.Partition]; of != nil {
							of.committedAt.Store(points[p.Partition].offset)
						}
						if s.receipts.off() {
							s.target.work.intents.passed(s.cfg.Topic, s.cfg.Group, p.Partition, points[p.Partition].offset)
						}
					}
				}
			}
		})
	return failed
}
