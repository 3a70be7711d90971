package segment

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/gofrs/flock"
)

// lockDir takes the data directory's LOCK. The lock is the operating system's, so it is gone with its process, however that
// ends; the process id in the file only serves the message of the next one that tries.
func lockDir(dir string) (*flock.Flock, error) {
	path := filepath.Join(dir, "LOCK")
	lock := flock.New(path, flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o644))
	ok, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	if !ok {
		return nil, &InUseError{Dir: dir, PID: lockHolder(path)}
	}
	if runtime.GOOS == "windows" {
		return lock, nil // locked bytes can be neither written nor read through another handle there
	}
	if err := os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
		return nil, errors.Join(fmt.Errorf("write the process id: %w", err), lock.Unlock())
	}
	return lock, nil
}

// lockHolder reads the process id in a LOCK file, 0 when there is none to be read.
func lockHolder(path string) int {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return pid
}
