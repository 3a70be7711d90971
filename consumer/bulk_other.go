//go:build !linux

package consumer

import "errors"

func canBulkSync(int) bool { return false }

func syncfs(int) error { return errors.New("syncfs is not on this system") }
