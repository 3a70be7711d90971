package powerfs

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Image is a copy of what was durable on a disk at some moment.
type Image struct {
	files map[string][]byte // by path; nil for a directory
}

// Image copies what is durable now.
func (d *Disk) Image() *Image {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := &Image{map[string][]byte{}}
	i.collect(d.inodes[rootNumber], "")
	return i
}

func (i *Image) collect(n *inode, path string) {
	if !n.isDir() {
		i.files[path] = append([]byte{}, n.durable...)
		return
	}
	i.files[path] = nil
	for name, below := range n.durableNames {
		i.collect(below, filepath.Join(path, name))
	}
}

// Disk returns a disk with the image on it, all of it durable: what a power cut would have left that keeps nothing else.
func (i *Image) Disk(syncTime time.Duration, seed uint64) *Disk {
	d := NewDisk(syncTime, seed)
	made := map[string]*inode{"": d.inodes[rootNumber]}
	for _, path := range slices.Sorted(maps.Keys(i.files)) { // a directory before what is in it
		if path == "" {
			continue
		}
		mode := uint32(syscall.S_IFDIR | 0o755)
		if i.files[path] != nil {
			mode = syscall.S_IFREG | 0o644
		}
		n := d.newInode(mode)
		n.durable, n.data = bytes.Clone(i.files[path]), bytes.Clone(i.files[path])
		n.least = int64(len(n.data))
		dir, name := filepath.Split(path)
		parent := made[strings.TrimSuffix(dir, string(filepath.Separator))]
		parent.names[name], parent.durableNames[name] = n, n
		made[path] = n
	}
	return d
}

// WriteTo writes the image into a directory of an ordinary file system, where it can be looked at.
func (i *Image) WriteTo(dir string) error {
	for path, content := range i.files {
		path = filepath.Join(dir, path)
		if content == nil {
			if err := os.MkdirAll(path, 0o755); err != nil {
				return err
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}
