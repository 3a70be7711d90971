package consumer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	endPoll     = 50 * time.Millisecond // between two looks whether the partition has grown
	endLinger   = time.Second           // without growth, before the partition goes to the tail
	errorPause  = time.Second           // after an error, before ranges are tried again
	pieceTries  = 3                     // over different lanes
	headerBytes = 1024                  // of a batch and a record, at least
)

// catchUp reads a partition from next up to its end, in pieces that are asked
// for side by side and handed on in order. Nobody knows where batches begin, so
// a piece is so many offsets, by what they took so far, and its answer may
// reach further, which is dropped, or less far, and then the rest is asked for.
//
// Invariant: the pieces are ascending, each begins where the one before it was
// meant to end, the first at or before next, and asked is where the last one is
// meant to end.
type catchUp struct {
	st    *streams
	p     *partition
	next  int64 // offset after the last one that was handed on
	epoch int32 // leader epoch of that record
	asked int64
	end   int64   // as far as is known
	each  float64 // bytes of one offset, a running mean
	batch float64 // bytes of one batch, likewise
	spare float64 // factor by which more is asked for than that makes

	pieces []*piece

	mu   sync.Mutex
	seen int64         // the furthest end in an answer
	wake chan struct{} // capacity 1: an answer has come
}

// piece is the offsets [from, to).
type piece struct {
	from, to int64 // to moves to reached once the rest is another piece
	wanted   int64 // to, as it was at first
	bytes    int64 // asked for
	room     bool  // bytes are of streams.room, otherwise one of streams.heads
	done     chan struct{}

	// Set before done is closed.
	answer  *kmsg.FetchResponseTopicPartition
	covers  coverage
	reached int64 // where the answer ends
	err     error
}

var errGivenBack = errors.New("given back")

// run returns when the partition is caught up with, taken away, or an error
// has come that the tail is to judge: then, how long to leave it with the tail.
func (c *catchUp) run() (pause time.Duration, err error) {
	ctx, cancel := context.WithCancelCause(c.st.s.ctx)
	var asking sync.WaitGroup
	defer func() {
		cancel(errGivenBack)
		asking.Wait()
		for _, piece := range c.pieces {
			c.release(piece)
		}
	}()
	asking.Go(func() {
		select {
		case <-c.p.quit:
			cancel(errGivenBack)
		case <-ctx.Done():
		}
	})
	poll := time.NewTicker(endPoll)
	defer poll.Stop()
	grown := time.Now()
	for {
		for c.ask(ctx, &asking) {
		}
		if c.next >= c.p.until || len(c.pieces) == 0 && time.Since(grown) > endLinger {
			return 0, nil
		}
		var head chan struct{}
		if len(c.pieces) > 0 {
			head = c.pieces[0].done
		}
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-c.wake:
		case <-head:
			if err := c.deliver(ctx); err != nil {
				return errorPause, err
			}
		case <-poll.C:
			if c.asked < c.end || c.asked >= c.p.until {
				continue
			}
			end, err := c.st.listEnd(ctx, c.p.id)
			if err != nil {
				return errorPause, err
			}
			c.learn(end)
		}
		if c.update() || len(c.pieces) > 0 {
			grown = time.Now()
		}
	}
}

// learn notes an end, from any goroutine.
func (c *catchUp) learn(end int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = max(c.seen, end)
}

// update takes over the ends that were learned; true: it is a new one.
func (c *catchUp) update() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen <= c.end {
		return false
	}
	c.end = c.seen
	return true
}

// ask asks for what answers have left out, as far as there is room, and then for
// one more piece, if there is one. It returns false when there is nothing to ask for.
func (c *catchUp) ask(ctx context.Context, asking *sync.WaitGroup) bool {
	if len(c.pieces) == 0 {
		c.asked = c.next
	} else if first := c.pieces[0]; first.from > c.next {
		c.insert(ctx, 0, c.newPiece(c.next, first.from), asking)
	}
	capacity := c.st.capacity()
	for i := 0; i < len(c.pieces) && c.waiting() < capacity; i++ {
		p := c.pieces[i]
		if !p.answered() || p.err != nil || p.reached >= p.to {
			continue
		}
		rest := c.newPiece(p.reached, p.to)
		if !c.insert(ctx, i+1, rest, asking) {
			return false
		}
		p.to = p.reached
	}
	if end := min(c.end, c.p.until); c.asked < end && c.waiting() < capacity {
		offsets := min(max(int64(c.target()/c.each), 1), end-c.asked)
		piece := c.newPiece(c.asked, c.asked+offsets)
		if c.insert(ctx, len(c.pieces), piece, asking) {
			c.asked = piece.to
			return true
		}
	}
	return false
}

// insert takes room for a piece and asks for it. The first one always gets room.
func (c *catchUp) insert(ctx context.Context, at int, piece *piece, asking *sync.WaitGroup) bool {
	if piece.room = c.st.room.TryAcquire(piece.bytes); !piece.room {
		if at > 0 || c.st.heads.Acquire(ctx, 1) != nil {
			return false
		}
	}
	c.pieces = slices.Insert(c.pieces, at, piece)
	c.start(ctx, piece, asking)
	return true
}

// target is how many bytes a piece is to have. Where batches hold many offsets,
// a piece begins in the middle of one and ends in another, both of which come
// whole: so it is made larger, that they count for less.
func (c *catchUp) target() float64 {
	if c.batch > 1.5*c.each {
		return float64(min(max(int64(4*c.batch), c.st.piece), maxPiece/2))
	}
	return float64(c.st.piece)
}

func (c *catchUp) newPiece(from, to int64) *piece {
	bytes := float64(to-from) * c.each * c.spare
	if c.batch > 1.5*c.each {
		bytes += c.batch
	}
	return &piece{from: from, to: to, wanted: to, done: make(chan struct{}), bytes: min(int64(bytes)+headerBytes, maxPiece)}
}

// waiting is how many pieces have no answer yet.
func (c *catchUp) waiting() (n int) {
	for _, piece := range c.pieces {
		if !piece.answered() {
			n++
		}
	}
	return n
}

func (p *piece) answered() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (c *catchUp) start(ctx context.Context, piece *piece, asking *sync.WaitGroup) {
	asking.Go(func() {
		defer func() {
			close(piece.done)
			select {
			case c.wake <- struct{}{}:
			default:
			}
		}()
		for range pieceTries {
			if piece.err = c.fetch(ctx, piece); piece.err == nil {
				c.learn(stableEnd(piece.answer.LastStableOffset, piece.answer.HighWatermark))
				return
			}
			if _, ok := errors.AsType[*kerr.Error](piece.err); ok || ctx.Err() != nil {
				return // for the tail to judge
			}
		}
	})
}

// fetch asks for a piece once.
func (c *catchUp) fetch(ctx context.Context, piece *piece) error {
	l, err := c.st.take(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	answer, err := c.st.fetch(ctx, l, c.p.id, piece.from, piece.bytes)
	c.st.give(l, time.Since(began), err != nil && ctx.Err() == nil)
	if err != nil {
		return err
	}
	piece.answer = answer
	piece.covers, err = coverageOf(answer.RecordBatches)
	piece.reached = piece.covers.end
	if err == nil && piece.reached <= piece.from {
		err = fmt.Errorf("nothing at offset %d, before the end at %d: %w", piece.from, piece.to, kerr.OffsetNotAvailable)
	}
	return err
}

// coverage is what the whole batches of an answer cover.
type coverage struct {
	batches    int
	bytes      int64
	first, end int64 // offsets, [first, end)
}

func coverageOf(answer []byte) (e coverage, err error) {
	for len(answer) >= 27 {
		length := int64(int32(binary.BigEndian.Uint32(answer[8:]))) + 12
		if length < 27 || length > int64(len(answer)) {
			break
		}
		if magic := answer[16]; magic != 2 {
			return e, fmt.Errorf("records of the old format %d: %w", magic, kerr.UnsupportedForMessageFormat)
		}
		base := int64(binary.BigEndian.Uint64(answer))
		if e.batches == 0 {
			e.first = base
		}
		e.batches++
		e.bytes += length
		e.end = base + int64(int32(binary.BigEndian.Uint32(answer[23:]))) + 1
		answer = answer[length:]
	}
	return e, nil
}

// deliver hands the first piece on.
func (c *catchUp) deliver(ctx context.Context) error {
	piece := c.pieces[0]
	defer c.release(piece)
	c.pieces = c.pieces[1:]
	if piece.to <= c.next { // an earlier answer held all of it
		return nil
	}
	if piece.err != nil {
		return piece.err
	}
	c.measure(piece)
	if piece.reached > c.next {
		got, _ := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
			KeepControlRecords: true, Offset: c.next, IsolationLevel: kgo.ReadCommitted(), Topic: c.st.s.cfg.Topic, Partition: c.p.id,
		}, piece.answer, c.st.unpack, nil)
		if got.Err != nil {
			return got.Err
		}
		if n := len(got.Records); n > 0 {
			select {
			case c.p.in <- fetched{got.Records, stableEnd(got.LastStableOffset, got.HighWatermark)}:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			c.epoch = got.Records[n-1].LeaderEpoch
		}
		c.next = piece.reached
	}
	return nil
}

// measure learns from an answer how many bytes an offset and a batch take.
func (c *catchUp) measure(piece *piece) {
	e := piece.covers
	if e.end <= e.first || e.batches == 0 {
		return
	}
	c.each += (float64(e.bytes)/float64(e.end-e.first) - c.each) / 2
	c.batch += (float64(e.bytes)/float64(e.batches) - c.batch) / 2
	switch {
	case e.end < piece.wanted:
		c.spare = min(c.spare*1.1, 1.5)
	case e.end > piece.wanted:
		c.spare = max(c.spare*0.98, 1)
	}
}

func (c *catchUp) release(piece *piece) {
	if piece.room {
		c.st.room.Release(piece.bytes)
	} else {
		c.st.heads.Release(1)
	}
}
