package producer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Summary is what a call has done. Only what was acknowledged counts as sent.
type Summary struct {
	Files    int           // regular files sent
	Dirs     int           // directories sent
	Records  int64         // lines sent; 0 for files
	Bytes    int64         // content of those files, or values and keys of those lines
	Skipped  int           // entries that are neither file nor directory
	Failed   int           // files, directories or lines that could not be sent
	Unended  int           // files that were interrupted and are to be resumed
	Elapsed  time.Duration // of the whole call
	Mirrored int           // files that were mirrored while they grew; Bytes is what was sent of them

	Confirmed   int // files and directories that a receiver has in place; 0 without Config.Confirm
	Unconfirmed int // those that are sent, and which no receiver has in place as far as was heard in time

	Problems []Problem // the first maxProblems of what was skipped or failed
}

// Problem is one entry that was left out.
type Problem struct {
	Name    string // of the file, or "line 12"
	Skipped bool   // it is no file; otherwise it failed
	Reason  string
}

const maxProblems = 1000

// StallError tells that the broker has acknowledged nothing for too long.
type StallError struct{ Waited time.Duration }

func (e *StallError) Error() string {
	return fmt.Sprintf("the broker has acknowledged nothing for %s: check that it runs, is reachable and has room on its disk", e.Waited)
}

// run is one call that sends: it collects what became of every record, and
// ends the call early when one cannot be delivered.
type run struct {
	p     *Producer
	began time.Time

	ctx    context.Context         // of the work; its cause is why it stopped
	cancel context.CancelCauseFunc // stops the work
	late   context.Context         // of records: outlives ctx by interruptGrace
	stop   func()

	letters *deadLetters // nil unless files are sent

	progress atomic.Int64 // when a record was last acknowledged, Unix ns
	watchdog sync.WaitGroup

	mu   sync.Mutex
	over bool // the caller has its Summary: nothing is told any more
	sum  Summary

	resume  *resumption    // nil: every file is sent from its beginning
	confirm *confirmations // nil: nobody is waited for
}

func (p *Producer) newRun(ctx context.Context) *run {
	r := &run{p: p, began: time.Now()}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	r.late, r.stop = withGrace(r.ctx, interruptGrace)
	r.watchdog.Go(r.watchStorage)
	if p.cfg.StallTimeout > 0 {
		r.watchdog.Go(r.watchStall)
	}
	return r
}

// end waits for everything on the way, if need be no longer than r.late, and
// closes the books. The error is why the work stopped before its end.
func (r *run) end() (Summary, error) {
	flushErr := r.p.streams.flush(r.late)
	err := context.Cause(r.ctx)
	if err == nil && flushErr != nil {
		err = fmt.Errorf("wait for acknowledgements: %w", flushErr)
	}
	if err == nil {
		err = r.confirm.wait(r.ctx)
	}
	r.confirm.close()
	r.cancel(nil)
	r.stop()
	r.watchdog.Wait()

	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	r.sum.Unended = r.resume.close()
	r.sum.Elapsed = time.Since(r.began)
	return r.sum, err
}

// produce hands a record to a stream; it blocks while too much is on the
// way. promise is called once and has to call settled.
func (r *run) produce(stream int, rec *kgo.Record, promise func(*kgo.Record, error)) {
	if r.p.streams.waiting() == 0 {
		r.progress.Store(time.Now().UnixNano())
	}
	r.p.streams.produce(r.late, stream, rec, promise)
}

// settled notes the fate of a record. One that cannot be delivered, though the
// client tries for as long as there is hope, ends the run.
func (r *run) settled(err error) {
	if err != nil {
		r.cancel(r.p.deliveryError(err))
		return
	}
	r.progress.Store(time.Now().UnixNano())
}

func (p *Producer) deliveryError(err error) error {
	if _, ok := errors.AsType[*kerr.Error](err); ok {
		return &TopicError{p.cfg.Topic, err}
	}
	return fmt.Errorf("send to topic %s: %w", p.cfg.Topic, err)
}

// watchStall ends the run when records are on the way and none is
// acknowledged for StallTimeout.
func (r *run) watchStall() {
	limit := r.p.cfg.StallTimeout
	tick := time.NewTicker(max(limit/4, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-tick.C:
		}
		if r.p.streams.waiting() > 0 &&
			time.Since(time.Unix(0, r.progress.Load())) > limit && time.Since(r.p.cfg.Limiter.Held()) > limit {
			r.cancel(&StallError{limit})
		}
	}
}

// storageLook is how often, and after how long without an acknowledgement,
// it is found out whether the broker can store what it is sent.
const storageLook = time.Second

// watchStorage finds out why nothing is acknowledged, as long as that is so.
func (r *run) watchStorage() {
	tick := time.NewTicker(storageLook)
	defer tick.Stop()
	defer r.p.watch.Suspect(false)
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-tick.C:
		}
		silent := r.p.streams.waiting() > 0 && time.Since(time.Unix(0, r.progress.Load())) > storageLook
		if r.p.watch.Suspect(silent); !silent {
			r.p.watch.Stored()
		}
	}
}

// tell runs f with the summary locked, unless the run is over.
func (r *run) tell(f func(sum *Summary, events *Events)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.over {
		f(&r.sum, &r.p.cfg.Events)
	}
}

func (r *run) failed(id, name string, why error) {
	r.tell(func(sum *Summary, events *Events) {
		sum.Failed++
		sum.addProblem(Problem{Name: name, Reason: why.Error()})
		if events.Failed != nil {
			events.Failed(id, name, why)
		}
	})
}

func (r *run) skipped(name, reason string) {
	r.tell(func(sum *Summary, events *Events) {
		sum.Skipped++
		sum.addProblem(Problem{Name: name, Skipped: true, Reason: reason})
		if events.Skipped != nil {
			events.Skipped(name, reason)
		}
	})
}

func (s *Summary) addProblem(p Problem) {
	if len(s.Problems) < maxProblems {
		s.Problems = append(s.Problems, p)
	}
}
