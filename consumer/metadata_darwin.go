package consumer

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const utimeOmit = -2 // UTIME_OMIT

// localXattr is what an attribute is called here, if it is one to be set:
// there are no namespaces.
func localXattr(name string) (string, bool) { return strings.CutPrefix(name, "user.") }

func setXattr(f *os.File, name string, value []byte) error {
	return unix.Fsetxattr(int(f.Fd()), name, value, 0)
}
