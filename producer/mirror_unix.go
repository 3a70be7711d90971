//go:build unix

package producer

import (
	"fmt"
	"os"
	"syscall"
)

// renameOpen: a file can be renamed while it is open.
const renameOpen = true

// unlinked tells that an open file has no name any more.
func unlinked(info os.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Nlink == 0
}

// fileID tells a file from others, while it is there.
func fileID(info os.FileInfo) string {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%x:%x", stat.Dev, stat.Ino)
}
