package terminal

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	rateSamples  = 10          // that the present rate is taken over
	rateInterval = time.Second // between two of them
	stateItems   = 10          // files that State names
)

// pace is how fast bytes moved of late: over the last ten seconds or so.
type pace struct {
	at    [rateSamples]time.Time
	moved [rateSamples]int64
	n     int // samples so far
}

// note takes a sample if the last one is long enough ago.
func (r *pace) note(now time.Time, moved int64) {
	if r.n > 0 && now.Sub(r.at[(r.n-1)%rateSamples]) < rateInterval {
		return
	}
	r.at[r.n%rateSamples], r.moved[r.n%rateSamples] = now, moved
	r.n++
}

// rate is in bytes per second.
func (r *pace) rate(now time.Time, moved int64) float64 {
	if r.n == 0 {
		return 0
	}
	oldest := 0
	if r.n > rateSamples {
		oldest = r.n % rateSamples
	}
	elapsed := now.Sub(r.at[oldest]).Seconds()
	if elapsed <= 0 {
		return 0
	}
	return max(0, float64(moved-r.moved[oldest])/elapsed)
}

// left is how long the rest takes at a rate; 0: not known, or nothing is left.
func left(rest int64, rate float64) time.Duration {
	if rest <= 0 || rate < 1 {
		return 0
	}
	return time.Duration(min(float64(rest)/rate, 1e6*3600) * float64(time.Second))
}

// eta is left for a person: ", 5s left", or nothing.
func eta(rest int64, rate float64) string {
	d := left(rest, rate)
	if d == 0 {
		return ""
	}
	return ", " + d.Round(time.Second).String() + " left"
}

// about is how far one file is: "400 MB of 1 GB (40 %), 100 MB/s, 6s left".
func (it *item) about(now time.Time) string {
	text := Size(it.moved)
	if it.size >= 0 {
		text += " of " + Size(it.size)
		if it.size > 0 {
			text += fmt.Sprintf(" (%d %%)", min(100, int64(float64(it.moved)*100/float64(it.size))))
		}
	}
	elapsed := now.Sub(it.began)
	here := it.moved - it.earlier
	return text + ", " + Rate(here, elapsed) + eta(it.size-it.moved, float64(here)/max(elapsed.Seconds(), 1e-9))
}

// State is how far everything is, in lines for a person: all together, the
// files that are on their way, and what about adds.
func (p *Progress) State(about ...string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	lines := []string{p.verb + " " + p.status(now) + ", in " + Seconds(now.Sub(p.start))}
	var open []*item
	for _, it := range p.items {
		if !it.dir {
			open = append(open, it)
		}
	}
	slices.SortFunc(open, func(a, b *item) int { return cmp.Or(cmp.Compare(b.size, a.size), cmp.Compare(a.name, b.name)) })
	for i, it := range open {
		if i == stateItems {
			lines = append(lines, fmt.Sprintf("  and %s more", Count(len(open)-stateItems, "file")))
			break
		}
		lines = append(lines, "  "+it.name+": "+it.about(now))
	}
	if len(open) == 0 {
		lines = append(lines, "  no file is on its way")
	}
	for _, text := range about {
		lines = append(lines, "  "+text)
	}
	return strings.Join(lines, "\n")
}
