//go:build unix

package producer

import (
	"os"
	"syscall"
)

// openFile opens a file for reading. An entry that has become a symbolic link
// or a named pipe since it was found is neither followed nor waited for.
func openFile(path string) (*os.File, error) {
	if isLong(path) {
		return long(path, func(root *os.Root, rest string) (*os.File, error) {
			return root.OpenFile(rest, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		})
	}
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
}
