//go:build unix

package consumer

import "syscall"

const errFull = syscall.ENOSPC
