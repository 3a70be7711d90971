//go:build unix

package system

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// ownGroup makes the program the head of a process group, which is killed as a whole.
func ownGroup(c *exec.Cmd) {
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error {
		kill(c.Process.Pid)
		return nil
	}
}

func terminate(pid int) error { return gone(syscall.Kill(-pid, syscall.SIGTERM)) }

// kill ends what is left of a process group; there may be nothing left.
func kill(pid int) { _ = syscall.Kill(-pid, syscall.SIGKILL) }

func gone(err error) error {
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}
