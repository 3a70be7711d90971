package consumer

import (
	"errors"

	"golang.org/x/sys/windows"
)

// removeOpenFiles: a file can be removed while it is open.
const removeOpenFiles = false

func isFull(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL) || errors.Is(err, windows.ERROR_DISK_QUOTA_EXCEEDED)
}

func isExhausted(err error) bool {
	for _, errno := range []error{
		windows.ERROR_SHARING_VIOLATION, windows.ERROR_LOCK_VIOLATION, windows.ERROR_TOO_MANY_OPEN_FILES,
		windows.ERROR_NOT_ENOUGH_MEMORY, windows.ERROR_OUTOFMEMORY, windows.ERROR_NO_SYSTEM_RESOURCES, windows.ERROR_BUSY,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

func isNotDirectory(err error) bool { return errors.Is(err, windows.ERROR_DIRECTORY) }

func isNotEmpty(err error) bool { return errors.Is(err, windows.ERROR_DIR_NOT_EMPTY) }

func isBadName(err error) bool {
	for _, errno := range []error{
		windows.ERROR_INVALID_NAME, windows.ERROR_BAD_PATHNAME, windows.ERROR_FILENAME_EXCED_RANGE,
		windows.ERROR_INVALID_PARAMETER, windows.ERROR_PATH_NOT_FOUND,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// isTooLarge tells that the file system cannot hold a file of that length.
func isTooLarge(err error) bool {
	return errors.Is(err, windows.ERROR_FILE_TOO_LARGE) || errors.Is(err, windows.ERROR_INVALID_PARAMETER)
}

// canSyncDirs: Windows makes entries of directories durable with the files and
// has no call for it.
const canSyncDirs = false

// isBrokenPipe tells that the reader of our output has gone.
func isBrokenPipe(err error) bool {
	return errors.Is(err, windows.ERROR_BROKEN_PIPE) || errors.Is(err, windows.ERROR_NO_DATA)
}
