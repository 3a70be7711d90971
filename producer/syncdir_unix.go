//go:build unix

package producer

import (
	"errors"
	"os"
)

// syncDirectory makes the entries of a directory durable.
func syncDirectory(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
