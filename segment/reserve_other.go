//go:build !linux

package segment

import (
	"errors"
	"os"
)

func canReserve(string) bool { return false }

func fallocate(*os.File, int64, int64) error { return errors.ErrUnsupported }
