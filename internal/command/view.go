package command

import (
	"fmt"
	"strings"
	"sync"

	"mft/internal/kafka"
	"mft/internal/terminal"
)

// View is what a command knows of the brokers that its transfers use, for who
// asks how it is. The zero value knows none.
type View struct {
	mu        sync.Mutex
	transfers []viewed
}

type viewed struct {
	what    string
	brokers []string
	watch   *kafka.Watch
	limit   *kafka.Limiter
}

// Add takes note of a transfer; what is "to topic reports".
func (v *View) Add(what string, brokers []string, watch *kafka.Watch, limit *kafka.Limiter) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.transfers = append(v.transfers, viewed{what, brokers, watch, limit})
}

// Lines tell of each transfer.
func (v *View) Lines() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var lines []string
	for _, t := range v.transfers {
		text := fmt.Sprintf("%s at %s: %s", t.what, strings.Join(t.brokers, ", "), t.watch.State())
		if rate := t.limit.Rate(); rate > 0 {
			text += ", limited to " + terminal.Size(rate) + "/s"
		}
		lines = append(lines, text)
	}
	return lines
}
