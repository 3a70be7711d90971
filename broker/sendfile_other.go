//go:build !linux

package broker

import (
	"errors"
	"net"
	"os"
)

// canSendfile: records are read and written.
const canSendfile = false

func sendFile(*net.TCPConn, *os.File, int64, int64) error { return errors.ErrUnsupported }
