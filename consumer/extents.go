package consumer

import (
	"errors"
	"slices"
	"sort"
)

// extents is the set of byte ranges of a file that have arrived.
//
// Invariant: ranges are not empty, ascending, and neither touch nor overlap.
// In order and without gaps there is one range.
type extents struct {
	ranges []extent
	total  int64 // bytes in all ranges
}

type extent struct{ start, end int64 } // [start, end)

// maxExtents bounds what one transfer can take of memory. A producer on many
// connections leaves a few gaps, not tens of thousands.
const maxExtents = 1 << 16

var errTooScattered = errors.New("its chunks arrive in more than 65,536 separate pieces")

// add enters [start, end) and returns how many of its bytes are new.
func (x *extents) add(start, end int64) (fresh int64, err error) {
	if start >= end {
		return 0, nil
	}
	if n := len(x.ranges); n > 0 && x.ranges[n-1].end == start { // in order
		x.ranges[n-1].end = end
		x.total += end - start
		return end - start, nil
	}
	// ranges[from:to] touch or overlap the new one
	from := sort.Search(len(x.ranges), func(i int) bool { return x.ranges[i].end >= start })
	to := from
	merged, covered := extent{start, end}, int64(0)
	for to < len(x.ranges) && x.ranges[to].start <= end {
		r := x.ranges[to]
		covered += max(0, min(r.end, end)-max(r.start, start))
		merged.start, merged.end = min(merged.start, r.start), max(merged.end, r.end)
		to++
	}
	if from == to && len(x.ranges) >= maxExtents {
		return 0, errTooScattered
	}
	x.ranges = slices.Replace(x.ranges, from, to, merged)
	fresh = end - start - covered
	x.total += fresh
	return fresh, nil
}

// covers tells whether all of [start, end) has arrived.
func (x *extents) covers(start, end int64) bool {
	i := sort.Search(len(x.ranges), func(i int) bool { return x.ranges[i].end >= end })
	return i < len(x.ranges) && x.ranges[i].start <= start
}

// whole tells whether exactly [0, size) has arrived.
func (x *extents) whole(size int64) bool {
	if size == 0 {
		return len(x.ranges) == 0
	}
	return len(x.ranges) == 1 && x.ranges[0] == extent{0, size}
}

// limit is the end of the last range.
func (x *extents) limit() int64 {
	if len(x.ranges) == 0 {
		return 0
	}
	return x.ranges[len(x.ranges)-1].end
}
