package command

import (
	"errors"
	"fmt"
	"net"
	"os"
)

// Ready tells the service manager that the program serves: systemd, with
// Type=notify in its unit, names a socket in NOTIFY_SOCKET. Without one nobody
// is told.
func Ready() error {
	path := os.Getenv("NOTIFY_SOCKET") // "@" begins a name that is no file, as for package net
	if path == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err == nil {
		_, err = conn.Write([]byte("READY=1"))
		err = errors.Join(err, conn.Close())
	}
	if err != nil {
		return fmt.Errorf("telling the service manager (NOTIFY_SOCKET=%s) that this program is ready: %w", path, err)
	}
	return nil
}
