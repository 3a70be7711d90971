//go:build !linux

package sparse

import (
	"io/fs"
	"os"
)

// Has tells whether a file is worth looking for holes: not on this system.
func Has(fs.FileInfo) bool { return false }

// Next finds the first bytes at or after offset, below size, that are no hole:
// [start, end). Here that is all of them.
func Next(_ *os.File, offset, size int64) (start, end int64, err error) { return offset, size, nil }
