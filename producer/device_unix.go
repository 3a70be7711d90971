//go:build unix

package producer

import (
	"errors"
	"syscall"
)

// isOtherDevice tells that a file cannot be renamed to another file system.
func isOtherDevice(err error) bool { return errors.Is(err, syscall.EXDEV) }
