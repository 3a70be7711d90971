//go:build !windows

package broker

import (
	"math"

	"golang.org/x/sys/unix"
)

// openFileLimit is how many files this process may have open, 0 when any
// number. Go raises the soft limit to the hard one when a process starts.
func openFileLimit() (int, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	if limit.Cur > math.MaxInt32 {
		return 0, nil
	}
	return int(limit.Cur), nil
}
