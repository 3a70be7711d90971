package machine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Memory keeps the page cache full of clean pages that nobody needs, as that of a machine is which has been up for a while. In a
// virtual machine the first use of memory costs several times what later ones do, and memory that is free for some seconds may be given
// back to the host: that would be charged to whoever happens to be measured then, and most to who writes fastest. What the kernel takes
// from its cache it has at hand.
type Memory struct {
	file *os.File // without blocks on the disk
	size int64
}

// NewMemory makes a file in dir as large as the machine's memory.
func NewMemory(dir string) (*Memory, error) {
	kib, err := kibibytes("MemTotal")
	if err != nil {
		return nil, err
	}
	f, err := os.Create(filepath.Join(dir, "page-cache"))
	if err != nil {
		return nil, err
	}
	m := &Memory{f, kib << 10}
	if err := f.Truncate(m.size); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return m, nil
}

// fullEnough is how many bytes of memory may be free.
const fullEnough = 1 << 30

// Fill reads the file until hardly any memory is free. Pages of it that are there stay what they are, those that the kernel takes first (from
// Linux 6.3 on).
func (m *Memory) Fill() error {
	wrong := func(err error) error { return fmt.Errorf("fill the page cache: %w", err) }
	if err := unix.Fadvise(int(m.file.Fd()), 0, 0, unix.FADV_NOREUSE); err != nil {
		return wrong(err)
	}
	buf := make([]byte, 1<<20)
	for at := int64(0); at < m.size; at += int64(len(buf)) {
		if at%(256<<20) == 0 {
			if free, err := kibibytes("MemFree"); err != nil || free<<10 < fullEnough {
				return err
			}
		}
		if _, err := m.file.ReadAt(buf, at); err != nil && err != io.EOF {
			return wrong(err)
		}
	}
	return nil
}

// kibibytes reads a line of /proc/meminfo.
func kibibytes(name string) (n int64, err error) {
	text, ok := field("/proc/meminfo", name)
	if !ok {
		return 0, fmt.Errorf("/proc/meminfo has no %s", name)
	}
	if _, err := fmt.Sscanf(text, "%d kB", &n); err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return n, nil
}

// Close lets the file go; the cache goes with it when it is removed.
func (m *Memory) Close() error { return m.file.Close() }
