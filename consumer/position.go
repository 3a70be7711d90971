package consumer

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Position is where in a topic reading starts. The zero value leaves it to the
// call.
type Position struct {
	kind positionKind
	n    int64 // offset, distance from the end, or ms since 1970
}

type positionKind int8

const (
	byDefault positionKind = iota
	atBeginning
	atEnd
	atOffset
	beforeEnd
	atTime
)

// Beginning is before the oldest record.
func Beginning() Position { return Position{kind: atBeginning} }

// End is after the newest record.
func End() Position { return Position{kind: atEnd} }

// AtOffset is an offset, in every partition; it is moved into what there is.
func AtOffset(offset int64) Position { return Position{atOffset, offset} }

// BeforeEnd is n records before the end of every partition.
func BeforeEnd(n int64) Position { return Position{beforeEnd, n} }

// Since is the first record of every partition with that timestamp or a later one.
func Since(t time.Time) Position { return Position{atTime, t.UnixMilli()} }

// leastMillis: a number from here on is a time in ms (from March 1973), below
// it is an offset.
const leastMillis = 100_000_000_000

// ParsePosition reads a position as people write it:
//
//	beginning, end
//	1234                    an offset
//	-10                     ten records before the end
//	2026-01-31T12:00:00Z    a time: RFC 3339, or a date (midnight UTC)
//	-90m                    a time that long before now: Go's durations
//	1700000000000           a time in ms since 1970: numbers of 12 digits or more
func ParsePosition(s string, now time.Time) (Position, error) {
	switch s {
	case "beginning", "earliest", "start":
		return Beginning(), nil
	case "end", "latest":
		return End(), nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		switch {
		case n >= leastMillis:
			return Since(time.UnixMilli(n)), nil
		case n < 0 || strings.HasPrefix(s, "-"):
			return BeforeEnd(-n), nil
		}
		return AtOffset(n), nil
	}
	if rest, ok := strings.CutPrefix(s, "-"); ok {
		if d, err := time.ParseDuration(rest); err == nil && d >= 0 {
			return Since(now.Add(-d)), nil
		}
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return Since(t), nil
		}
	}
	return Position{}, fmt.Errorf("%q is no position: use beginning, end, an offset, -N for the last N, a time like 2026-01-31T12:00:00Z or in ms, or -1h", s)
}
