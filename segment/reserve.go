package segment

import "os"

const (
	reserveFrom  = 64 << 10 // bytes of an append from which room is reserved ahead of it
	reserveLeast = 1 << 20  // bytes ahead of the end: a sixteenth of the file, within these bounds
	reserveMost  = 16 << 20
)

// reserve has the file system set room aside behind the end of the active segment, which at and n say, without making the file longer. ext4 finds
// room for large appends block by block, which is a tenth of all that the broker spends on them; with this it does so once for many. Where it
// cannot be done nothing is lost, and if there is no room the write will tell. appending is held.
func (l *Log) reserve(f *os.File, at, n int64) {
	end := at + n
	if !l.store.reserves || n < reserveFrom || end <= l.reserved {
		return
	}
	l.reserved = end + min(max(end/16, reserveLeast), reserveMost)
	_ = fallocate(f, at, l.reserved-at)
}

// unreserve gives the room back that was reserved behind the end of the active segment and not used. appending is held, or nobody appends.
func (l *Log) unreserve(f *os.File, end int64) error {
	if l.reserved <= end && !l.leftRoom {
		return nil
	}
	l.reserved, l.leftRoom = 0, false
	return f.Truncate(end)
}
