//go:build unix

package consumer

import (
	"errors"
	"syscall"
)

// removeOpenFiles: a file can be removed while it is open.
const removeOpenFiles = true

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func isExhausted(err error) bool {
	for _, errno := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EROFS, syscall.EBUSY, syscall.ETXTBSY, syscall.ESTALE} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

func isNotDirectory(err error) bool { return errors.Is(err, syscall.ENOTDIR) }

func isNotEmpty(err error) bool {
	return errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST)
}

func isBadName(err error) bool {
	for _, errno := range []error{syscall.ENAMETOOLONG, syscall.EINVAL, syscall.EILSEQ, syscall.ELOOP, syscall.EISDIR} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// isTooLarge tells that the file system cannot hold a file of that length.
func isTooLarge(err error) bool {
	return errors.Is(err, syscall.EFBIG) || errors.Is(err, syscall.EINVAL)
}

// canSyncDirs: entries of a directory are made durable by syncing it.
const canSyncDirs = true

// isBrokenPipe tells that the reader of our output has gone.
func isBrokenPipe(err error) bool { return errors.Is(err, syscall.EPIPE) }
