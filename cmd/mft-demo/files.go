package main

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"mft/internal/terminal"
)

// What is sent, and where it arrives.
const (
	fileName = "random.bin"
	treeName = "tree"
	received = "received"
)

// treeEntry is a file or directory of the small tree.
type treeEntry struct {
	name string
	dir  bool
	mode fs.FileMode
	text string
}

var tree = []treeEntry{
	{name: "tree", dir: true, mode: 0o755},
	{name: "tree/README.txt", mode: 0o644, text: "A small directory, to be sent as it is.\n"},
	{name: "tree/run.sh", mode: 0o755, text: "#!/bin/sh\necho hello\n"},
	{name: "tree/private.key", mode: 0o600, text: strings.Repeat("secret ", 100)},
	{name: "tree/empty", mode: 0o644},
	{name: "tree/nothing-in-it", dir: true, mode: 0o755},
	{name: "tree/a", dir: true, mode: 0o750},
	{name: "tree/a/b", dir: true, mode: 0o755},
	{name: "tree/a/b/c", dir: true, mode: 0o755},
	{name: "tree/a/b/c/deep.csv", mode: 0o640, text: strings.Repeat("time,place,value\n", 2000)},
	{name: "tree/a/größe – 大きさ.txt", mode: 0o644, text: "names of any script\n"},
}

// makeFiles writes the file of random bytes and the tree.
func (d *demo) makeFiles() error {
	f, err := os.Create(d.path(fileName))
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.Reader, d.size)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	for _, e := range tree {
		path := d.path(filepath.FromSlash(e.name))
		if e.dir {
			err = os.Mkdir(path, e.mode)
		} else {
			err = os.WriteFile(path, []byte(e.text), e.mode)
		}
		if err != nil {
			return err
		}
	}
	// Times and modes last, innermost first: making a file changes its directory.
	for i, e := range slices.Backward(tree) {
		path := d.path(filepath.FromSlash(e.name))
		mtime := time.Date(2001, 2, 3, 4, 5, i, 123456789, time.UTC)
		if err := errors.Join(os.Chmod(path, e.mode), os.Chtimes(path, mtime, mtime)); err != nil {
			return err
		}
	}
	d.say("%s: %s of random bytes; %s: %d files and directories, nested, empty, of several modes", fileName, terminal.Size(d.size), treeName, len(tree))
	return nil
}

// entry is what is compared of a file or directory.
type entry struct {
	kind   string
	mode   fs.FileMode
	mtime  time.Time
	size   int64
	digest string
}

// look walks what is under root, and takes down what is to be compared.
func look(root, name string) (map[string]entry, error) {
	entries := map[string]entry{}
	err := filepath.WalkDir(filepath.Join(root, name), func(path string, item fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		info, err := item.Info()
		if err != nil {
			return err
		}
		e := entry{kind: "directory", mode: info.Mode().Perm(), mtime: info.ModTime()}
		if !info.IsDir() {
			e.kind, e.size = "file", info.Size()
			if e.digest, err = digest(path); err != nil {
				return err
			}
		}
		entries[filepath.ToSlash(relative)] = e
		return nil
	})
	return entries, err
}

func digest(path string) (sum string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	_, err = io.Copy(hash, f)
	return fmt.Sprintf("%x", hash.Sum(nil)), errors.Join(err, f.Close())
}

// compare compares what was sent with what was received: names, kinds, sizes,
// SHA-256 of the contents, modes and times.
func (d *demo) compare() error {
	for _, name := range []string{fileName, treeName} {
		sent, err := look(d.dir, name)
		if err != nil {
			return err
		}
		arrived, err := look(d.path(received), name)
		if err != nil {
			return err
		}
		if err := difference(sent, arrived); err != nil {
			return fmt.Errorf("%s is not the same on both sides: %w", name, err)
		}
		if name == fileName {
			d.say("%s  equal: SHA-256 %s… on both sides", name, sent[name].digest[:32])
			continue
		}
		d.say("%s        equal: %d names, contents, modes and times", name, len(sent))
	}
	left, err := os.ReadDir(d.path(received))
	if err != nil {
		return err
	}
	for _, item := range left {
		if name := item.Name(); name != fileName && name != treeName {
			return fmt.Errorf("%s is in the receiving directory and was never sent", name)
		}
	}
	return nil
}

func difference(sent, arrived map[string]entry) error {
	var errs []error
	for name, want := range sent {
		got, ok := arrived[name]
		switch {
		case !ok:
			errs = append(errs, fmt.Errorf("%s did not arrive", name))
		case got.kind != want.kind || got.size != want.size || got.digest != want.digest:
			errs = append(errs, fmt.Errorf("%s: sent a %s of %d bytes, digest %s; got a %s of %d bytes, digest %s", name, want.kind, want.size, want.digest, got.kind, got.size, got.digest))
		case got.mode != want.mode && runtime.GOOS != "windows":
			errs = append(errs, fmt.Errorf("%s: sent with mode %v, got %v", name, want.mode, got.mode))
		case got.mtime.Sub(want.mtime).Abs() > time.Microsecond: // file systems differ below that
			errs = append(errs, fmt.Errorf("%s: sent with time %v, got %v", name, want.mtime, got.mtime))
		}
	}
	for name := range arrived {
		if _, ok := sent[name]; !ok {
			errs = append(errs, fmt.Errorf("%s was never sent", name))
		}
	}
	return errors.Join(errs...)
}
