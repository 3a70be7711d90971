//go:build unix

package consumer

import (
	"os/exec"
	"syscall"
)

// ownGroup has a command and all that it starts in a process group of their
// own: Ctrl-C, which the receiver deals with, does not reach it, and ending it
// ends all of it.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
