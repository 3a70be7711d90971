package producer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// state is the directory where a Producer keeps what outlives it
// (Config.StateDir). Each kind of thing has a directory of its own in it:
//
//	resume/<key>   how far one file is sent: see checkpoint
//	mirrors/<key>  how far a growing file is sent: see positions
//
// Everything in it is its owner's only (0700, 0600), and is made when it is
// first needed. Several processes use one state at the same time: a file in it
// is either replaced as a whole, or written only by who holds its lock.
// What is lost or damaged costs repeated work, never a wrong file.
type state struct {
	path string // "": nothing is kept
}

// dir makes the directory of one kind of thing, and returns its path.
func (s state) dir(kind string) (string, error) {
	path := filepath.Join(s.path, kind)
	if err := os.MkdirAll(path, 0o700); err != nil {
		return "", fmt.Errorf("making the state directory: %w", err)
	}
	return path, nil
}

// pruned lists the names of the files of one kind, without those that were not
// written for maxAge or are beyond the newest maxFiles: remove is called for
// these. A directory that is not there has no files.
func (s state) pruned(kind string, maxAge time.Duration, maxFiles int, remove func(path string) error) (map[string]bool, error) {
	dir := filepath.Join(s.path, kind)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the state directory: %w", err)
	}
	type file struct {
		name    string
		written time.Time
	}
	var files []file
	for _, entry := range entries {
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading the state directory: %w", err)
		}
		files = append(files, file{entry.Name(), info.ModTime()})
	}
	slices.SortFunc(files, func(a, b file) int { return b.written.Compare(a.written) })
	kept := make(map[string]bool)
	for i, f := range files {
		if i < maxFiles && time.Since(f.written) <= maxAge {
			kept[f.name] = true
		} else if err := remove(filepath.Join(dir, f.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("tidying the state directory: %w", err)
		}
	}
	return kept, nil
}
