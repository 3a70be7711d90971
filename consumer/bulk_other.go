//go:build !linux

package consumer

func canBulkSync(int) bool { return false }

func syncfs(int) error { return errNoBulkSync }
