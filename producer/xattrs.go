//go:build linux || darwin

package producer

import (
	"errors"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"mft/protocol"
)

// readXattrs reads the extended attributes of an open file that are sent.
func readXattrs(f *os.File) (protocol.Xattrs, error) {
	fd := int(f.Fd())
	names, err := sized(func(buf []byte) (int, error) { return unix.Flistxattr(fd, buf) })
	if errors.Is(err, errors.ErrUnsupported) {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "list extended attributes", Path: f.Name(), Err: err}
	}
	var list protocol.Xattrs
	for local := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		name, ok := sentXattr(local)
		if !ok || !utf8.ValidString(name) {
			continue
		}
		value, err := sized(func(buf []byte) (int, error) { return unix.Fgetxattr(fd, local, buf) })
		if errors.Is(err, noXattr) { // removed meanwhile
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "read extended attribute " + local, Path: f.Name(), Err: err}
		}
		if list == nil {
			list = make(protocol.Xattrs)
		}
		list[name] = value
	}
	return list, nil
}

// sized calls a function that tells how much room it needs, and again while
// that grows.
func sized(read func(buf []byte) (int, error)) ([]byte, error) {
	for {
		n, err := read(nil)
		if err != nil || n == 0 {
			return []byte{}, err
		}
		buf := make([]byte, n)
		if n, err = read(buf); errors.Is(err, unix.ERANGE) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
}
