//go:build unix && !darwin

package command

import (
	"os"
	"os/signal"
	"syscall"
)

var stateSignals = []os.Signal{syscall.SIGUSR1}

// ignoreBackgroundRead makes reading from the terminal in the background an
// error instead of the end of all work.
func ignoreBackgroundRead() bool {
	signal.Ignore(syscall.SIGTTIN)
	return true
}
