//go:build !linux

package cmd_test

import "testing"

func smallDisk(t *testing.T, _ int64) (dir string, fill, free func()) {
	t.Skip("needs a small tmpfs, which only Linux has")
	return "", nil, nil
}
