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

const (
	spareMemory = 3 << 30   // is left free, for everything that runs
	memoryPart  = 256 << 20 // is kept and given at a time
)

// Memory keeps memory that has been used, to be given to the system that is measured next. In a virtual machine the first use of
// a page costs several times what later ones do, and after some seconds of being free it may be a first use again: that would be charged
// to whoever happens to be measured then, and most to who writes fastest.
type Memory struct {
	parts [][]byte
}

// Fill keeps as many bytes, or what is free.
func (m *Memory) Fill(bytes int64) error {
	var free int64
	if text, ok := field("/proc/meminfo", "MemFree"); ok {
		if _, err := fmt.Sscanf(text, "%d kB", &free); err != nil {
			return fmt.Errorf("MemFree: %w", err)
		}
	}
	missing := min(bytes-int64(len(m.parts))*memoryPart, free<<10-spareMemory)
	for range missing / memoryPart {
		part, err := unix.Mmap(-1, 0, memoryPart, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			return errors.Join(fmt.Errorf("memory to be kept: %w", err), m.Give(bytes))
		}
		touch(part)
		m.parts = append(m.parts, part)
	}
	return nil
}

// touch uses every page.
func touch(memory []byte) {
	const halves = 2
	var touching sync.WaitGroup
	page := os.Getpagesize()
	for i := range halves {
		half := memory[len(memory)*i/halves : len(memory)*(i+1)/halves]
		touching.Go(func() {
			for at := 0; at < len(half); at += page {
				half[at] = 1
			}
		})
	}
	touching.Wait()
}

// Give makes that many of the bytes free, or all there are, for what begins now.
func (m *Memory) Give(bytes int64) error {
	for ; bytes > 0 && len(m.parts) > 0; bytes -= memoryPart {
		last := len(m.parts) - 1
		if err := unix.Munmap(m.parts[last]); err != nil {
			return fmt.Errorf("memory to be given back: %w", err)
		}
		m.parts = m.parts[:last]
	}
	return nil
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
