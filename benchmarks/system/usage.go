package system

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// clockTicks is the unit of CPU time in /proc, which Linux fixes for programs at a hundredth of a second.
const clockTicks = 100

// CPU is how many seconds of CPU, user and system, the running program has used, with children that have ended; false
// where the system does not tell.
func (p *Process) CPU() (float64, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid()))
	if err != nil {
		return 0, false
	}
	// The name, in parentheses, may hold anything; the fields after it are numbers.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	const first, last = 11, 14 // user, system, and both of children
	if len(fields) <= last {
		return 0, false
	}
	ticks := 0.0
	for _, f := range fields[first : last+1] {
		n, err := strconv.ParseFloat(f, 64)
		if err != nil {
			return 0, false
		}
		ticks += n
	}
	return max(ticks/clockTicks, p.threads()), true
}

// threads is how many seconds the threads that there are have run, to the nanosecond; 0 where the system does not tell.
// Threads that have ended are not in it.
func (p *Process) threads() (seconds float64) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.Pid()))
	if err != nil {
		return 0
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil { // it ended meanwhile
			continue
		}
		var ns float64
		if n, err := fmt.Sscan(string(text), &ns); n == 1 && err == nil {
			seconds += ns / 1e9
		}
	}
	return seconds
}

// RSS is the resident memory of the running program in bytes, and how much of it is not of files; false where the
// system does not tell.
func (p *Process) RSS() (all, anonymous int64, ok bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
	if err != nil {
		return 0, 0, false
	}
	for line := range strings.Lines(string(text)) {
		var kb int64
		if n, err := fmt.Sscanf(line, "VmRSS: %d kB", &kb); n == 1 && err == nil {
			all, ok = kb<<10, true
		} else if n, err := fmt.Sscanf(line, "RssAnon: %d kB", &kb); n == 1 && err == nil {
			anonymous = kb << 10
		}
	}
	return all, anonymous, ok
}

// Peak watches the resident memory of a running program, ten times a second, until stop is called, which returns the
// largest that was seen in bytes; false where the system does not tell.
func (p *Process) Peak() (stop func() (int64, bool)) {
	ctx, cancel := context.WithCancel(context.Background())
	var (
		peak int64
		told bool
		wg   sync.WaitGroup
	)
	wg.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			if rss, _, ok := p.RSS(); ok {
				peak, told = max(peak, rss), true
			}
			select {
			case <-tick.C:
			case <-p.done:
				return
			case <-ctx.Done():
				return
			}
		}
	})
	return func() (int64, bool) {
		cancel()
		wg.Wait()
		return peak, told
	}
}
