package consumer

import (
	"errors"
	"io/fs"
	"os"
	"time"
)

// Users and groups of Windows have no numbers.
func lookupUser(string) int  { return -1 }
func lookupGroup(string) int { return -1 }

// setTime sets the mtime of a temporary file. That of a link cannot be set
// without following it.
func (w *work) setTime(name string, mtime time.Time) error {
	if info, err := w.root.Lstat(name); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return errors.ErrUnsupported
	}
	return w.root.Chtimes(name, time.Time{}, mtime)
}

func localXattr(name string) (string, bool) { return name, true }

func setXattr(*os.File, string, []byte) error { return errors.ErrUnsupported }

func isUnsupported(err error) bool { return errors.Is(err, errors.ErrUnsupported) }
