package consumer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"

	"mft/protocol"
)

const (
	placeWorkers = 12                     // write and fsync files at the same time; more gain nothing
	placeQueue   = 1024                   // whole transfers waiting to be placed
	placeGroup   = 512                    // transfers that share the fsyncs of their directories
	troubleWait  = 250 * time.Millisecond // before the first try again; doubles
	troubleMax   = 5 * time.Second        // between two tries
)

// placer takes whole transfers and gives them their names.
//
// Workers prepare the temporary files, several at a time, for an fsync is
// mostly waiting. One finisher takes them in the order in which they were
// submitted, so that the later of two transfers of one name wins and a
// directory comes before what is in it; it decides the names of all that are
// ready, renames them, makes their directories durable together, and marks them
// done in their ledgers, after their hooks where there is one.
type placer struct {
	log    zerolog.Logger
	target *target
	report *reporter

	noSync   bool // see FilesConfig.NoSync
	conflict Conflict
	hooks    *hooks
	receipts *receipts
	bulk     *bulkSync

	slots chan struct{}  // bounds what is queued, so that the channels below never block
	mu    sync.Mutex     // keeps both channels in the same order
	work  chan *placeJob // to the workers
	order chan *placeJob // the same, to the finisher

	stopping context.Context // no more trying again once it ends
	failed   chan struct{}   // closed at the first error that nothing can be done about
	failOnce sync.Once
	err      error // set before failed is closed
	done     sync.WaitGroup
}

type placeJob struct {
	*transfer
	verdict               // once it is decided
	ready   chan struct{} // closed when prepare is done
	err     error         // why it is not placed; first of prepare
	tries   int           // of its hook
	receipt *kgo.Record
	settled func() // called when all is done; nil: nobody waits
}

// errDropped ends the work on a transfer that is not this receiver's any more.
var errDropped = errors.New("dropped")

// errRepeated ends the work on a transfer that the group has placed already.
var errRepeated = errors.New("repeated")

func newPlacer(stopping context.Context, cfg *FilesConfig, target *target, report *reporter, receipts *receipts) *placer {
	p := &placer{
		log: cfg.Logger, target: target, report: report, receipts: receipts, stopping: stopping, noSync: cfg.NoSync, conflict: cfg.OnConflict,
		slots:  make(chan struct{}, placeQueue),
		work:   make(chan *placeJob, placeQueue),
		order:  make(chan *placeJob, placeQueue),
		failed: make(chan struct{}),
		bulk:   newBulkSync(target.work.fd),
	}
	p.hooks = newHooks(p, cfg)
	for range placeWorkers {
		p.done.Go(p.worker)
	}
	p.done.Go(p.finisher)
	return p
}

// close waits until everything that was submitted is placed or dropped, and
// ends the hooks.
func (p *placer) close() {
	close(p.work)
	close(p.order)
	p.done.Wait()
	p.hooks.close()
}

// fail ends the run.
func (p *placer) fail(err error) {
	p.failOnce.Do(func() {
		p.err = err
		close(p.failed)
	})
}

// submit hands over a whole transfer. It blocks while the placer is busy; it
// returns errDropped when the partition was taken away meanwhile.
func (p *placer) submit(t *transfer) error {
	select {
	case p.slots <- struct{}{}:
	case <-t.part.dropped:
		return errDropped
	case <-p.failed:
		return errDropped
	}
	t.part.placing.Add(1)
	job := &placeJob{transfer: t, ready: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.order <- job
	p.work <- job
	return nil
}

func (p *placer) worker() {
	for job := range p.work {
		job.unsynced = p.noSync || !job.dir && job.link == "" && p.bulk.wanted(job.size, len(p.slots))
		job.err = p.persist(job.part.dropped, job.prepare)
		close(job.ready)
	}
}

// persist does something with the file system until it works: errors that may
// pass are told once and tried again. What it returns is nil, errDropped, a
// *TransferError, a *RefusedError, or one that nothing can be done about.
func (p *placer) persist(dropped <-chan struct{}, do func() error) error {
	wait := troubleWait
	for tries := 0; ; tries++ {
		select {
		case <-dropped:
			return errDropped
		case <-p.failed:
			return errDropped
		default:
		}
		err := do()
		if err == nil && tries > 0 {
			p.log.Warn().Str("dir", p.target.dir).Msg("receiving goes on")
		}
		if err == nil || !passing(err) || isSyncError(err) {
			return err
		}
		if tries == 0 {
			p.log.Warn().Str("dir", p.target.dir).Err(err).Msg(remedy(err))
		}
		select {
		case <-time.After(wait):
		case <-dropped:
		case <-p.failed:
		case <-p.stopping.Done():
			return errDropped
		}
		wait = min(2*wait, troubleMax)
	}
}

func isSyncError(err error) bool {
	_, ok := errors.AsType[*syncError](err)
	return ok
}

// finisher places transfers group by group.
func (p *placer) finisher() {
	group := make([]*placeJob, 0, placeGroup)
	var first *placeJob // of the next group
	for {
		if first == nil {
			var ok bool
			if first, ok = <-p.order; !ok {
				return
			}
		}
		<-first.ready
		group, first = append(group[:0], first), nil
	gather:
		for len(group) < placeGroup && first == nil {
			select {
			case job, ok := <-p.order:
				if !ok {
					break gather // the outer loop sees it, too
				}
				select {
				case <-job.ready:
					group = append(group, job)
				default:
					first = job
				}
			default:
				break gather
			}
		}
		p.finish(group)
	}
}

// finish gives a group of prepared transfers their names, makes that durable
// and has their receipts written.
func (p *placer) finish(group []*placeJob) {
	p.makeDurable(group)
	for len(group) > 0 {
		n := p.decide(group)
		p.place(group[:n])
		group = group[n:]
	}
}

// decide finds out which names the first transfers of a group get, and returns
// of how many: the next one's depends on where they are. Nothing is changed.
func (p *placer) decide(group []*placeJob) int {
	names := make(map[string]bool, len(group))
	for i, job := range group {
		if job.err != nil || job.dir {
			continue
		}
		job.err = p.persist(job.part.dropped, func() error { return p.judge(job) })
		if job.err != nil || p.overwrites() {
			continue
		}
		if names[job.as] {
			return i
		}
		names[job.as] = true
	}
	return len(group)
}

func (p *placer) overwrites() bool { return p.conflict == "" || p.conflict == ConflictOverwrite }

// judge applies the rule for conflicts to one transfer.
func (p *placer) judge(job *placeJob) (err error) {
	job.verdict, err = p.target.decide(job.transfer, p.conflict)
	return asRefusal(job.name, err)
}

// place places transfers whose names are decided:
//
//  1. their intents are made durable, all at once,
//  2. they get their names,
//  3. their directories are made durable, all at once,
//  4. it is told, and their hooks are run; see conclude for what follows.
func (p *placer) place(group []*placeJob) {
	p.intend(group)
	inPlace := 0
	for _, job := range group {
		if job.err == nil && !job.skip {
			job.err = p.persist(job.part.dropped, func() error { return p.rename(job) })
		}
		switch {
		case job.err != nil:
			p.settleFailure(job)
		case job.skip:
			p.settleSkipped(job)
		default:
			p.target.work.intents.placed(job.id)
			inPlace++
		}
	}
	if inPlace > 0 {
		if err := p.target.settle(); err != nil {
			p.fail(err)
		}
	}
	for _, job := range group {
		if job.err != nil || job.skip { // settled
			continue
		}
		select {
		case <-p.failed: // not known to be durable: not done
			p.release(job)
			continue
		default:
		}
		p.receipts.placed.add(job.id)
		p.report.placed(job.transfer, job.as)
		p.attend(job)
	}
}

// intend makes it known, durably, that transfers are about to get their names.
// What the group has placed already is left out.
func (p *placer) intend(group []*placeJob) {
	seen := make(map[protocol.TransferID]bool, len(group))
	var list []*intent
	for _, job := range group {
		switch {
		case job.err != nil:
			continue
		case seen[job.id] || p.receipts.placed.has(job.id):
			job.err = errRepeated
			continue
		case job.skip:
			continue
		}
		seen[job.id] = true
		var in *intent
		if in, job.receipt = p.receipts.intentOf(job); !job.dir { // making a directory twice is making it once
			list = append(list, in)
		}
	}
	if err := p.persist(nil, func() error { return p.target.work.intents.write(list) }); err != nil {
		for _, job := range group {
			if job.err == nil {
				job.err = err
			}
		}
	}
}

// disown takes the intent of a transfer back, which will not get its name, and
// then removes its temporary file: never the other way round.
func (p *placer) disown(job *placeJob) error {
	if err := p.persist(nil, func() error { return p.target.work.intents.void(job.id) }); err != nil {
		if !errors.Is(err, errDropped) {
			p.fail(fmt.Errorf("receiving into %s: %w", p.target.dir, err))
		}
		return err
	}
	return job.discard()
}

// attend has the hook run of a transfer that is in place, if there is one, and
// concludes it.
func (p *placer) attend(job *placeJob) {
	if p.hooks.wants(job) {
		p.hooks.queue <- job
	} else {
		p.conclude(job)
	}
}

// conclude has the receipt written of a transfer that is in place and whose
// hook was run. Once that is acknowledged, the group's offset may pass it.
func (p *placer) conclude(job *placeJob) {
	job.part.inPlaceNow(job.transfer)
	handed := p.receipts.sendRecord(job.receipt, nil, func(acked bool) {
		if acked { // else it stays until the offset has passed it
			p.target.work.intents.forget(job.id)
		}
		job.part.finished(job.transfer)
		if job.settled != nil {
			job.settled()
		}
		p.release(job)
	})
	if !handed { // the next run takes it up
		p.release(job)
	}
}

// release makes room for another transfer.
func (p *placer) release(job *placeJob) {
	job.part.placing.Add(-1)
	job.part.changed()
	<-p.slots
}

// rename gives a transfer the name that was decided.
func (p *placer) rename(job *placeJob) error {
	t := job.transfer
	if t.dir {
		job.as = t.name
		return asRefusal(t.name, p.target.placeDir(t.name, t.attrs))
	}
	if t.link != "" && !p.target.keep.UnsafeLinks {
		if err := p.target.realParents(t.name); err != nil {
			return asRefusal(t.name, err)
		}
	}
	for !job.same && !job.skip {
		err := p.target.place(t.temp, job.as, p.overwrites())
		if err == nil {
			t.temp = ""
			return nil
		}
		if !errors.Is(err, errNameTaken) {
			return asRefusal(t.name, err)
		}
		if err := p.judge(job); err != nil {
			return err
		}
	}
	if job.skip {
		return p.disown(job)
	}
	return t.discard()
}

// asRefusal makes a *RefusedError of an error that is the fault of the name.
func asRefusal(name string, err error) error {
	if reason := refusal(err); reason != "" {
		return &RefusedError{Name: name, Reason: reason}
	}
	return err
}

// settleSkipped ends a transfer that the rule for conflicts leaves out.
func (p *placer) settleSkipped(job *placeJob) {
	if err := job.discard(); err != nil {
		p.log.Warn().Str("dir", p.target.dir).Err(err).Msg("a temporary file could not be removed")
	}
	const reason = "another file of that name is there"
	p.report.skipped(string(job.id), job.name, reason)
	job.part.conclude(job.transfer, protocol.StateSkipped, errors.New(reason))
	p.release(job)
}

// settleFailure ends a transfer that was not placed: it is refused or failed
// and done with, or dropped, or it ends the run.
func (p *placer) settleFailure(job *placeJob) {
	defer p.release(job)
	if err := p.disown(job); err != nil && !errors.Is(err, errDropped) {
		p.log.Warn().Str("dir", p.target.dir).Err(err).Msg("a temporary file could not be removed")
	}
	switch job.err.(type) {
	case *RefusedError, *TransferError:
		job.part.settled.add(job.id, gone)
		p.report.failed(string(job.id), job.name, job.err)
		job.part.conclude(job.transfer, protocol.StateFailed, job.err)
		return
	}
	if errors.Is(job.err, errRepeated) {
		job.part.repeated(job.id, job.beginsAt)
		return
	}
	if !errors.Is(job.err, errDropped) {
		p.fail(fmt.Errorf("receiving into %s: %w", p.target.dir, job.err))
	}
}
