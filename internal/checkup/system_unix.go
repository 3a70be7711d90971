//go:build linux || darwin

package checkup

import (
	"io/fs"

	"golang.org/x/sys/unix"
)

// readable tells whether this user may read a file, without opening it.
func readable(path string) error {
	if err := unix.Access(path, unix.R_OK); err != nil {
		return &fs.PathError{Op: "read", Path: path, Err: err}
	}
	return nil
}

// writable tells whether this user may make files in a directory.
func writable(dir string) error {
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return &fs.PathError{Op: "write to", Path: dir, Err: err}
	}
	return nil
}

// available is how many bytes a user may still write where dir is, and how many files make; -1 where there is no such limit.
func available(dir string) (bytes uint64, files int64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, 0, err
	}
	files = int64(s.Ffree)
	if s.Files == 0 { // made as they are needed
		files = -1
	}
	return s.Bavail * uint64(s.Bsize), files, nil
}

// openFilesLimit is how many files a process may have open.
func openFilesLimit() (uint64, bool) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, false
	}
	return limit.Max, true // Go's programs raise their own limit to the highest
}
