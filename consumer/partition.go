package consumer

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"

	"mft/protocol"
)

const (
	maxOpenFiles  = 64               // temporary files of one partition open at the same time
	maxSettledIDs = 8192             // transfers that are remembered after they are done
	sweepInterval = time.Second      // between two looks for transfers that nothing comes for
	endGrace      = 10 * time.Second // for chunks on other connections that come after the end
	sweepGrace    = time.Minute      // a transfer is not abandoned before it was silent here for this long
)

// partition puts the transfers of one partition together, for as long as this
// receiver owns it. One goroutine (run) reads its records; what is whole goes
// to the placer.
type partition struct {
	id     int32
	topic  string
	target *target
	placer *placer
	report *reporter

	receipts *receipts
	born     time.Time // receipts written before are to be known
	log      zerolog.Logger
	changed  func()        // called when the partition may have got further
	moved    chan struct{} // the same, for who waits for the placer; capacity 1

	route       *Route // nil: names stay as they are
	keys        *protocol.Keyring
	acceptPlain bool
	fatal       func(error) // ends the session

	ledger    *ledger
	inPlace   map[int64]bool // begin offsets of transfers that were placed before the start
	midway    bool           // it started from a commit: ends without a begin are to be expected
	until     int64          // records from here on are left for the next run
	abandon   time.Duration  // a transfer that nothing comes for this long is given up; <= 0: never
	transfers map[protocol.TransferID]*transfer
	settled   *outcomes
	stable    int64 // offset up to which records were there when the broker last answered; -1: unknown

	topicID [16]byte
	mirrors map[protocol.TransferID]*mirror
	replay  int64           // of records below only those of mirrors count
	wanted  map[int64]bool  // begin offsets below replay of mirrors that are not here
	syncing bool            // a round of fsyncs of mirrors is going on
	synced  chan mirrorSync // its result

	openFiles atomic.Int32 // temporary files
	placing   atomic.Int32 // transfers at the placer
	started   atomic.Bool  // what was kept is taken up

	keeper      *keeper
	known       []keptTransfer          // kept ones that turned out to be in place
	whole       map[int64]*keptTransfer // large ones that are at the placer, by begin offset
	committedAt atomic.Int64            // the group's offset, as far as it is known; -1: none

	newerMu sync.Mutex
	newer   map[string]int64 // names placed since supersede looked, and where the transfers began

	ranged      atomic.Bool  // it is caught up with in ranges: see streams
	rangedAfter atomic.Int64 // when it may be next, Unix ns

	in      chan fetched
	quit    chan struct{} // closed: stop reading
	dropped chan struct{} // closed: it is another receiver's now, place nothing more of it
	done    chan struct{} // closed when run has returned
	quitOne sync.Once
	dropOne sync.Once
}

// fetched is what one answer of the broker holds of a partition.
type fetched struct {
	records []*kgo.Record
	stable  int64
}

// stop ends run. What is at the placer already is still placed, unless drop.
func (p *partition) stop(drop bool) {
	if drop {
		p.dropOne.Do(func() { close(p.dropped) })
	}
	p.quitOne.Do(func() { close(p.quit) })
}

func (p *partition) run() {
	defer close(p.done)
	defer p.closeMirrors()
	if !p.recall() {
		return
	}
	p.loadMirrors()
	if !p.takeUp() {
		return
	}
	p.started.Store(true)
	p.changed()
	sweep := time.NewTicker(sweepInterval)
	defer sweep.Stop()
	for {
		select {
		case <-p.quit:
			return
		case f := <-p.in:
			p.take(f)
		case round := <-p.synced:
			p.mirrorsSynced(round)
		case now := <-sweep.C:
			p.keep()
			p.supersede()
			if p.stable >= 0 && p.ledger.position() >= p.stable {
				p.sweep(now, false)
				p.caughtUp()
			}
			p.syncMirrors()
		}
	}
}

// take looks at the records of one answer.
func (p *partition) take(f fetched) {
	defer p.changed()
	next := p.ledger.position()
	for _, r := range f.records {
		select {
		case <-p.quit:
			return
		default:
		}
		if r.Offset < next { // seen before
			continue
		}
		if r.Offset >= p.until {
			if next < p.until {
				p.ledger.passed(p.until, r.LeaderEpoch)
			}
			break
		}
		if next >= 0 && r.Offset > next {
			p.midway = false // the commit's offset is gone from the topic
		}
		if !r.Attrs.IsControl() && !p.record(r) {
			return // stopped in the middle of it
		}
		next = r.Offset + 1
		p.ledger.passed(next, r.LeaderEpoch)
	}
	if len(p.wanted) > 0 && next >= p.replay {
		p.missedMirrors()
	}
	p.stable = f.stable
	p.supersede()
	// What is held in memory must not outlive the answer that it is part of.
	for _, t := range p.transfers {
		if t.held != nil && !p.do(t, t.spill) {
			return
		}
	}
}

// record looks at one record. It returns false when it could not be dealt with.
func (p *partition) record(r *kgo.Record) bool {
	rec, err := protocol.ParseFileRecord(r.Key, r.Value, r.Headers)
	if err != nil {
		p.unusable(err, r.Offset)
		return true
	}
	if m := p.mirrors[rec.Transfer]; m != nil {
		return p.mirrorRecord(m, rec, r)
	}
	if r.Offset < p.replay {
		if rec.Kind != protocol.KindBegin || !p.wanted[r.Offset] {
			return true
		}
		delete(p.wanted, r.Offset)
		defer func() {
			if p.mirrors[rec.Transfer] == nil && p.transfers[rec.Transfer] == nil { // there is nothing to be mirrored
				p.ledger.closeMirror(r.Offset)
			}
		}()
	}
	t := p.transfers[rec.Transfer]
	if t != nil {
		t.recordTime, t.seen = r.Timestamp, time.Now()
		if t.locked {
			return true
		}
		if rec.Kind != protocol.KindBegin && (rec.IsSealed() || t.opener != nil) {
			if rec, err = t.unseal(rec); err != nil {
				p.unusable(err, r.Offset)
				return true
			}
		}
	}
	switch rec.Kind {
	case protocol.KindBegin:
		if t != nil { // its sender was stopped, and goes on
			p.ledger.begin(r.Offset, r.LeaderEpoch)
			t.again = append(t.again, r.Offset)
			return true
		}
		return p.begin(rec, r)
	case protocol.KindAbort:
		if t != nil {
			p.abort(t, rec.Abort.Reason)
		}
		return true
	}
	if t == nil {
		p.stray(rec, r.Offset)
		return true
	}
	if rec.Kind == protocol.KindEnd {
		if err := t.finish(rec.End); err != nil {
			p.giveUp(t, err)
			return true
		}
	} else {
		var fresh int64
		if !p.do(t, func() (err error) { fresh, err = t.take(rec); return err }) {
			return false
		}
		p.report.advance(string(t.id), fresh)
		p.parkOthers(t)
	}
	if p.transfers[t.id] == t && t.whole() {
		return p.hand(t)
	}
	return true
}

// hand hands a transfer that is whole to the placer. It returns false when the
// partition is stopped.
func (p *partition) hand(t *transfer) bool {
	if err := t.checkLast(); err != nil {
		p.giveUp(t, err)
		return true
	}
	if t.temp != "" && t.size >= keepWhole {
		k := t.keep()
		p.whole[t.beginsAt] = &k
	}
	delete(p.transfers, t.id)
	p.settled.add(t.id, placed)
	if err := p.placer.submit(t); err != nil {
		p.transfers[t.id] = t // to be kept, or discarded
		delete(p.whole, t.beginsAt)
		return false
	}
	return true
}

// do lets a transfer use the file system, trying until it works. A transfer
// that cannot be received is given up. It returns false when the partition is
// stopped before it worked.
func (p *partition) do(t *transfer, work func() error) bool {
	err := p.placer.persist(p.dropped, work)
	if err == nil {
		return true
	}
	if _, ok := errors.AsType[*TransferError](err); ok {
		p.giveUp(t, err)
		return true
	}
	if !errors.Is(err, errDropped) {
		p.placer.fail(fmt.Errorf("receiving into %s: %w", p.target.dir, err))
	}
	return false
}

// begin opens a transfer. It returns false when the session ends with it.
func (p *partition) begin(rec protocol.FileRecord, r *kgo.Record) bool {
	if p.inPlace[r.Offset] {
		delete(p.inPlace, r.Offset)
		p.ledger.begin(r.Offset, r.LeaderEpoch)
		p.ledger.finish(r.Offset)
		p.settled.add(rec.Transfer, placed)
		return true
	}
	if p.settled.get(rec.Transfer) == placed { // the whole transfer is repeated
		p.ledger.begin(r.Offset, r.LeaderEpoch)
		p.ledger.finish(r.Offset)
		return true
	}
	if p.receipts.placed.has(rec.Transfer) { // the same, since long
		p.ledger.begin(r.Offset, r.LeaderEpoch)
		p.settled.add(rec.Transfer, placed)
		p.repeated(rec.Transfer, r.Offset)
		return true
	}
	var opener *protocol.Opener
	if rec.IsSealed() {
		var err error
		if rec, opener, err = p.keys.Open(rec); err != nil {
			return p.unopened(err, r)
		}
	}
	if rec.Manifest.Live {
		return p.beginMirror(rec, opener, r)
	}
	t, err := newTransfer(p, rec.Transfer, rec.Manifest, opener, r)
	p.ledger.begin(r.Offset, r.LeaderEpoch)
	if err == nil && opener == nil && !p.acceptPlain && !p.keys.Empty() {
		err = t.errorf("it is not encrypted, and anyone who may write to the topic can have made it: receive it with --accept-plain if that will do")
	}
	if errors.Is(err, errNoPlace) {
		p.end(t)
		p.settled.add(t.id, placed)
		return true
	}
	if err != nil {
		p.giveUp(t, err)
		return true
	}
	t.recordTime, t.seen = r.Timestamp, time.Now()
	t.begin = beginRecord(r)
	p.transfers[t.id] = t
	p.report.begin(string(t.id), t.name, t.size, t.dir)
	return true
}

// stray is a chunk or an end of a transfer that is not open.
func (p *partition) stray(rec protocol.FileRecord, offset int64) {
	if rec.Kind != protocol.KindEnd || p.midway || p.settled.get(rec.Transfer) != unknown {
		return
	}
	p.settled.add(rec.Transfer, gone)
	why := &TransferError{ID: string(rec.Transfer),
		Reason: fmt.Sprintf("it ends at offset %d of partition %d, but its beginning is not in the topic any more: send the file again", offset, p.id)}
	p.report.failed(string(rec.Transfer), "", why)
	p.tell(rec.Transfer, why)
}

// unusable is a record that is no file record, or not a correct one.
func (p *partition) unusable(err error, offset int64) {
	bad, ok := errors.AsType[*protocol.FileRecordError](err)
	if !ok || bad.Transfer == "" {
		if p.report.foreign() {
			p.log.Warn().Str("topic", p.topic).Int32("partition", p.id).Int64("offset", offset).Err(err).
				Msg("the topic holds records that are no files; they are skipped, this is told once")
		}
		return
	}
	why := &TransferError{ID: string(bad.Transfer), Reason: fmt.Sprintf("%s record at offset %d of partition %d: %s", bad.Kind, offset, p.id, bad.Reason)}
	if t := p.transfers[bad.Transfer]; t != nil {
		why.Name = t.name
		p.giveUp(t, why)
	} else if p.settled.get(bad.Transfer) == unknown {
		p.settled.add(bad.Transfer, gone)
		p.report.failed(string(bad.Transfer), "", why)
		p.tell(bad.Transfer, why)
	}
}

// abort ends a transfer that its sender gave up.
func (p *partition) abort(t *transfer, reason string) {
	p.end(t)
	p.finished(t)
	p.report.aborted(string(t.id), t.name, t.errorf("the sender gave it up: %s", reason))
}

// giveUp ends a transfer that makes no file.
func (p *partition) giveUp(t *transfer, why error) {
	p.end(t)
	p.settled.add(t.id, gone)
	p.report.failed(string(t.id), t.name, why)
	p.conclude(t, protocol.StateFailed, why)
}

// end drops what there is of a transfer.
func (p *partition) end(t *transfer) {
	delete(p.transfers, t.id)
	p.discard(t)
}

func (p *partition) discard(t *transfer) {
	if err := t.discard(); err != nil {
		p.log.Warn().Str("dir", p.target.dir).Err(err).Msg("a temporary file could not be removed")
	}
}

func (p *partition) discardAll() {
	for _, t := range p.transfers {
		p.discard(t)
	}
	if p.keeper != nil {
		p.keeper.put(p.id, nil)
	}
}

// finished lets the commit pass the transfer.
func (p *partition) finished(t *transfer) {
	p.ledger.finish(t.beginsAt)
	for _, begin := range t.again {
		p.ledger.finish(begin)
	}
}

// parkOthers closes the temporary files of other transfers when too many are open.
func (p *partition) parkOthers(current *transfer) {
	if p.openFiles.Load() <= maxOpenFiles {
		return
	}
	for _, t := range p.transfers {
		if t == current {
			continue
		}
		if err := t.park(); err != nil {
			p.placer.fail(fmt.Errorf("closing the temporary file of %q: %w", t.name, err))
		}
	}
}

// inPlaceNow is told by the placer that a transfer is placed.
func (p *partition) inPlaceNow(t *transfer) {
	if p.placer.conflict == ConflictRename || p.placer.conflict == ConflictFail {
		return // the other one has its say when it is whole
	}
	p.newerMu.Lock()
	defer p.newerMu.Unlock()
	if p.newer == nil {
		p.newer = make(map[string]int64)
	}
	p.newer[t.name] = max(p.newer[t.name], t.beginsAt)
}

// supersede drops open transfers of names that a transfer that began later has
// been placed under: their sender was stopped and started again, and if it
// were not, the later one should stay. So they do not hold back the commit.
func (p *partition) supersede() {
	p.newerMu.Lock()
	newer := p.newer
	p.newer = nil
	p.newerMu.Unlock()
	if len(newer) == 0 {
		return
	}
	for _, t := range p.transfers {
		if began, ok := newer[t.name]; ok && began > t.beginsAt {
			p.end(t)
			p.settled.add(t.id, placed)
			why := t.errorf("it was sent again and has arrived")
			p.report.dropped(string(t.id), t.name, why)
			p.conclude(t, protocol.StateSkipped, why)
		}
	}
}

// sweep gives up transfers that nothing more comes for: their last record is
// older than the limit, and nothing has come here for a while either, unless
// this is the final look of a run that ends.
func (p *partition) sweep(now time.Time, final bool) {
	over := func(t *transfer, limit, silence time.Duration) bool {
		return now.Sub(t.recordTime) >= limit && (final || now.Sub(t.seen) >= silence)
	}
	for _, t := range p.transfers {
		switch {
		case t.locked:
			if p.abandon > 0 && over(t, p.abandon, min(p.abandon, sweepGrace)) {
				p.end(t)
				p.settled.add(t.id, gone)
				p.conclude(t, protocol.StateFailed, t.errorf("its key was not here for %s: it is given up", p.abandon))
				p.log.Warn().Str("topic", p.topic).Str("transfer", string(t.id)).Stringer("after", p.abandon).
					Msg("an encrypted file whose key is not here is given up: the next run begins behind it")
			}
		case t.end != nil && over(t, endGrace, endGrace):
			p.giveUp(t, t.errorf("%s: send it again", t.missing()))
		case p.abandon > 0 && over(t, p.abandon, min(p.abandon, sweepGrace)):
			p.giveUp(t, t.errorf("nothing has come for %s, its sender seems to be gone: %s", p.abandon, t.missing()))
		}
	}
}

// unfinished reports the transfers that are open when a run ends with the
// topic's end. It is called after run has returned.
func (p *partition) unfinished(now time.Time) {
	p.supersede()
	p.sweep(now, true)
	for _, t := range p.transfers {
		if t.locked { // told already
			continue
		}
		p.report.unfinished(string(t.id), t.name, t.errorf("its end is not in the topic yet: %s; the next run takes it up", t.missing()))
	}
}

// idle tells whether all records up to until are looked at and nothing is left
// to be placed.
func (p *partition) idle() bool {
	return p.started.Load() && p.ledger.position() >= p.until && p.placing.Load() == 0
}
