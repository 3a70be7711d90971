package segment

import (
	"fmt"

	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// smallDisk mounts a file system of 1 MiB and returns a directory on it. free makes it 1 MiB larger.
func smallDisk(t *testing.T) (dir string, free func()) {
	disk := t.TempDir()
	size := 1 << 20
	if err := unix.Mount("mft-test", disk, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("needs root to mount a small tmpfs: %v", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(disk, unix.MNT_DETACH)) })
	return filepath.Join(disk, "data"), func() {
		size += 1 << 20
		must(t, unix.Mount("mft-test", disk, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("size=%d", size)))
	}
}
