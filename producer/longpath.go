package producer

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"mft/protocol"
)

// A path that is longer than the system takes at once is opened in two steps:
// its beginning, and from there the rest, a part at a time. On Windows package
// os knows how to do it.
func isLong(path string) bool { return len(path) > maxPath() && runtime.GOOS != "windows" }

// maxPath is in bytes, with some room.
func maxPath() int {
	if runtime.GOOS == "linux" {
		return 4000 // it takes 4,095
	}
	return 1000 // macOS takes 1,023
}

// long does something with the rest of a long path.
func long[T any](path string, do func(root *os.Root, rest string) (T, error)) (result T, err error) {
	cut := maxPath()
	for cut > 0 && !os.IsPathSeparator(path[cut]) {
		cut--
	}
	if cut == 0 {
		return result, &fs.PathError{Op: "open", Path: path, Err: errors.New("the path is too long")}
	}
	root, err := os.OpenRoot(path[:cut])
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	return do(root, path[cut+1:])
}

func lstat(path string) (fs.FileInfo, error) {
	if isLong(path) {
		return long(path, func(root *os.Root, rest string) (fs.FileInfo, error) { return root.Lstat(rest) })
	}
	return os.Lstat(path)
}

// linkTarget is where a symbolic link leads, as a manifest has it.
func linkTarget(path string) (target string, err error) {
	if isLong(path) {
		target, err = long(path, func(root *os.Root, rest string) (string, error) { return root.Readlink(rest) })
	} else {
		target, err = os.Readlink(path)
	}
	if runtime.GOOS != "windows" {
		return target, err
	}
	return protocol.OriginalName(filepath.ToSlash(target), runtime.GOOS), err
}

// openDir opens a directory to be read.
func openDir(path string) (*os.File, error) {
	if isLong(path) {
		return long(path, func(root *os.Root, rest string) (*os.File, error) { return root.Open(rest) })
	}
	return os.Open(path)
}
