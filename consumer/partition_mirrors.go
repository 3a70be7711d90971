package consumer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mft/protocol"
)

// Mirrors are the transfers of a partition that are live: see mirror. A
// transfer that is not holds the commit at its begin record until it is in
// place; a mirror may be open for weeks, so the commit passes it, and what is
// needed to go on is kept in two places:
//
//   - the work directory knows the mirror and how much of it is durable, at most
//     sweepInterval behind. The commit does not pass records that are not;
//   - the commit's note has where each open mirror began, for a receiver
//     that has no such state: it reads the topic again from there, and takes
//     of that part only what belongs to these mirrors.

// tailGrace is how long nothing has to come, until what a file has beyond what
// was sent is cut off.
const tailGrace = 10 * time.Second

// mirrorSync is what one round of fsyncs made durable.
type mirrorSync struct {
	mirrors []syncedMirror
	err     error
}

type syncedMirror struct {
	*mirror
	file  *os.File
	entry mirrorEntry
}

// mirrorStart is where a partition has to be read from so that its mirrors miss
// nothing, when at is committed; wanted are the begin records before at that
// are to be looked for.
func (s *session) mirrorStart(id int32, at int64, n note) (from int64, wanted map[int64]bool) {
	from, wanted = at, make(map[int64]bool)
	entries := make(map[int64]mirrorEntry)
	for _, e := range s.target.work.mirrors.of(s.cfg.Topic, s.topic.id, id) {
		if e.intact(s.target) {
			entries[e.Begin] = e
		}
	}
	for _, m := range n.mirrors {
		e, ok := entries[m.begin]
		switch {
		case !ok:
			from, wanted[m.begin] = min(from, m.begin), true
		case e.Applied < m.durable:
			from = min(from, e.Applied)
		}
	}
	return from, wanted
}

// loadMirrors takes up the mirrors that the work directory has of the partition.
func (p *partition) loadMirrors() {
	store := p.target.work.mirrors
	for _, e := range store.of(p.topic, p.topicID, p.id) {
		if !e.intact(p.target) {
			p.log.Warn().Str("file", e.Name).Msg("its file is not there any more as far as it had arrived: it is mirrored from its beginning, if that is still in the topic")
			if !p.persistMirror(func() error { return store.finish(e.Transfer, false) }) {
				return
			}
			continue
		}
		m, err := p.reopen(e)
		if err != nil {
			p.ledger.openMirror(mirrorPoint{e.Begin, e.Applied})
			p.ledger.hold(e.Begin, p.ledger.position(), -1)
			p.report.failed(string(e.Transfer), e.Name, &TransferError{Name: e.Name, ID: string(e.Transfer), Reason: err.Error()})
			p.settled.add(e.Transfer, gone)
			continue
		}
		if !p.persistMirror(m.settleName) {
			return
		}
		p.ledger.openMirror(mirrorPoint{e.Begin, e.Applied})
		p.mirrors[m.id] = m
		store.take(m)
		p.report.begin(string(m.id), m.name, -1, false)
		p.report.advance(string(m.id), m.have)
	}
}

// reopen makes the mirror of an entry.
func (p *partition) reopen(e mirrorEntry) (*mirror, error) {
	headers := []protocol.Header{{Key: protocol.HeaderKind, Value: []byte(protocol.KindBegin)}}
	if e.Sealed {
		headers = append(headers, protocol.Header{Key: protocol.HeaderSealed, Value: []byte("1")})
	}
	rec, err := protocol.ParseFileRecord([]byte(e.Transfer), e.Value, headers)
	if err != nil {
		return nil, err
	}
	var opener *protocol.Opener
	if rec.IsSealed() {
		if rec, opener, err = p.keys.Open(rec); err != nil {
			return nil, err
		}
	}
	m, err := newMirror(p, e.Transfer, rec.Manifest, opener, &kgo.Record{Offset: e.Begin, Timestamp: time.UnixMilli(e.Time)})
	if err != nil {
		return nil, err
	}
	m.name, m.entry, m.have, m.applied, m.resumed = e.Name, e, e.Have, e.Applied, time.Now()
	if e.Last != nil {
		m.last = *e.Last
	}
	return m, nil
}

// persistMirror does something with the file system until it works. It returns
// false when it never will: the partition is dropped, or the run fails.
func (p *partition) persistMirror(do func() error) bool {
	err := p.placer.persist(p.dropped, do)
	if err == nil {
		return true
	}
	if !errors.Is(err, errDropped) {
		p.placer.fail(fmt.Errorf("receiving into %s: %w", p.target.dir, err))
	}
	return false
}

// doMirror is persistMirror for what may fail because of the mirror, which is
// then told and not written to any more.
func (p *partition) doMirror(m *mirror, do func() error) bool {
	err := p.placer.persist(p.dropped, do)
	if err == nil {
		return true
	}
	if reason := refusal(err); reason != "" {
		err = &RefusedError{Name: m.name, Reason: reason}
	}
	switch err.(type) {
	case *TransferError, *RefusedError:
		return p.breakMirror(m, err)
	}
	if !errors.Is(err, errDropped) {
		p.placer.fail(fmt.Errorf("receiving into %s: %w", p.target.dir, err))
	}
	return false
}

// breakMirror tells that a mirror cannot go on. It stays open, so that the next
// run finds its beginning; what is here is forgotten unless bytes are missing
// in the topic.
func (p *partition) breakMirror(m *mirror, why error) bool {
	p.report.failed(string(m.id), m.name, why)
	if m.broken { // and its file is as it should be
		return true
	}
	m.broken = true
	p.awaitMirrors()
	if err := m.park(); err != nil {
		p.log.Warn().Err(err).Str("file", m.name).Msg("close")
	}
	m.firstDirty = noneHeld
	p.ledger.release(m.entry.Begin, 0, noneHeld, -1)
	return p.persistMirror(func() error { return m.store().finish(m.id, false) })
}

// beginMirror opens a live transfer. It returns false when it could not be
// dealt with.
func (p *partition) beginMirror(rec protocol.FileRecord, opener *protocol.Opener, r *kgo.Record) bool {
	store := p.target.work.mirrors
	if _, open, finished := store.entry(rec.Transfer); open || finished || p.settled.get(rec.Transfer) != unknown {
		return true
	}
	m, err := newMirror(p, rec.Transfer, rec.Manifest, opener, r)
	switch {
	case err != nil:
	case opener == nil && !p.acceptPlain && !p.keys.Empty():
		err = m.errorf("it is not encrypted, and anyone who may write to the topic can have made it: receive it with --accept-plain if that will do")
	case rec.Manifest.From > 0:
		err = m.errorf("it grows, and its first %d bytes are not in the topic any more: it is mirrored from its next generation on, when it is rotated or sent anew", rec.Manifest.From)
	case rec.Manifest.Previous == "" && (p.placer.conflict == ConflictSkip || p.placer.conflict == ConflictFail):
		if _, there := p.target.root.Lstat(m.name); there == nil {
			err = &RefusedError{Name: m.name, Reason: "another file of that name is there"}
		}
	}
	if err == nil {
		m.digest, err = protocol.NewDigest(m.algorithm)
	}
	if err != nil {
		p.settled.add(rec.Transfer, gone)
		p.report.failed(string(rec.Transfer), m.name, err)
		return true
	}
	for _, other := range p.mirrors {
		if other.name == m.name && !p.closeMirror(other, errors.New("its sender began the file anew")) {
			return false
		}
	}
	e := mirrorEntry{
		Transfer: m.id, Topic: p.topic, TopicID: p.topicID[:], Partition: p.id, Name: m.name,
		Begin: r.Offset, Time: r.Timestamp.UnixMilli(), Value: r.Value, Sealed: opener != nil, Applied: r.Offset + 1,
	}
	if rec.Manifest.Previous == protocol.PreviousKeep || rec.Manifest.Previous == "" && p.placer.conflict == ConflictRename {
		e.Kept = keptName(m.name, r.Timestamp)
	}
	m.entry, m.applied = e, e.Applied
	p.ledger.openMirror(mirrorPoint{e.Begin, e.Applied})
	p.mirrors[m.id] = m
	store.take(m)
	p.report.begin(string(m.id), m.name, -1, false)
	if p.doMirror(m, func() error { return m.create(e, rec.Manifest.Previous) }) {
		return true
	}
	delete(p.mirrors, m.id)
	return false
}

// mirrorRecord looks at a record of an open mirror. It returns false when it
// could not be dealt with.
func (p *partition) mirrorRecord(m *mirror, rec protocol.FileRecord, r *kgo.Record) bool {
	if r.Offset < m.applied { // it is in the file
		return true
	}
	if m.lost.Load() {
		return p.closeMirror(m, errors.New("another sender mirrors a file of this name"))
	}
	var err error
	switch {
	case rec.Kind == protocol.KindBegin && rec.IsSealed():
		rec, _, err = p.keys.Open(rec)
	case rec.IsSealed() || m.opener != nil:
		rec, err = m.unseal(rec)
	}
	if err != nil {
		if bad, ok := errors.AsType[*protocol.FileRecordError](err); ok {
			err = m.errorf("%s record at offset %d of partition %d: %s", bad.Kind, r.Offset, p.id, bad.Reason)
		}
		p.report.failed(string(m.id), m.name, err)
		return true // somebody else's: what the sender sent is not touched by it
	}
	var fresh int64
	ok := true
	switch rec.Kind {
	case protocol.KindBegin:
		before := m.have
		ok = p.doMirror(m, func() error { return m.goOn(rec.Manifest.From) })
		if m.have < before { // the next run must not take for the sender's what is void
			m.dirty(r)
		}
	case protocol.KindChunk:
		last := m.last
		ok = p.doMirror(m, func() (err error) { fresh, err = m.write(rec.Offset, rec.Data); return err })
		if rec.Last {
			m.last = rec.Offset + int64(len(rec.Data))
		}
		if fresh > 0 || m.last != last {
			m.dirty(r)
			p.report.advance(string(m.id), fresh)
		}
	case protocol.KindEnd:
		return p.endMirror(m, rec.End)
	case protocol.KindAbort:
		return p.closeMirror(m, m.errorf("the sender gave it up: %s; the file stays as it is", rec.Abort.Reason))
	}
	if ok {
		m.applied = r.Offset + 1
	}
	return ok
}

// dirty notes that a record has changed the file.
func (m *mirror) dirty(r *kgo.Record) {
	if m.firstDirty == noneHeld {
		m.firstDirty, m.dirtyEpoch = r.Offset, r.LeaderEpoch
		m.part.ledger.hold(m.entry.Begin, r.Offset, r.LeaderEpoch)
	}
}

// unseal decrypts a record.
func (m *mirror) unseal(rec protocol.FileRecord) (protocol.FileRecord, error) {
	if m.opener == nil {
		return rec, m.errorf("a record is encrypted, in a transfer that is not: somebody else has written it")
	}
	out, err := m.opener.Open(rec)
	if err == nil && out.Hole > 0 {
		err = m.errorf("a chunk is a hole, which growing files do not have")
	}
	return out, err
}

// endMirror ends a mirror with its end record.
func (p *partition) endMirror(m *mirror, end *protocol.End) bool {
	p.awaitMirrors()
	if m.broken {
		return p.forgetMirror(m, true)
	}
	err := p.placer.persist(p.dropped, func() error { return m.complete(end, p.quit) })
	switch err.(type) {
	case nil:
	case *TransferError:
		p.report.failed(string(m.id), m.name, err)
		if err := p.placer.persist(p.dropped, func() error { return m.flush() }); err != nil {
			return p.persistMirror(func() error { return err })
		}
		p.settled.add(m.id, gone)
		p.receiptOf(m, protocol.StateFailed, end.Size, "", reasonOf(err))
		return p.forgetMirror(m, true)
	default:
		return p.persistMirror(func() error { return err })
	}
	if !p.forgetMirror(m, true) {
		return false
	}
	p.settled.add(m.id, placed)
	p.report.mirrored(string(m.id), end.Size, end.Digest)
	p.receiptOf(m, protocol.StateDelivered, end.Size, end.Digest, "")
	return true
}

// receiptOf has a receipt written. The group's offset does not wait for it: a
// receiver that is killed just then writes none.
func (p *partition) receiptOf(m *mirror, state protocol.ReceiptState, size int64, digest, reason string) {
	t := &transfer{id: m.id, name: m.name, size: size, algorithm: m.algorithm, sum: digest, opener: m.opener}
	receipt := p.receipts.of(t, state, reason)
	if state == protocol.StateDelivered {
		receipt.Path = filepath.Join(p.target.dir, filepath.FromSlash(m.name))
	}
	p.receipts.send(sealed(t, receipt), p.quit, nil)
}

// flush makes the file durable, if it is there.
func (m *mirror) flush() error {
	err := m.open()
	if _, ok := err.(*TransferError); ok {
		return nil
	}
	if err != nil {
		return err
	}
	return syncMirror(m.file, m.name)
}

// closeMirror ends a mirror without its end: its file stays as it is.
func (p *partition) closeMirror(m *mirror, why error) bool {
	p.awaitMirrors()
	if !m.broken && !p.persistMirror(m.flush) {
		return false
	}
	if !p.forgetMirror(m, true) {
		return false
	}
	p.settled.add(m.id, gone)
	p.report.aborted(string(m.id), m.name, why)
	return true
}

// forgetMirror removes what is kept of a mirror besides its file.
func (p *partition) forgetMirror(m *mirror, remember bool) bool {
	if err := m.park(); err != nil {
		p.placer.fail(&syncError{fmt.Errorf("closing %q: %w", m.name, err)})
		return false
	}
	if !p.persistMirror(func() error { return m.store().finish(m.id, remember) }) {
		return false
	}
	m.store().leave(m)
	delete(p.mirrors, m.id)
	p.ledger.closeMirror(m.entry.Begin)
	return true
}

// syncMirrors begins to make durable what was written to mirrors, beside this
// goroutine, unless that is going on already.
func (p *partition) syncMirrors() {
	if p.syncing {
		return
	}
	round := p.dirtyMirrors()
	if len(round.mirrors) == 0 {
		return
	}
	p.syncing = true
	go func() {
		round.err = p.placer.persist(p.dropped, round.run)
		p.synced <- round
	}()
}

// dirtyMirrors takes what is to be made durable.
func (p *partition) dirtyMirrors() mirrorSync {
	var round mirrorSync
	for _, m := range p.mirrors {
		if m.firstDirty == noneHeld || m.broken {
			continue
		}
		if err := m.open(); err != nil {
			p.log.Warn().Err(err).Str("file", m.name).Msg("it cannot be made durable now, trying again")
			continue
		}
		e := m.entry
		e.Have, e.Applied, e.Temp = m.have, m.applied, ""
		if m.last >= 0 {
			last := m.last
			e.Last = &last
		}
		m.firstDirty = noneHeld
		round.mirrors = append(round.mirrors, syncedMirror{m, m.file, e})
	}
	return round
}

// run makes the files durable, and then what is noted of them.
func (s *mirrorSync) run() error {
	var store *mirrorStore
	entries := make([]mirrorEntry, 0, len(s.mirrors))
	for _, m := range s.mirrors {
		if err := syncMirror(m.file, m.name); err != nil {
			return err
		}
		store, entries = m.store(), append(entries, m.entry)
	}
	return store.put(entries...)
}

// mirrorsSynced lets the commit pass what is durable.
func (p *partition) mirrorsSynced(round mirrorSync) {
	p.syncing = false
	if round.err != nil {
		if !errors.Is(round.err, errDropped) {
			p.placer.fail(fmt.Errorf("receiving into %s: %w", p.target.dir, round.err))
		}
		return
	}
	for _, m := range round.mirrors {
		m.mirror.entry = m.entry
		p.ledger.release(m.entry.Begin, m.entry.Applied, m.firstDirty, m.dirtyEpoch)
		if m.firstDirty != noneHeld {
			continue
		}
		if !m.sameFile() {
			p.breakMirror(m.mirror, m.errorf("its file was removed or replaced here: start the receiver again to mirror it from its beginning"))
		} else if err := m.park(); err != nil { // nobody waits for it now
			p.placer.fail(&syncError{fmt.Errorf("closing %q: %w", m.name, err)})
		}
	}
	p.changed()
}

// awaitMirrors waits for what syncMirrors has begun.
func (p *partition) awaitMirrors() {
	if p.syncing {
		p.mirrorsSynced(<-p.synced)
	}
}

// caughtUp cuts off what files of mirrors have from a former run and nobody sent.
func (p *partition) caughtUp() {
	for _, m := range p.mirrors {
		if m.checked || m.broken || time.Since(m.resumed) < tailGrace {
			continue
		}
		m.checked = true
		p.doMirror(m, func() error {
			if err := m.open(); err != nil {
				return err
			}
			return m.cut()
		})
		if m.firstDirty == noneHeld {
			if err := m.park(); err != nil {
				p.log.Warn().Err(err).Str("file", m.name).Msg("close")
			}
		}
	}
}

// closeMirrors makes everything durable and closes the files; the mirrors stay
// open for the next run.
func (p *partition) closeMirrors() {
	p.awaitMirrors()
	if round := p.dirtyMirrors(); len(round.mirrors) > 0 {
		if round.err = round.run(); round.err != nil {
			p.log.Warn().Str("dir", p.target.dir).Err(round.err).Msg("mirrors could not be made durable; the next run takes up their last part again")
		} else {
			p.mirrorsSynced(round)
		}
	}
	for _, m := range p.mirrors {
		if err := m.park(); err != nil {
			p.log.Warn().Str("file", m.name).Err(err).Msg("close")
		}
		p.target.work.mirrors.leave(m)
	}
}

// missedMirrors tells of mirrors whose beginning was to be found in the topic
// and is not there any more.
func (p *partition) missedMirrors() {
	for begin := range p.wanted {
		p.ledger.closeMirror(begin)
		p.report.failed("", "", &TransferError{ID: fmt.Sprintf("at offset %d of partition %d", begin, p.id),
			Reason: "a file that grows began there, and that is not in the topic any more: it is mirrored from its next generation on, when it is rotated or sent anew"})
	}
	p.wanted = nil
}
