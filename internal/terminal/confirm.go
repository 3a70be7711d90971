package terminal

import "fmt"

// Receiver is who confirms that a file has arrived.
type Receiver struct {
	Group  string // consumer group
	Host   string
	Path   string // of the file there
	Digest string // that it computed, in hex
}

// Confirm tells that a receiver has the file in place.
func (p *Progress) Confirm(id, name string, by Receiver) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total.Confirmed++
	p.last = name
	p.emit(Event{Event: "confirmed", ID: id, Name: name, Group: by.Group, Host: by.Host, Path: by.Path, Digest: by.Digest})
	p.tell()
}

// Unconfirmed tells that the file was sent and no receiver has it in place, as
// far as is known. It is printed whatever the mode.
func (p *Progress) Unconfirmed(id, name string, why error) {
	p.mu.Lock()
	p.total.Unconfirmed++
	p.emit(Event{Event: "unconfirmed", ID: id, Name: name, Message: why.Error()})
	p.mu.Unlock()
	p.print(fmt.Sprintf("not confirmed: %s: %v", name, why))
}

// Waiting tells that everything is sent, and that so many files and directories
// are waited for. The time that takes is no part of how long sending took.
func (p *Progress) Waiting(n int) {
	p.mu.Lock()
	p.sent = p.summary().Elapsed
	p.emit(Event{Event: "waiting", Files: &n})
	p.mu.Unlock()
	if p.show {
		p.print(fmt.Sprintf("all is %s, waiting for receivers: %d not confirmed yet", p.verb, n))
	}
}

// confirmed is n where receivers were waited for.
func (s Summary) confirmed(n int) *int {
	if s.Confirmed+s.Unconfirmed == 0 {
		return nil
	}
	return &n
}
