//go:build !linux

package machine

// Memory is for Linux only.
type Memory struct{}

// NewMemory does nothing.
func NewMemory(string) (*Memory, error) { return &Memory{}, nil }

// Fill does nothing.
func (*Memory) Fill() error { return nil }

// Close does nothing.
func (*Memory) Close() error { return nil }
