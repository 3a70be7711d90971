package checkup

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}

// writable makes a file and removes it: permissions on Windows are too manifold to be read.
func writable(dir string) error {
	f, err := os.CreateTemp(dir, ".mft-check-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

func available(dir string) (bytes uint64, files int64, err error) {
	path, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return 0, 0, err
	}
	err = windows.GetDiskFreeSpaceEx(path, &bytes, nil, nil)
	return bytes, -1, err
}

func openFilesLimit() (uint64, bool) { return 0, false }
