// Package powerfs is a file system for tests on which the power can be cut: it knows what of a program's writes is on the disk
// because an fsync said so, and what is only in the page cache and may be lost.
//
// A [Disk] is what would be on the platters together with what the operating system still holds in memory. [Disk.Mount] makes it a
// directory by way of FUSE, on which real programs run. [Mount.Cut] is the power cut: from that moment every operation fails with
// EIO, the disk forgets what was not made durable, or a random part of it, and is ready to be mounted again.
//
// What is durable is what POSIX promises and no more, although most file systems do better:
//
//   - fsync and fdatasync of a file make durable the data written to it, and its size, as they were when the call began. They do
//     nothing for its name.
//   - fsync of a directory makes durable the names in it, as they were when the call began: files and directories created, renamed
//     and removed. It does nothing for what is in these files, for the names in directories below, or for its own name.
//   - Everything else may be lost or kept in any combination, whatever the order in which it was done: single pages of [pageSize]
//     bytes, some torn at [sectorSize]; sizes that have grown, with zeros where the data is missing; truncations; names. A rename within
//     a directory is kept or lost as one.
//
// Everything is in memory. The parts of a random loss are drawn from a source that the test gives, so that a seed draws the same again.
package powerfs

import (
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"
)

const (
	pageSize   = 4096 // what the page cache writes back at once
	sectorSize = 512  // what a disk writes at once or not at all
)

// rootNumber is the inode number of the root directory, as FUSE wants it.
const rootNumber = 1

// Disk is a disk with one file system. It may be used by one Mount at a time.
type Disk struct {
	mu     sync.Mutex
	inodes map[uint64]*inode
	last   uint64 // the inode number given out last
	lies   Lies
	delay  time.Duration
	delays *rand.Rand // how long each fsync takes; used under mu
}

// Lies says which fsyncs the disk acknowledges without doing them, as some disks do.
type Lies struct {
	Files bool
	Dirs  bool
}

// NewDisk returns an empty disk. Each fsync takes a random time up to syncTime, drawn from seed.
func NewDisk(syncTime time.Duration, seed uint64) *Disk {
	d := &Disk{inodes: map[uint64]*inode{}, delay: syncTime, delays: rand.New(rand.NewPCG(seed, 2))}
	d.newInode(syscall.S_IFDIR | 0o755)
	return d
}

// Lie makes the disk lie from now on, or be honest again.
func (d *Disk) Lie(l Lies) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lies = l
}

// inode is a file or directory. Its fields are guarded by Disk.mu.
type inode struct {
	number  uint64
	mode    uint32 // type and permissions, as in stat
	changed time.Time
	links   uint32
	syncing sync.Mutex // held, without Disk.mu, for the time of an fsync

	// Of a file. What a program sees, and what is durable; they differ in the dirty pages and from the least size on that the
	// file has had since.
	data, durable []byte
	dirty         map[int64]uint64 // pages written since they were made durable, and when, by writes
	writes        uint64
	least         int64 // least size since the last fsync began
	leastBefore   int64 // and since the one before began, while one is under way

	// Of a directory. What a program sees, and what is durable; the changes lead from the latter to the former.
	names, durableNames map[string]*inode
	changes             []change
}

// change is a name that was set or, with a nil inode, removed.
type change struct {
	name string
	to   *inode
	by   *operation
}

// operation is what several changes have in common: a power cut loses all of them or none.
type operation struct{ decided, kept bool }

func (d *Disk) newInode(mode uint32) *inode {
	d.last++
	n := &inode{number: d.last, mode: mode, changed: time.Now(), links: 1, least: 0, leastBefore: math.MaxInt64}
	if n.isDir() {
		n.names, n.durableNames = map[string]*inode{}, map[string]*inode{}
	} else {
		n.dirty = map[int64]uint64{}
	}
	d.inodes[n.number] = n
	return n
}

func (n *inode) isDir() bool { return n.mode&syscall.S_IFMT == syscall.S_IFDIR }

// set changes a name in a directory; a nil inode removes it.
func (n *inode) set(name string, to *inode, by *operation) {
	if old := n.names[name]; old != nil {
		old.links--
	}
	if to == nil {
		delete(n.names, name)
	} else {
		n.names[name] = to
	}
	n.changes = append(n.changes, change{name, to, by})
	n.changed = time.Now()
}

// create makes a file or directory. The error is EEXIST when the name is taken.
func (d *Disk) create(dir *inode, name string, mode uint32) (*inode, syscall.Errno) {
	if dir.names[name] != nil {
		return nil, syscall.EEXIST
	}
	n := d.newInode(mode)
	dir.set(name, n, &operation{})
	return n, 0
}

// remove removes a name, of a directory (which must be empty) or of a file.
func (d *Disk) remove(dir *inode, name string, directory bool) syscall.Errno {
	n := dir.names[name]
	switch {
	case n == nil:
		return syscall.ENOENT
	case directory && !n.isDir():
		return syscall.ENOTDIR
	case !directory && n.isDir():
		return syscall.EISDIR
	case directory && len(n.names) > 0:
		return syscall.ENOTEMPTY
	}
	dir.set(name, nil, &operation{})
	return 0
}

// rename moves a name, onto another one if that is taken.
func (d *Disk) rename(from *inode, name string, to *inode, newName string) syscall.Errno {
	n, target := from.names[name], to.names[newName]
	switch {
	case n == nil:
		return syscall.ENOENT
	case n == target:
		return 0
	case target != nil && target.isDir() && !n.isDir():
		return syscall.EISDIR
	case target != nil && !target.isDir() && n.isDir():
		return syscall.ENOTDIR
	case target != nil && len(target.names) > 0:
		return syscall.ENOTEMPTY
	}
	by := &operation{}
	n.links++ // until the old name is gone
	to.set(newName, n, by)
	from.set(name, nil, by)
	return 0
}

// read copies the file's bytes from offset on to buf and returns how many there were.
func (n *inode) read(buf []byte, offset int64) int {
	if offset >= int64(len(n.data)) {
		return 0
	}
	return copy(buf, n.data[offset:])
}

// write writes to the page cache.
func (n *inode) write(b []byte, offset int64) {
	if len(b) == 0 {
		return
	}
	end := offset + int64(len(b))
	if end > int64(len(n.data)) {
		n.grow(end)
	}
	copy(n.data[offset:], b)
	n.writes++
	for page := offset / pageSize; page*pageSize < end; page++ {
		n.dirty[page] = n.writes
	}
	n.changed = time.Now()
}

// grow makes the file longer; what comes new is zero.
func (n *inode) grow(size int64) {
	old := len(n.data)
	n.data = slices.Grow(n.data, int(size)-old)[:size]
	clear(n.data[old:])
}

// resize cuts the file off or makes it longer.
func (n *inode) resize(size int64) {
	if size >= int64(len(n.data)) {
		n.grow(size)
	} else {
		n.data = n.data[:size]
		n.least = min(n.least, size)
		maps.DeleteFunc(n.dirty, func(page int64, _ uint64) bool { return page*pageSize >= size })
	}
	n.changed = time.Now()
}
