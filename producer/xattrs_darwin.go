package producer

import "golang.org/x/sys/unix"

const noXattr = unix.ENOATTR

// sentXattr is what an attribute is called in a manifest, if it is sent. There
// are no namespaces here; all are the user's.
func sentXattr(name string) (string, bool) { return "user." + name, name != "" }
