//go:build unix && !linux && !darwin

package producer

import (
	"errors"
	"os"

	"mft/protocol"
)

func readXattrs(*os.File) (protocol.Xattrs, error) {
	return nil, errors.New("extended attributes cannot be read on this system: leave out --xattrs")
}
