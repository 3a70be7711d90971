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
	text, ok := field("/proc/meminfo", "MemTotal")
	if !ok {
		return nil, errors.New("/proc/meminfo has no MemTotal")
	}
	var kib int64
	if _, err := fmt.Sscanf(text, "%d kB", &kib); err != nil {
		return nil, fmt.Errorf("MemTotal: %w", err)
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

// Fill reads the file once more. Pages that are there stay what they are, those the kernel takes first (from Linux 6.3 on).
func (m *Memory) Fill() error {
	if err := unix.Fadvise(int(m.file.Fd()), 0, 0, unix.FADV_NOREUSE); err != nil {
		return fmt.Errorf("fill the page cache: %w", err)
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{io.NewSectionReader(m.file, 0, m.size)}, make([]byte, 1<<20)); err != nil {
		return fmt.Errorf("fill the page cache: %w", err)
	}
	return nil
}

// Close lets the file go; the cache goes with it when it is removed.
func (m *Memory) Close() error { return m.file.Close() }
