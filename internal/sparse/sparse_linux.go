package sparse

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Has tells whether a file takes less room than it is long, so that it is
// worth looking for holes. It may be wrong either way; Next is not.
func Has(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Blocks*512 < info.Size()
}

// Next finds the first bytes at or after offset, below size, that are no hole:
// [start, end). Where there are none it returns size twice. It moves the
// position of the file. A file system that does not know of holes has none.
func Next(f *os.File, offset, size int64) (start, end int64, err error) {
	fd := int(f.Fd())
	start, err = unix.Seek(fd, offset, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) { // nothing but a hole, or the end
		return size, size, nil
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		return offset, size, nil
	}
	if err != nil {
		return 0, 0, &os.PathError{Op: "seek", Path: f.Name(), Err: err}
	}
	if end, err = unix.Seek(fd, start, unix.SEEK_HOLE); err != nil {
		return 0, 0, &os.PathError{Op: "seek", Path: f.Name(), Err: err}
	}
	return min(start, size), min(end, size), nil
}
