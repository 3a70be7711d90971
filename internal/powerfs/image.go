package powerfs

import (
	"os"
	"path/filepath"
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
