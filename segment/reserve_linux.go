package segment

import (
	"os"

	"golang.org/x/sys/unix"
)

// canReserve: ext4 gains by it. XFS does so by itself, and on file systems that copy on write it would only cost.
func canReserve(dir string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(dir, &fs) == nil && fs.Type == unix.EXT4_SUPER_MAGIC
}

func fallocate(f *os.File, at, n int64) error {
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, at, n)
}
