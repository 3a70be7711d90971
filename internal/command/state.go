package command

import (
	"os"
	"path/filepath"
	"runtime"
)

// NoState is the value of --state that keeps none.
const NoState = "none"

// DefaultStateDir is where a command remembers what outlives it:
// $XDG_STATE_HOME/mft or ~/.local/state/mft, on Windows %LocalAppData%\mft. It
// is "" when the user has no such place.
func DefaultStateDir() string {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "mft")
	}
	if runtime.GOOS == "windows" {
		if dir, err := os.UserCacheDir(); err == nil { // %LocalAppData%
			return filepath.Join(dir, "mft")
		}
		return ""
	}
	home, err := os.UserHomeDir()
	if err != nil || home == "" {
		return ""
	}
	return filepath.Join(home, ".local", "state", "mft")
}
