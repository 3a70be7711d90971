package consumer

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"mft/protocol"
)

// Events are told what happens to files, as it happens. A nil function is not
// called; no two are called at the same time. They must not block.
type Events struct {
	Begin   func(id, name string, size int64, dir bool) // id is the transfer id; size in bytes, -1 when not known
	Resumed func(id, name string, bytes int64)          // after Begin: so many bytes had arrived already
	Advance func(id string, bytes int64)                // that many more bytes have arrived; negative when a transfer starts anew
	Done    func(id, digest string)                     // it is in place and durable; digest in hex, "" for a directory
	Renamed func(id, name, as string)                   // it is in place by another name than it came with, for a reason that is not its route; Done follows
	Skipped func(id, name, reason string)               // it is left out because of what has its name, which is no failure: see ConflictSkip
	Noted   func(name, what string)                     // it is placed, but for something: its owner, an attribute
	Hook    func(id, name string, why *HookError)       // it is in place, and the command run after it has failed for good
	Failed  func(id, name string, why error)            // it is not placed: see RefusedError and TransferError
	Dropped func(id, name string, why error)            // it will not come in this transfer, which is no failure: the sender gave it up, or another receiver got it
}

// Summary is what ReceiveFiles did.
type Summary struct {
	Files      int           // regular files placed
	Dirs       int           // directories placed
	Bytes      int64         // content of those files
	Refused    int           // names that must not or cannot be placed: RefusedError
	Failed     int           // transfers that did not make a file: TransferError
	Skipped    int           // files left out because another has their name: ConflictSkip
	Hooks      int           // files that are in place, and whose command has failed for good
	Aborted    int           // transfers that the sender gave up
	Unfinished int           // transfers without their end when a run with Once stopped
	Repeated   int           // transfers left out because the group had placed them before
	Foreign    int64         // records that belong to no file
	Elapsed    time.Duration // since the call
}

// Partly tells whether something was not placed, or its command has failed.
func (s Summary) Partly() bool { return s.Refused+s.Failed+s.Unfinished+s.Hooks > 0 }

// RefusedError tells that a file or directory was not placed because of its
// name or of what stands there.
type RefusedError struct {
	Name   string
	Reason string
}

func (e *RefusedError) Error() string { return fmt.Sprintf("refused %q: %s", e.Name, e.Reason) }

// refused makes a RefusedError of what is wrong with a name.
func refused(name string, why error) *RefusedError {
	reason := why.Error()
	if e, ok := errors.AsType[*protocol.NameError](why); ok {
		reason = e.Reason
	}
	return &RefusedError{Name: name, Reason: reason}
}

// TransferError tells that a transfer did not make a file: its content does
// not match its digest, or something is missing.
type TransferError struct {
	Name   string // "" when not known
	ID     string // transfer id
	Reason string
}

func (e *TransferError) Error() string {
	if e.Name == "" {
		return fmt.Sprintf("transfer %s: %s", e.ID, e.Reason)
	}
	return fmt.Sprintf("%q not placed: %s", e.Name, e.Reason)
}

// reporter counts and passes on what happens.
type reporter struct {
	mu      sync.Mutex
	events  Events
	summary Summary
}

func (r *reporter) begin(id, name string, size int64, dir bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.events.Begin != nil {
		r.events.Begin(id, name, size, dir)
	}
}

func (r *reporter) resumed(id, name string, bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.events.Resumed != nil && bytes > 0 {
		r.events.Resumed(id, name, bytes)
	}
}

func (r *reporter) advance(id string, bytes int64) {
	if bytes == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.events.Advance != nil {
		r.events.Advance(id, bytes)
	}
}

// placed tells that a transfer is in place under the name as.
func (r *reporter) placed(t *transfer, as string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	digest := ""
	if t.dir {
		r.summary.Dirs++
	} else {
		r.summary.Files++
		r.summary.Bytes += t.size
		digest = t.end.Digest
	}
	if as != t.wanted && r.events.Renamed != nil {
		r.events.Renamed(string(t.id), t.wanted, as)
	}
	if r.events.Done != nil {
		r.events.Done(string(t.id), digest)
	}
}

// mirrored tells that a file that grew has ended, whole.
func (r *reporter) mirrored(id string, size int64, digest string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.summary.Files++
	r.summary.Bytes += size
	if r.events.Done != nil {
		r.events.Done(id, digest)
	}
}

func (r *reporter) skipped(id, name, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.summary.Skipped++
	if r.events.Skipped != nil {
		r.events.Skipped(id, name, reason)
	}
}

func (r *reporter) noted(name, what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.events.Noted != nil {
		r.events.Noted(name, what)
	}
}

func (r *reporter) hookFailed(id, name string, why *HookError) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.summary.Hooks++
	if r.events.Hook != nil {
		r.events.Hook(id, name, why)
	}
}

// failed takes a *RefusedError or a *TransferError.
func (r *reporter) failed(id, name string, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := why.(*RefusedError); ok {
		r.summary.Refused++
	} else {
		r.summary.Failed++
	}
	if r.events.Failed != nil {
		r.events.Failed(id, name, why)
	}
}

// aborted counts a transfer that the sender gave up.
func (r *reporter) aborted(id, name string, why error) {
	r.mu.Lock()
	r.summary.Aborted++
	r.mu.Unlock()
	r.dropped(id, name, why)
}

func (r *reporter) dropped(id, name string, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.events.Dropped != nil {
		r.events.Dropped(id, name, why)
	}
}

func (r *reporter) unfinished(id, name string, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.summary.Unfinished++
	if r.events.Failed != nil {
		r.events.Failed(id, name, why)
	}
}

// repeated counts a transfer that was placed before.
func (r *reporter) repeated() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.summary.Repeated++
}

// foreign counts a record that is no part of a file; it returns true for the
// first one.
func (r *reporter) foreign() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.summary.Foreign++
	return r.summary.Foreign == 1
}

func (r *reporter) total(since time.Time) Summary {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.summary
	s.Elapsed = time.Since(since)
	return s
}
