//go:build !linux

package machine

// Memory is for Linux only.
type Memory struct{}

// Fill does nothing.
func (*Memory) Fill(int64) error { return nil }

// Give does nothing.
func (*Memory) Give(int64) error { return nil }

// Forget is for Linux only.
func Forget(string) error { return nil }
