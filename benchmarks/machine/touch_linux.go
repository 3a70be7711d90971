package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// spareMemory is left free when memory is touched.
const spareMemory = 1 << 30

// Touch uses that many bytes of free memory for a moment, so that whoever comes next gets memory that is really there. In a virtual
// machine the first use of a page costs several times what later ones do, and would be charged to the system that happens to
// be measured then. What is not free is left alone.
func Touch(bytes int64) (err error) {
	var free int64
	if text, ok := field("/proc/meminfo", "MemFree"); ok {
		if _, err := fmt.Sscanf(text, "%d kB", &free); err != nil {
			return fmt.Errorf("MemFree: %w", err)
		}
	}
	bytes = min(bytes, free<<10-spareMemory)
	if bytes <= 0 {
		return nil
	}
	b, err := unix.Mmap(-1, 0, int(bytes), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("memory to be touched: %w", err)
	}
	const parts = 2
	var touching sync.WaitGroup
	page := os.Getpagesize()
	for i := range parts {
		part := b[len(b)*i/parts : len(b)*(i+1)/parts]
		touching.Go(func() {
			for at := 0; at < len(part); at += page {
				part[at] = 1
			}
		})
	}
	touching.Wait()
	return unix.Munmap(b)
}

// smallFile is a size below which a file's cache is not worth an open.
const smallFile = 1 << 20

// Forget takes the files below dir, which must be on disk already, out of the page cache, so that the next system gets that memory
// instead of some that was never used.
func Forget(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if info, err := d.Info(); err != nil || info.Size() < smallFile {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close())
	})
}
