//go:build !linux

package system

import (
	"errors"
	"os"
	"os/exec"
)

// Isolated says false: only Linux has networks for one program.
func Isolated(*exec.Cmd) bool { return false }

// Inside completes what Isolated began.
func Inside() error { return errors.ErrUnsupported }

// SetCongestion sets the congestion control of new connections of this network.
func SetCongestion(string) error { return errors.ErrUnsupported }

// Congestion is the congestion control of new connections.
func Congestion() string { return "unknown" }

// Sync does nothing.
func Sync(string) error { return nil }

// Allocated is how many bytes of the disk a file takes; here, its size.
func Allocated(info os.FileInfo) int64 { return info.Size() }

// Free is how many bytes can be written; unknown here, so a lot.
func Free(string) (int64, error) { return 1 << 40, nil }
