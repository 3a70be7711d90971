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

// setLinkTime sets the mtime of a link itself.
func setLinkTime(root *os.Root, name string, mtime time.Time) (err error) {
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	omit := unix.Timespec{Nsec: utimeOmit}
	times := []unix.Timespec{omit, unix.NsecToTimespec(mtime.UnixNano())}
	if err := unix.UtimesNanoAt(int(dir.Fd()), name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "utimensat", Path: name, Err: err}
	}
	return nil
}

// isUnsupported tells that the file system cannot do that at all.
func isUnsupported(err error) bool {
	return errors.Is(err, errors.ErrUnsupported)
}
