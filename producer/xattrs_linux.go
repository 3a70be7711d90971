package producer

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const noXattr = unix.ENODATA

// sentXattr is what an attribute is called in a manifest, if it is sent.
func sentXattr(name string) (string, bool) {
	return name, strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "trusted.") && os.Geteuid() == 0
}
