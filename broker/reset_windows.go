package broker

import (
	"errors"

	"golang.org/x/sys/windows"
)

// isReset reports whether err only says that the peer is gone.
func isReset(err error) bool {
	return errors.Is(err, windows.WSAECONNRESET) || errors.Is(err, windows.WSAECONNABORTED)
}
