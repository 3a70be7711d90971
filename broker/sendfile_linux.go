package broker

import (
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// canSendfile: files go to sockets inside the kernel.
const canSendfile = true

// sendFile sends n bytes of f from pos on. The file's own offset is neither
// used nor moved: other connections send from the same file.
func sendFile(nc *net.TCPConn, f *os.File, pos, n int64) error {
	socket, err := nc.SyscallConn()
	if err != nil {
		return err
	}
	file, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	controlErr := file.Control(func(in uintptr) {
		sendErr = sendRange(socket, int(in), pos, n)
	})
	if sendErr == nil {
		sendErr = controlErr
	}
	return sendErr
}

func sendRange(socket syscall.RawConn, in int, pos, n int64) error {
	var err error
	writeErr := socket.Write(func(out uintptr) bool {
		for n > 0 {
			var sent int
			// The kernel sends at most 2 GiB at once.
			sent, err = unix.Sendfile(int(out), in, &pos, int(min(n, 1<<30)))
			switch {
			case err == unix.EINTR:
			case err == unix.EAGAIN:
				err = nil
				return false // wait until the socket takes more
			case err != nil:
				err = os.NewSyscallError("sendfile", err)
				return true
			case sent == 0:
				err = io.ErrUnexpectedEOF // the file is shorter than its log believes
				return true
			}
			n -= int64(max(sent, 0))
		}
		return true
	})
	if err == nil {
		err = writeErr
	}
	return err
}
