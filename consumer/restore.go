package consumer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mft/protocol"
)

// keepWhole is how large a file must be, in bytes, to be kept also when all of
// it has arrived and it only has to be placed.
const keepWhole = 8 << 20

// errSpoiled ends a session: what was kept of a file is not what had arrived.
var errSpoiled = errors.New("a temporary file that was kept does not hold what had arrived")

// beginRecord keeps what is needed of a begin record to open its transfer again.
func beginRecord(r *kgo.Record) keptRecord {
	k := keptRecord{
		Transfer: protocol.TransferID(r.Key), Offset: r.Offset, Epoch: r.LeaderEpoch, Timestamp: r.Timestamp.UnixMilli(), Value: bytes.Clone(r.Value),
	}
	for _, h := range r.Headers {
		if h.Key == protocol.HeaderSealed {
			k.Sealed = string(h.Value)
		}
	}
	return k
}

// record is the reverse of beginRecord.
func (k *keptRecord) record() *kgo.Record {
	r := &kgo.Record{
		Key: []byte(k.Transfer), Value: bytes.Clone(k.Value), Offset: k.Offset, LeaderEpoch: k.Epoch, Timestamp: time.UnixMilli(k.Timestamp),
		Headers: []kgo.RecordHeader{{Key: protocol.HeaderKind, Value: []byte(protocol.KindBegin)}},
	}
	if k.Sealed != "" {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: protocol.HeaderSealed, Value: []byte(k.Sealed)})
	}
	return r
}

// keep writes down what is open, when it is worth it. It belongs to the
// goroutine of run, or to whoever has seen that end.
func (p *partition) keep() {
	if p.keeper == nil {
		return
	}
	p.keeper.put(p.id, p.snapshot())
}

// snapshot is what is open, nil when nothing is that takes long to receive.
func (p *partition) snapshot() *keptPartition {
	next, epoch, entries, held := p.ledger.state()
	if next < 0 {
		return nil
	}
	open := make(map[int64]*transfer, len(p.transfers))
	again := make(map[int64]bool)
	worth := false
	for _, t := range p.transfers {
		if t.locked || t.held != nil { // what is held is spilled, or comes again
			continue
		}
		open[t.beginsAt] = t
		for _, begin := range t.again {
			again[begin] = true
		}
		worth = worth || t.temp != ""
	}
	for _, t := range p.whole {
		for _, begin := range t.Again {
			again[begin] = true
		}
	}
	k := &keptPartition{ID: p.id, Next: next, Held: min(held, next), Epoch: epoch, Committed: p.committedAt.Load()}
	for _, e := range entries {
		t, whole := open[e.begin], p.whole[e.begin]
		switch {
		case e.done:
			k.Done = append(k.Done, e.begin)
			delete(p.whole, e.begin)
		case t != nil:
			k.Open = append(k.Open, t.keep())
		case whole != nil:
			k.Open = append(k.Open, *whole)
			worth = true
		case again[e.begin]:
		default:
			k.Pending = append(k.Pending, e.begin)
		}
	}
	for begin := range p.whole {
		if _, ok := slices.BinarySearchFunc(entries, begin, func(e ledgerEntry, begin int64) int { return int(e.begin - begin) }); !ok {
			delete(p.whole, begin)
		}
	}
	if !worth {
		return nil
	}
	return k
}

// keep is what there is of an open transfer.
func (t *transfer) keep() keptTransfer {
	k := keptTransfer{
		Begin: t.begin, Again: slices.Clone(t.again), Temp: t.temp, Last: t.last, Seen: t.recordTime.UnixMilli(),
		raw: &extents{ranges: slices.Clone(t.have.ranges), total: t.have.total}, size: t.have.total,
	}
	if t.end != nil {
		k.End = &keptEnd{t.end.Size, t.end.Digest}
	}
	return k
}

// restore lets the partition go on with what was kept of it. The group has
// committed at (-1: never), with a note. It returns where reading goes on, or
// false: nothing of it can be used, and reading begins at the commit.
//
// Others may have had the partition in between. Records do not change, so what
// has arrived has; transfers that they have placed are before the commit, or in
// its note.
func (p *partition) restore(k *keptPartition, at int64, n note) (kgo.EpochOffset, bool) {
	if k == nil {
		return kgo.EpochOffset{}, false
	}
	drop := func(t *keptTransfer) { p.keeper.remove(t.Temp) }
	replayed := at >= 0 && p.ledger.position() < at   // for mirrors
	if at < k.Committed || k.Next <= at || replayed { // set back by hand, or overtaken
		for i := range k.Open {
			drop(&k.Open[i])
		}
		return kgo.EpochOffset{}, false
	}
	done := make(map[int64]bool)
	for _, begin := range slices.Concat(k.Done, n.done) {
		done[begin] = true
	}
	var entries []ledgerEntry
	next := max(min(k.Next, k.Held), at, 0)
	for _, begin := range k.Pending {
		if begin >= at {
			entries = append(entries, ledgerEntry{begin: begin, epoch: -1, done: done[begin]})
			if !done[begin] {
				next = min(next, begin)
			}
		}
	}
	for _, begin := range k.Done {
		if begin >= at {
			entries = append(entries, ledgerEntry{begin: begin, epoch: -1, done: true})
		}
	}
	for i := range k.Open {
		kt := &k.Open[i]
		begin := kt.Begin.Offset
		if begin < at || done[begin] {
			drop(kt)
			if begin >= at {
				entries = append(entries, ledgerEntry{begin: begin, epoch: kt.Begin.Epoch, done: true})
			}
			continue
		}
		entries = append(entries, ledgerEntry{begin: begin, epoch: kt.Begin.Epoch})
		for _, begin := range kt.Again {
			entries = append(entries, ledgerEntry{begin: begin, epoch: -1})
		}
		if p.receipts.placed.has(kt.Begin.Transfer) {
			drop(kt)
			p.known = append(p.known, *kt)
			continue
		}
		t, err := p.revive(kt)
		if err != nil {
			p.log.Debug().Str("topic", p.topic).Int32("partition", p.id).Str("transfer", string(kt.Begin.Transfer)).Err(err).
				Msg("what was received of a file is not taken up: it is read again")
			drop(kt)
			next = min(next, begin)
			continue
		}
		p.transfers[t.id] = t
		p.report.begin(string(t.id), t.name, t.size, t.dir)
		p.report.resumed(string(t.id), t.name, t.have.total)
	}
	epoch := int32(-1)
	if next == k.Next {
		epoch = k.Epoch
	}
	for begin := range done {
		p.inPlace[begin] = true
	}
	p.ledger.restore(next, epoch, entries)
	p.midway = true
	return kgo.EpochOffset{Offset: next, Epoch: epoch}, true
}

// revive opens a transfer again, as it was.
func (p *partition) revive(k *keptTransfer) (*transfer, error) {
	r := k.Begin.record()
	rec, err := protocol.ParseFileRecord(r.Key, r.Value, r.Headers)
	if err != nil {
		return nil, err
	}
	var opener *protocol.Opener
	if rec.IsSealed() {
		if rec, opener, err = p.keys.Open(rec); err != nil {
			return nil, err
		}
	} else if !p.acceptPlain && !p.keys.Empty() {
		return nil, errors.New("it is not encrypted")
	}
	t, err := newTransfer(p, rec.Transfer, rec.Manifest, opener, r)
	if err != nil {
		return nil, err
	}
	t.begin, t.again, t.last = k.Begin, slices.Clone(k.Again), k.Last
	t.recordTime, t.seen = time.UnixMilli(k.Seen), time.Now()
	if t.dir && len(k.raw.ranges) > 0 || t.size >= 0 && k.raw.limit() > t.size {
		return nil, errors.New("more has arrived than it has")
	}
	t.have = extents{ranges: slices.Clone(k.raw.ranges), total: k.raw.total}
	if k.End != nil {
		if err := t.finish(&protocol.End{Size: k.End.Size, Digest: k.End.Digest}); err != nil {
			return nil, err
		}
	}
	if k.Temp == "" {
		return t, nil
	}
	root := p.target.work.root
	info, err := root.Lstat(k.Temp)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() < k.raw.limit() {
		return nil, fmt.Errorf("its temporary file has %d bytes, %d had arrived", info.Size(), k.raw.limit())
	}
	if err := root.Chmod(k.Temp, 0o600); err != nil { // it may have been about to be placed
		return nil, err
	}
	// What is in it is read once more when all is there: digests cannot be kept.
	t.temp, t.restored, t.sparse = k.Temp, true, true // there may be holes
	if t.have.total > 0 {
		t.digest = nil
	}
	return t, nil
}

// takeUp hands restored transfers that are whole to the placer. It returns
// false when the partition is stopped.
func (p *partition) takeUp() bool {
	for i := range p.known {
		begin := &p.known[i].Begin
		p.settled.add(begin.Transfer, placed)
		p.repeated(begin.Transfer, begin.Offset)
		for _, again := range p.known[i].Again {
			p.ledger.finish(again)
		}
	}
	p.known = nil
	for _, t := range p.transfers {
		if t.restored && t.whole() && !p.hand(t) {
			return false
		}
	}
	return true
}

// leave lets go of what is open in a partition that has stopped, and keeps it
// for this receiver's next session or the next run.
func (p *partition) leave() {
	for _, t := range p.transfers {
		if err := t.park(); err != nil {
			p.placer.fail(fmt.Errorf("closing the temporary file of %q: %w", t.name, err))
		}
	}
	p.keep()
	if k := p.keeper.of(p.id); k != nil {
		return
	}
	p.discardAll() // nothing that is worth keeping
}

// usable is what is kept of a partition, unless the broker has lost records that
// it speaks of.
func (s *session) usable(id int32) *keptPartition {
	k := s.keeper.of(id)
	if k == nil {
		return nil
	}
	have, ok := s.ends[id]
	delete(s.ends, id)
	if ok && have.end < k.Next {
		s.cfg.Logger.Warn().Str("topic", s.cfg.Topic).Int32("partition", id).
			Msg("the broker has lost records that had been received: what was received in part is dropped, and received again")
		for i := range k.Open {
			s.keeper.remove(k.Open[i].Temp)
		}
		s.keeper.put(id, nil)
		return nil
	}
	return k
}

// listEnds asks where the partitions end; it does without when that takes long.
func (s *session) listEnds(ctx context.Context, client *kgo.Client) map[int32]span {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	ends, err := listSpans(ctx, client, &s.cfg.Config)
	if err != nil {
		s.cfg.Logger.Debug().Err(err).Msg("where the partitions end is not known")
		return nil
	}
	return ends
}
