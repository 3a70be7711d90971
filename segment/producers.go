package segment

import (
	"maps"
	"math"
	"slices"
	"time"

	"mft/protocol"
)

// keptBatches is how many of a producer's last batches are remembered to recognise a retry, as in Kafka. Clients have no more in flight.
const keptBatches = 5

// producerExpiry is how long an idempotent producer that appends nothing is remembered (Kafka's producer.id.expiration.ms).
const producerExpiry = 24 * time.Hour

// sentBatch is what is remembered of one batch of a producer.
type sentBatch struct {
	first, last int32 // sequence numbers
	base, end   int64 // offsets of its first and its last record
}

// producer is the state of one producer id in one log: batches[:n] are its last batches in order, all of the same epoch.
type producer struct {
	epoch   int16
	n       uint8
	whole   bool // everything since sequence 0 of this epoch was seen
	batches [keptBatches]sentBatch
	used    int64 // when it last appended, by our clock, ms since 1970
}

// producers is the state of a log's idempotent producers, by producer id. It equals what its batches in the log say
// (org.apache.kafka.storage.internals.log.ProducerStateManager is the model of the rules).
type producers map[int64]*producer

func (p *producer) newest() sentBatch { return p.batches[p.n-1] }

// find returns the remembered batch that b is a retry of.
func (p *producer) find(b protocol.Batch) (sentBatch, bool) {
	if p.epoch == b.ProducerEpoch() {
		for _, sent := range p.batches[:p.n] {
			if sent.first == b.BaseSequence() && sent.last == b.LastSequence() {
				return sent, true
			}
		}
	}
	return sentBatch{}, false
}

// check says whether b may come next.
func (p *producer) check(b protocol.Batch) error {
	first := b.BaseSequence()
	switch {
	case b.ProducerEpoch() < p.epoch:
		return ErrInvalidProducerEpoch
	case b.IsControl() || first < 0:
		return nil
	case b.ProducerEpoch() > p.epoch:
		if first != 0 {
			return ErrOutOfOrderSequence
		}
		return nil
	case p.n == 0:
		return nil
	}
	// Sequence numbers live on a circle of 2^31: the distance from the expected one tells ahead from behind.
	distance := (int64(first) - (int64(p.newest().last) + 1)) & math.MaxInt32
	switch {
	case distance == 0:
		return nil
	case distance > math.MaxInt32/2 && p.whole && p.n == keptBatches && behind(b.LastSequence(), p.batches[0].first):
		return ErrDuplicateSequence
	default:
		return ErrOutOfOrderSequence
	}
}

// behind says whether sequence number a comes before b on the circle.
func behind(a, b int32) bool {
	d := (int64(b) - int64(a)) & math.MaxInt32
	return d != 0 && d <= math.MaxInt32/2
}

// add notes that b is in the log at its base offset.
func (p *producer) add(b protocol.Batch, now int64) {
	first := b.BaseSequence()
	if b.ProducerEpoch() != p.epoch || p.n == 0 {
		p.epoch, p.n, p.whole = b.ProducerEpoch(), 0, first == 0
	}
	p.used = now
	if b.IsControl() || first < 0 {
		return
	}
	if p.n == keptBatches {
		copy(p.batches[:], p.batches[1:])
		p.n--
	}
	p.batches[p.n] = sentBatch{first, b.LastSequence(), b.BaseOffset(), b.LastOffset()}
	p.n++
}

// idempotent says whether the batch takes part in the rules at all.
func idempotent(b protocol.Batch) bool { return b.ProducerID() >= 0 }

// admit checks the batches of one append. It returns where the first and the last of them are when all are retries of batches that are in
// the log already.
func (ps producers) admit(batches []protocol.Batch) (base, end int64, duplicate bool, err error) {
	var ahead producers // states as they will be after the batches checked so far, when one producer has several
	retries := 0
	for i, b := range batches {
		if !idempotent(b) {
			continue
		}
		p := ahead[b.ProducerID()]
		if p == nil {
			p = ps[b.ProducerID()]
		}
		if p == nil {
			// Nothing is known: as Kafka, believe any sequence number. The state may have expired.
			p = &producer{epoch: b.ProducerEpoch()}
		}
		if sent, ok := p.find(b); ok {
			if retries++; retries == 1 {
				base = sent.base
			}
			end = sent.end
			continue
		}
		if err := p.check(b); err != nil {
			return 0, 0, false, err
		}
		if i+1 < len(batches) {
			if ahead == nil {
				ahead = producers{}
			}
			next := *p
			next.add(b, 0)
			ahead[b.ProducerID()] = &next
		}
	}
	if retries > 0 && retries < len(batches) {
		return 0, 0, false, ErrOutOfOrderSequence // part old, part new: no client does that
	}
	return base, end, retries > 0, nil
}

// add notes that b is in the log, at its base offset. now is in ms since 1970.
func (ps *producers) add(b protocol.Batch, now int64) {
	if !idempotent(b) {
		return
	}
	if *ps == nil {
		*ps = producers{}
	}
	p := (*ps)[b.ProducerID()]
	if p == nil {
		p = &producer{epoch: b.ProducerEpoch()}
		(*ps)[b.ProducerID()] = p
	}
	p.add(b, now)
}

// expire forgets the producers that were not used since the given time.
func (ps producers) expire(before int64) {
	maps.DeleteFunc(ps, func(_ int64, p *producer) bool { return p.used < before })
}

// ids returns the producer ids in ascending order.
func (ps producers) ids() []int64 { return slices.Sorted(maps.Keys(ps)) }

// clone copies the state deeply.
func (ps producers) clone() producers {
	if len(ps) == 0 {
		return nil
	}
	c := make(producers, len(ps))
	for id, p := range ps {
		copied := *p
		c[id] = &copied
	}
	return c
}
