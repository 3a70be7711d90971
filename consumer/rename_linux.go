package consumer

import (
	"errors"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// renameNew gives the file temp of the directory from a name below root, in
// one step and only if nothing has that name: the error is fs.ErrExist then.
// ok is false where the file system cannot do that.
func renameNew(from *os.Root, temp string, root *os.Root, name string) (ok bool, err error) {
	source, err := from.Open(".")
	if err != nil {
		return true, err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	dir, err := root.Open(path.Dir(name))
	if err != nil {
		return true, err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	err = unix.Renameat2(int(source.Fd()), temp, int(dir.Fd()), path.Base(name), unix.RENAME_NOREPLACE)
	if err == unix.EINVAL || err == unix.ENOSYS {
		return false, nil
	}
	if err != nil {
		err = &os.LinkError{Op: "rename", Old: temp, New: name, Err: err}
	}
	return true, err
}
