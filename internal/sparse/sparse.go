// Package sparse knows where the holes of files are: ranges that read as zeros
// and take no room on the disk.
package sparse

import "io"

// Zeros writes n bytes of zeros to w.
func Zeros(w io.Writer, n int64) error {
	for n > 0 {
		part := min(n, int64(len(zeros)))
		if _, err := w.Write(zeros[:part]); err != nil {
			return err
		}
		n -= part
	}
	return nil
}

var zeros [256 << 10]byte
