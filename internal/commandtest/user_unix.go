//go:build unix

package commandtest

import (
	"os/exec"
	"syscall"
)

func asUser(cmd *exec.Cmd, uid uint32) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	cmd.Env = append(cmd.Environ(), "HOME=/")
	cmd.Dir = "/"
}
