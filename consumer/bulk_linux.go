package consumer

import "golang.org/x/sys/unix"

// Of file systems that are known to do it. Others, such as FUSE's, may not pass
// a syncfs on.
var bulkFileSystems = map[int64]bool{unix.EXT4_SUPER_MAGIC: true, unix.XFS_SUPER_MAGIC: true, unix.BTRFS_SUPER_MAGIC: true}

// canBulkSync: Linux tells of failed writes in syncfs from 5.8 on.
func canBulkSync(fd int) bool {
	var name unix.Utsname
	var fs unix.Statfs_t
	if unix.Uname(&name) != nil || unix.Fstatfs(fd, &fs) != nil {
		return false
	}
	return bulkFileSystems[fs.Type] && atLeast(unix.ByteSliceToString(name.Release[:]), 5, 8)
}

func syncfs(fd int) error { return unix.Syncfs(fd) }
