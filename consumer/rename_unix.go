//go:build unix

package consumer

import (
	"os"

	"golang.org/x/sys/unix"
)

// rename gives the temporary file its name in an open directory, replacing what
// has it.
func (t *target) rename(temp string, to *handle, base, _ string) error {
	dir, err := to.dir()
	if err != nil {
		return err
	}
	if err := unix.Renameat(t.work.fd, temp, dir, base); err != nil {
		return &os.LinkError{Op: "rename", Old: temp, New: base, Err: err}
	}
	return nil
}
