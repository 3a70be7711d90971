package producer

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// lockFile takes the lock of an open file, which lasts until it is closed, also
// by a kill. It returns false when another has it, of this process or another.
// The byte that is locked lies far behind the end: Windows keeps others from
// touching it.
func lockFile(f *os.File) (bool, error) {
	at := windows.Overlapped{OffsetHigh: 1 << 30}
	err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &at)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, windows.ERROR_LOCK_VIOLATION), errors.Is(err, windows.ERROR_IO_PENDING):
		return false, nil
	}
	return false, &os.PathError{Op: "lock", Path: f.Name(), Err: err}
}

// removeLocked empties, closes and removes a file that is locked: an open one
// cannot be removed here. Who opens it in between keeps it, empty.
func removeLocked(f *os.File) error {
	err := errors.Join(f.Truncate(0), f.Close())
	if removeErr := os.Remove(f.Name()); removeErr != nil && !errors.Is(removeErr, windows.ERROR_SHARING_VIOLATION) {
		err = errors.Join(err, removeErr)
	}
	return err
}
