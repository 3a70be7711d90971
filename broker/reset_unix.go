//go:build !windows

package broker

import (
	"errors"
	"syscall"
)

// isReset reports whether err only says that the peer is gone.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
