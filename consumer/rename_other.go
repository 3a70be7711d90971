//go:build !linux

package consumer

import "os"

// renameNew does nothing: there is no portable way to rename without
// replacing.
func renameNew(*os.Root, string, *os.Root, string) (ok bool, err error) { return false, nil }
