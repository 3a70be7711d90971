//go:build !windows

package segment

import (
	"errors"
	"os"
)

// syncDir makes the names in a directory durable: files created, renamed or removed in it.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
