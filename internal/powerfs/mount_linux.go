package powerfs

import (
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// UnavailableError says that file systems like this cannot be mounted here.
type UnavailableError struct{ Reason error }

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("cannot mount a FUSE file system: %v (it needs /dev/fuse, and root or fusermount3 from the package fuse3)", e.Reason)
}

func (e *UnavailableError) Unwrap() error { return e.Reason }

// Mount is a disk that is in use as a directory, until Cut or Unmount.
type Mount struct {
	fuse.RawFileSystem // what is not here is not supported
	disk               *Disk
	dir                string
	server             *fuse.Server
	dead               bool // the power is cut; guarded by Disk.mu
	lists              map[uint64][]fuse.DirEntry
	lastList           uint64
}

// Mount mounts the disk on an empty directory. The error is an *UnavailableError where that is not possible at all.
func (d *Disk) Mount(dir string) (*Mount, error) {
	probe, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return nil, &UnavailableError{err}
	}
	if err := probe.Close(); err != nil {
		return nil, err
	}
	m := &Mount{RawFileSystem: fuse.NewDefaultRawFileSystem(), disk: d, dir: dir, lists: map[uint64][]fuse.DirEntry{}}
	m.server, err = fuse.NewServer(m, dir, &fuse.MountOptions{
		FsName: "powerfs", Name: "powerfs", DirectMount: true, DisableXAttrs: true, DisableReadDirPlus: true, MaxWrite: 1 << 20,
		Logger: log.New(io.Discard, "", 0), // answers that come after their caller was killed
	})
	if err != nil {
		return nil, &UnavailableError{err}
	}
	go m.server.Serve()
	if err := m.server.WaitMount(); err != nil {
		return nil, errors.Join(&UnavailableError{err}, m.server.Unmount())
	}
	return m, nil
}

// Cut cuts the power: what is under way and what comes fails with EIO, and the disk keeps what the loss says. Unmount is still to be called
// once the programs on it have been killed.
func (m *Mount) Cut(loss Loss, random *rand.Rand) Survey {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	m.dead = true
	return m.disk.lose(loss, random)
}

// Unmount takes the directory away. No program may use it any more. What was not durable stays in the memory of the disk.
func (m *Mount) Unmount() error {
	err := m.server.Unmount()
	if err == nil {
		return nil
	}
	// Someone still has a file open. Let it be gone with the last of them.
	return errors.Join(fmt.Errorf("unmount %s: %w", m.dir, err), syscall.Unmount(m.dir, syscall.MNT_DETACH))
}

// begin locks the disk and finds an inode. The caller unlocks, also when there is an error.
func (m *Mount) begin(number uint64) (*inode, fuse.Status) {
	m.disk.mu.Lock()
	if m.dead {
		return nil, fuse.EIO
	}
	n := m.disk.inodes[number]
	if n == nil {
		return nil, fuse.Status(syscall.ESTALE)
	}
	return n, fuse.OK
}

func (n *inode) attributes(out *fuse.Attr) {
	*out = fuse.Attr{Ino: n.number, Mode: n.mode, Nlink: max(n.links, 1), Size: uint64(len(n.data)), Blksize: pageSize}
	out.Blocks = (out.Size + sectorSize - 1) / sectorSize
	out.SetTimes(&n.changed, &n.changed, &n.changed)
	out.Uid, out.Gid = uint32(os.Getuid()), uint32(os.Getgid())
}

// All changes come through the kernel, which may therefore remember what it knows.
const remember = time.Hour

func (n *inode) entry(out *fuse.EntryOut) {
	out.NodeId, out.Generation = n.number, 1
	out.SetEntryTimeout(remember)
	out.SetAttrTimeout(remember)
	n.attributes(&out.Attr)
}

// Lookup finds a name.
func (m *Mount) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	dir, status := m.begin(in.NodeId)
	defer m.disk.mu.Unlock()
	if !status.Ok() {
		return status
	}
	n := dir.names[name]
	if n == nil {
		return fuse.ENOENT
	}
	n.entry(out)
	return fuse.OK
}

// GetAttr is stat.
func (m *Mount) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, status := m.begin(in.NodeId)
	defer m.disk.mu.Unlock()
	if !status.Ok() {
		return status
	}
	out.SetTimeout(remember)
	n.attributes(&out.Attr)
	return fuse.OK
}

// SetAttr is truncate, chmod and utimes; owners stay as they are.
func (m *Mount) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, status := m.begin(in.NodeId)
	defer m.disk.mu.Unlock()
	if !status.Ok() {
		return status
	}
	if size, ok := in.GetSize(); ok {
		if n.isDir() {
			return fuse.Status(syscall.EISDIR)
		}
		n.resize(int64(size))
	}
	if mode, ok := in.GetMode(); ok {
		n.mode = n.mode&syscall.S_IFMT | mode&^syscall.S_IFMT
	}
	if at, ok := in.GetMTime(); ok {
		n.changed = at
	}
	out.SetTimeout(remember)
	n.attributes(&out.Attr)
	return fuse.OK
}

func (m *Mount) make(dir uint64, name string, mode uint32, out *fuse.EntryOut) fuse.Status {
	parent, status := m.begin(dir)
	defer m.disk.mu.Unlock()
	if !status.Ok() {
		return status
	}
	n, errno := m.disk.create(parent, name, mode)
	if errno != 0 {
		return fuse.Status(errno)
	}
	n.entry(out)
	return fuse.OK
}

// Mkdir makes a directory.
func (m *Mount) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return m.make(in.NodeId, name, syscall.S_IFDIR|in.Mode&0o7777, out)
}

// Create makes and opens a file.
func (m *Mount) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	return m.make(in.NodeId, name, syscall.S_IFREG|in.Mode&0o7777, &out.EntryOut)
}

func (m *Mount) unlink(dir uint64, name string, directory bool) fuse.Status {
	parent, status := m.begin(dir)
	defer m.disk.mu.Unlock()
	if !status.Ok() {
		return status
	}
	return fuse.Status(m.disk.remove(parent, name, directory))
}

// Unlink removes a file.
func (m *Mount) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return m.unlink(in.NodeId, name, false)
}

// Rmdir removes an empty directory.
func (m *Mount) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return m.unlink(in.NodeId, name, true)
}

// Rename moves a name. The flags of renameat2 are not supported.
func (m *Mount) Rename(_ <-chan struct{}, in *fuse.RenameIn, name, newName string) fuse.Status {
	from, status := m.begin(in.NodeId)
	defer m.disk.mu.Unlock()
	if !status.Ok() {
		return status
	}
	to := m.disk.inodes[in.Newdir]
	if to == nil || in.Flags != 0 {
		return fuse.EINVAL
	}
	return fuse.Status(m.disk.rename(from, name, to, newName))
}

// Open opens a file.
func (m *Mount) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	_, status := m.begin(in.NodeId)
	defer m.disk.mu.Unlock()
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return status
}

// Read reads from a file.
func (m *Mount) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n, status := m.begin(in.NodeId)
	defer m.disk.mu.Unlock()
	if !status.Ok() {
		return nil, status
	}
	return fuse.ReadResultData(buf[:n.read(buf, int64(in.Offset))]), fuse.OK
}

// Write writes to a file.
func (m *Mount) Write(_ <-chan struct{}, in *fuse.WriteIn, b []byte) (uint32, fuse.Status) {
	n, status := m.begin(in.NodeId)
	defer m.disk.mu.Unlock()
	if !status.Ok() {
		return 0, status
	}
	n.write(b, int64(in.Offset))
	return uint32(len(b)), fuse.OK
}

// Flush is close, which makes nothing durable.
func (m *Mount) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

// Fsync is fsync and fdatasync of a file.
func (m *Mount) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	n, status := m.begin(in.NodeId)
	defer m.disk.mu.Unlock()
	if !status.Ok() {
		return status
	}
	return fuse.Status(m.disk.sync(n, func() bool { return m.dead }))
}

// FsyncDir is fsync of a directory.
func (m *Mount) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return m.Fsync(cancel, in)
}

// OpenDir begins to list a directory.
func (m *Mount) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	_, status := m.begin(in.NodeId)
	defer m.disk.mu.Unlock()
	m.lastList++
	out.Fh = m.lastList
	return status
}

// ReadDir lists a directory as it was at the first call.
func (m *Mount) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	n, status := m.begin(in.NodeId)
	defer m.disk.mu.Unlock()
	if !status.Ok() {
		return status
	}
	if in.Offset == 0 {
		list := []fuse.DirEntry{{Name: ".", Mode: syscall.S_IFDIR}, {Name: "..", Mode: syscall.S_IFDIR}}
		for _, name := range slices.Sorted(maps.Keys(n.names)) {
			below := n.names[name]
			list = append(list, fuse.DirEntry{Name: name, Mode: below.mode, Ino: below.number})
		}
		m.lists[in.Fh] = list
	}
	list := m.lists[in.Fh]
	for i := in.Offset; i < uint64(len(list)); i++ {
		if e := list[i]; !out.AddDirEntry(fuse.DirEntry{Name: e.Name, Mode: e.Mode, Ino: e.Ino, Off: i + 1}) {
			break
		}
	}
	return fuse.OK
}

// ReleaseDir ends a listing.
func (m *Mount) ReleaseDir(in *fuse.ReleaseIn) {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	delete(m.lists, in.Fh)
}

// StatFs says that there is room.
func (m *Mount) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	*out = fuse.StatfsOut{Bsize: pageSize, Frsize: pageSize, NameLen: 255, Blocks: 1 << 28, Bfree: 1 << 27, Bavail: 1 << 27, Files: 1 << 20, Ffree: 1 << 19}
	return fuse.OK
}
