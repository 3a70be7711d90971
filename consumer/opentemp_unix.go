//go:build unix

package consumer

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// open opens a temporary file. Package os would make each one non-blocking,
// find that it cannot be polled and make it blocking again: five system calls
// more for every small file.
func (w *work) open(name string, flags int, perm os.FileMode) (*os.File, error) {
	for {
		fd, err := unix.Openat(w.fd, name, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, uint32(perm))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "openat", Path: name, Err: err}
		}
		return os.NewFile(uintptr(fd), filepath.Join(w.path, name)), nil
	}
}
