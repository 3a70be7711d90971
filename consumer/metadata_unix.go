//go:build unix

package consumer

import (
	"errors"
	"os"
	"os/user"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// lookupUser is the number of a user here, -1 when there is none.
func lookupUser(name string) int {
	if u, err := user.Lookup(name); err == nil {
		if id, err := strconv.ParseUint(u.Uid, 10, 32); err == nil {
			return int(id)
		}
	}
	return -1
}

// lookupGroup is the number of a group here, -1 when there is none.
func lookupGroup(name string) int {
	if g, err := user.LookupGroup(name); err == nil {
		if id, err := strconv.ParseUint(g.Gid, 10, 32); err == nil {
			return int(id)
		}
	}
	return -1
}

// setTime sets the mtime of a temporary file, of a link itself.
func (w *work) setTime(name string, mtime time.Time) error {
	ts, err := unix.TimeToTimespec(mtime)
	if err == nil {
		err = unix.UtimesNanoAt(w.fd, name, []unix.Timespec{{Nsec: utimeOmit}, ts}, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		return &os.PathError{Op: "utimensat", Path: name, Err: err}
	}
	return nil
}

// isUnsupported tells that the file system cannot do that at all.
func isUnsupported(err error) bool {
	return errors.Is(err, errors.ErrUnsupported)
}
