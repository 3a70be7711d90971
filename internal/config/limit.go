package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"gopkg.in/yaml.v3"
)

// MinRate is the lowest rate that can be asked for, in bytes per second: below
// it a client cannot keep its connections.
const MinRate = 1000

// Limit is how fast a transfer may be at what time of day. Where several
// windows hold, the lowest rate counts; where none does, there is no limit.
type Limit []Window

// Window is a time of every day. From and To are since midnight, local time;
// a To that is not after From is on the next day, and equal ones are all day.
type Window struct {
	From, To time.Duration
	Rate     int64 // bytes per second
}

// At is the rate at a time, in bytes per second; 0: unlimited. The clock is
// read in the time zone of now.
func (l Limit) At(now time.Time) int64 {
	hour, minute, second := now.Clock()
	clock := time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute + time.Duration(second)*time.Second
	rate := int64(0)
	for _, w := range l {
		if w.holds(clock) && (rate == 0 || w.Rate < rate) {
			rate = w.Rate
		}
	}
	return rate
}

func (w Window) holds(clock time.Duration) bool {
	if w.From < w.To {
		return w.From <= clock && clock < w.To
	}
	return clock >= w.From || clock < w.To
}

// ParseRate reads "10MB", "512KiB" or "10MB/s" as bytes per second; "0" is no
// limit.
func ParseRate(s string) (int64, error) {
	text := strings.TrimSuffix(strings.TrimSpace(s), "/s")
	n, err := humanize.ParseBytes(text)
	if err != nil || strings.HasPrefix(text, "-") {
		return 0, fmt.Errorf("%q is no rate: write bytes per second, as 10MB or 512KiB", s)
	}
	if n != 0 && n < MinRate || n > math.MaxInt64 {
		return 0, fmt.Errorf("%q: give at least 1kB per second, or 0 for no limit", s)
	}
	return int64(n), nil
}

// readLimit reads a rate, or a list of windows.
func readLimit(v value) Limit {
	if v.node.Kind == yaml.ScalarNode {
		if rate := readRate(v); rate > 0 {
			return Limit{{Rate: rate}}
		}
		return nil
	}
	var limit Limit
	for _, item := range v.items() {
		m := newMapping(item.r, item.node, item.key)
		var (
			w        Window
			from, to bool
		)
		m.take("from", func(v value) { w.From, from = readClock(v), true })
		m.take("to", func(v value) { w.To, to = readClock(v), true })
		m.take("rate", func(v value) { w.Rate = readRate(v) })
		m.done("from", "to", "rate")
		switch {
		case from != to:
			m.fail("give both from and to, or neither for the whole day")
		case w.Rate == 0:
			m.fail("give a rate, as rate: 5MB; leave out the window where there is no limit")
		case from && w.From == w.To:
			m.fail("from and to are the same: leave out both for the whole day")
		}
		limit = append(limit, w)
	}
	return limit
}

func readRate(v value) int64 {
	rate, err := ParseRate(v.string())
	if err != nil {
		v.fail("%v", err)
	}
	return rate
}

// readClock reads "08:00" or "08:00:30". YAML 1.1 would take 08:00 without
// quotes for a number in base 60; the text is read as it stands.
func readClock(v value) time.Duration {
	text := v.string()
	parts := strings.Split(text, ":")
	var total time.Duration
	ok := len(parts) == 2 || len(parts) == 3
	for i, unit := range []time.Duration{time.Hour, time.Minute, time.Second} {
		if !ok || i == len(parts) {
			break
		}
		n, err := strconv.ParseUint(parts[i], 10, 8)
		ok = err == nil && len(parts[i]) <= 2 && (n < 60 && i > 0 || n <= 24 && i == 0)
		total += time.Duration(n) * unit
	}
	if !ok || total > 24*time.Hour {
		v.fail("%q is no time of day: write HH:MM, as \"08:00\"", text)
	}
	return total
}
