package consumer

import (
	"os/exec"
	"syscall"
)

// ownGroup keeps Ctrl-C, which the receiver deals with, from a command.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}
