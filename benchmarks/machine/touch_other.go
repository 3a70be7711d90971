//go:build !linux

package machine

// Touch is for Linux only.
func Touch(int64) error { return nil }

// Forget is for Linux only.
func Forget(string) error { return nil }
