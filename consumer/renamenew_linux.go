package consumer

import (
	"os"

	"golang.org/x/sys/unix"
)

// renameNew is rename for a name that nothing has: the error is fs.ErrExist
// when something does. ok is false where the file system cannot do that in one
// step.
func (t *target) renameNew(temp string, to *handle, base string) (ok bool, err error) {
	dir, err := to.dir()
	if err != nil {
		return true, err
	}
	err = unix.Renameat2(t.work.fd, temp, dir, base, unix.RENAME_NOREPLACE)
	if err == unix.EINVAL || err == unix.ENOSYS {
		return false, nil
	}
	if err != nil {
		err = &os.LinkError{Op: "rename", Old: temp, New: base, Err: err}
	}
	return true, err
}
