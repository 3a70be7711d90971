package consumer

import (
	"path"
	"path/filepath"

	"mft/protocol"
)

// recover takes up the files that were placed before the receiver was killed or
// stopped, and of which it is not known that all is done: their hooks are run,
// their receipts are written.
func (r *receiver) recover() {
	part := &partition{
		topic: r.cfg.Topic, target: r.target, placer: r.placer, report: r.report, receipts: r.receipts, log: r.cfg.Logger,
		ledger: newLedger(-1), settled: newOutcomes(1), dropped: make(chan struct{}), changed: func() {},
	}
	var jobs []*placeJob
	for _, in := range r.target.work.intents.recovered {
		if in.Topic != r.cfg.Topic || in.Group != r.cfg.Group { // for a run that receives these
			continue
		}
		job, err := in.job(part)
		if err != nil {
			r.cfg.Logger.Warn().Str("transfer", string(in.Transfer)).Err(err).Msg("a file was placed before; what else there was to do is not known any more")
			r.target.work.intents.forget(in.Transfer)
		} else {
			job.settled = func() { r.receipts.placed.settled(in.Transfer) }
			r.receipts.placed.expect(in.Transfer)
			jobs = append(jobs, job)
		}
		r.receipts.placed.add(in.Transfer)
	}
	if len(jobs) == 0 {
		return
	}
	r.cfg.Logger.Info().Int("files", len(jobs)).Msg("taking up files that were placed by the run before")
	r.placer.done.Go(func() {
		for _, job := range jobs {
			select {
			case r.placer.slots <- struct{}{}:
			case <-r.placer.failed:
				return
			case <-r.receipts.ctx.Done():
				return
			}
			part.placing.Add(1)
			r.placer.attend(job)
		}
	})
}

// job is what is left to do of a file that is in place.
func (in *intent) job(part *partition) (*placeJob, error) {
	clear, err := in.receiptOf(true)
	if err != nil {
		return nil, err
	}
	sent, err := in.receiptOf(false)
	if err != nil {
		return nil, err
	}
	as := clear.Name
	if rel, err := filepath.Rel(part.target.dir, clear.Path); err == nil {
		as = path.Clean(filepath.ToSlash(rel))
	}
	t := &transfer{
		id: in.Transfer, part: part, beginsAt: in.Begin, name: clear.Name, size: clear.Size, algorithm: clear.DigestKind, sum: clear.Digest,
		end: &protocol.End{Size: clear.Size, Digest: clear.Digest},
	}
	if clear.Type == protocol.TypeSymlink {
		t.link = "?" // there is no hook for it
	}
	return &placeJob{transfer: t, verdict: verdict{as: as}, receipt: recordOf(sent)}, nil
}
