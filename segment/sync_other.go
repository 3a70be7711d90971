//go:build !linux

package segment

import "os"

// syncData makes the file's bytes and its length durable.
func syncData(f *os.File) error { return f.Sync() }
