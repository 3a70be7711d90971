package producer

import (
	"errors"

	"golang.org/x/sys/windows"
)

// isOtherDevice tells that a file cannot be renamed to another file system.
func isOtherDevice(err error) bool { return errors.Is(err, windows.ERROR_NOT_SAME_DEVICE) }
