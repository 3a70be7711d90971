package powerfs

import (
	"math"
	"syscall"
	"time"
)

// sync is fsync of a file or directory. What it found when it began is durable when it returns 0; until then it may be lost. dead says
// whether the power was cut meanwhile. Disk.mu is held at the call and the return, but not all the time between.
func (d *Disk) sync(n *inode, dead func() bool) syscall.Errno {
	d.mu.Unlock()
	n.syncing.Lock()
	defer n.syncing.Unlock()
	d.mu.Lock()
	if dead() {
		return syscall.EIO
	}
	if n.isDir() && d.lies.Dirs || !n.isDir() && d.lies.Files {
		d.pause()
		return failed(dead)
	}
	if n.isDir() {
		return d.syncDir(n, dead)
	}
	return d.syncFile(n, dead)
}

func failed(dead func() bool) syscall.Errno {
	if dead() {
		return syscall.EIO
	}
	return 0
}

// pause lets the time of an fsync go by, without Disk.mu.
func (d *Disk) pause() {
	if d.delay <= 0 {
		return
	}
	delay := time.Duration(d.delays.Int64N(int64(d.delay)))
	d.mu.Unlock()
	time.Sleep(delay)
	d.mu.Lock()
}

func (d *Disk) syncDir(n *inode, dead func() bool) syscall.Errno {
	count := len(n.changes)
	d.pause()
	if dead() {
		return syscall.EIO
	}
	for _, c := range n.changes[:count] {
		n.makeDurable(c)
	}
	n.changes = n.changes[count:]
	return 0
}

func (n *inode) makeDurable(c change) {
	if c.to == nil {
		delete(n.durableNames, c.name)
	} else {
		n.durableNames[c.name] = c.to
	}
}

func (d *Disk) syncFile(n *inode, dead func() bool) syscall.Errno {
	type page struct {
		number int64
		write  uint64
		bytes  []byte
	}
	size := int64(len(n.data))
	pages := make([]page, 0, len(n.dirty))
	for number, write := range n.dirty {
		from := number * pageSize
		pages = append(pages, page{number, write, append([]byte(nil), n.data[from:min(from+pageSize, size)]...)})
	}
	least := n.least
	n.least, n.leastBefore = size, least
	d.pause()
	if dead() {
		return syscall.EIO
	}
	if least < int64(len(n.durable)) {
		n.durable = n.durable[:least]
	}
	n.durable = resized(n.durable, size)
	for _, p := range pages {
		copy(n.durable[p.number*pageSize:], p.bytes)
		if n.dirty[p.number] == p.write {
			delete(n.dirty, p.number)
		}
	}
	n.leastBefore = math.MaxInt64
	return 0
}

// resized returns b with another length; what comes new is zero. It may reuse b.
func resized(b []byte, size int64) []byte {
	if size <= int64(len(b)) {
		return b[:size]
	}
	return append(b, make([]byte, size-int64(len(b)))...)
}
