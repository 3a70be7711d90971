//go:build !linux

package segment

import "testing"

func smallDisk(t *testing.T) (dir string, free func()) {
	t.Skip("needs a small file system: Linux's tmpfs")
	return "", nil
}
