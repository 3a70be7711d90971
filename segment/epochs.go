package segment

import (
	"slices"
	"sort"
)

// epochEntry says at which offset a leader epoch began.
type epochEntry struct {
	epoch int32
	start int64 // offset
}

// epochs are a log's leader epochs, ascending in both fields.
type epochs []epochEntry

// begin notes that the given epoch starts at an offset. Epochs in which nothing was appended leave no trace.
func (e *epochs) begin(epoch int32, start int64) {
	if n := len(*e); n > 0 && (*e)[n-1].epoch >= epoch {
		return
	}
	for n := len(*e); n > 0 && (*e)[n-1].start >= start; n-- {
		*e = (*e)[:n-1]
	}
	*e = append(*e, epochEntry{epoch, start})
}

// end returns the offset at which the given epoch, or else the greatest known one before it, ended, given the end of the log; -1, -1
// when the epoch is newer than all that are known. This is what Kafka's LeaderEpochFileCache.endOffsetFor answers.
func (e epochs) end(epoch int32, logEnd int64) (int32, int64) {
	if len(e) == 0 || epoch < 0 {
		return -1, -1
	}
	if epoch == e[len(e)-1].epoch {
		return epoch, logEnd
	}
	next := sort.Search(len(e), func(i int) bool { return e[i].epoch > epoch })
	switch next {
	case len(e):
		return -1, -1
	case 0:
		return epoch, e[0].start
	default:
		return e[next-1].epoch, e[next].start
	}
}

func (e epochs) clone() epochs { return slices.Clone(e) }
