// Package checkup finds out why files would not arrive, before they are sent: it looks at names, ports, brokers, topics, permissions,
// groups, directories, disks, keys and limits, one after another, and says of each what it found and what to do.
//
// It changes nothing, unless Plan.Probe allows it to make a topic for a moment.
package checkup

import (
	"context"
	"time"
)

// State is how a check ended.
type State string

// The values of State.
const (
	OK      State = "ok"
	Warning State = "warning" // it works, or cannot be told without trying, but look at it
	Failed  State = "failed"  // this will not work
	Skipped State = "skipped" // an earlier failure leaves nothing to look at
)

// Finding is what one check found.
type Finding struct {
	Check   string `json:"check"`   // what was looked at, one of the constants below
	Subject string `json:"subject"` // which one
	State   State  `json:"state"`
	Detail  string `json:"detail"`           // what was found, and how where that matters
	Remedy  string `json:"remedy,omitempty"` // what to do
}

// The values of Finding.Check.
const (
	Configuration = "configuration"
	Name          = "name"
	Connection    = "connection"
	Protocol      = "protocol"
	Advertised    = "advertised"
	Topic         = "topic"
	Settings      = "settings"
	Permission    = "permission"
	Group         = "group"
	Clock         = "clock"
	Source        = "source"
	Destination   = "destination"
	StateDir      = "state"
	Data          = "data"
	Space         = "space"
	Key           = "key"
	Listener      = "listener"
	OpenFiles     = "open files"
)

// Plan says what to look at. Everything in it may be empty.
type Plan struct {
	Brokers      []string // HOST:PORT
	Topics       []TopicUse
	Sources      []string // files and directories to be sent
	Destinations []string // directories to receive into
	State        string   // directory where a sender keeps what outlives it
	Data         string   // a broker's data directory
	Listen       []string // HOST:PORT that a broker is to listen on
	Secrets      []Secret
	MinFree      int64         // bytes that should be free on every disk
	Timeout      time.Duration // for each question to the network
	Probe        bool          // a topic may be made, written, read and deleted
}

// TopicUse is a topic and what it is used for.
type TopicUse struct {
	Name          string
	Send, Receive bool
	Files         bool   // it carries files, not only lines
	AcksAll       bool   // senders wait for every replica in sync
	Group         string // of the receiver; "": none
	Receipts      bool   // it is a topic of receipts, which receivers make, and can do without
}

// Secret is a file of keys or a passphrase.
type Secret struct {
	Path  string
	Check func() (notes []string, err error) // reads it
}

// Result counts findings.
type Result struct {
	OK, Warnings, Failed, Skipped int
	Unreachable                   bool // no broker answered, so nothing can be sent or received
}

// run is one run of a plan.
type run struct {
	Plan
	report func(Finding)
	result Result
}

// Run carries out the plan and tells report of each finding, in order.
func Run(ctx context.Context, plan Plan, report func(Finding)) Result {
	r := &run{Plan: plan, report: report}
	for _, s := range plan.Secrets {
		r.secret(s)
	}
	for _, path := range plan.Sources {
		r.source(ctx, path)
	}
	for _, dir := range plan.Destinations {
		r.directory(Destination, dir, "choose another directory, or give the receiving user the right to write to it")
	}
	if plan.State != "" {
		r.directory(StateDir, plan.State, "name another directory with --state or state: in transfer.yml, or 'none' to go without resuming")
	}
	if plan.Data != "" {
		r.directory(Data, plan.Data, "choose another directory with --data or broker.data, or give the broker's user the right to write to it")
	}
	r.openFiles()
	for _, address := range plan.Listen {
		r.listener(ctx, address)
	}
	if len(plan.Brokers) > 0 {
		r.brokers(ctx)
	}
	return r.result
}

func (r *run) add(f Finding) {
	switch f.State {
	case OK:
		r.result.OK++
	case Warning:
		r.result.Warnings++
	case Failed:
		r.result.Failed++
	case Skipped:
		r.result.Skipped++
	}
	r.report(f)
}

func (r *run) ok(check, subject, detail string) {
	r.add(Finding{Check: check, Subject: subject, State: OK, Detail: detail})
}

func (r *run) warn(check, subject, detail, remedy string) {
	r.add(Finding{check, subject, Warning, detail, remedy})
}

func (r *run) fail(check, subject, detail, remedy string) {
	r.add(Finding{check, subject, Failed, detail, remedy})
}

func (r *run) skip(check, subject, detail string) {
	r.add(Finding{Check: check, Subject: subject, State: Skipped, Detail: detail})
}
