package consumer

import "os"

// open opens a temporary file.
func (w *work) open(name string, flags int, perm os.FileMode) (*os.File, error) {
	return w.root.OpenFile(name, flags, perm)
}
