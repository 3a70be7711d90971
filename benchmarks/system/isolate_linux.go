package system

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const congestion = "/proc/sys/net/ipv4/tcp_congestion_control"

// Isolated makes a command start in a network of its own, with nothing in it but a loopback interface, and as the
// first of its processes, with which all that it started ends, whatever happens. It says false where that is not
// possible. The command has to call Inside before anything else.
func Isolated(c *exec.Cmd) bool {
	if os.Geteuid() != 0 {
		return false
	}
	runtime.LockOSThread() // the command is killed when the thread that started it ends
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	return true
}

// Inside completes what Isolated began.
func Inside() error {
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	ifr, err := unix.NewIfreq("lo")
	if err == nil {
		ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		err = unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, ifr)
	}
	if err = errors.Join(err, unix.Close(s)); err != nil {
		return fmt.Errorf("start the loopback interface: %w", err)
	}
	return nil
}

// SetCongestion sets the congestion control of new connections of this network.
func SetCongestion(name string) error {
	return os.WriteFile(congestion, []byte(name), 0o644)
}

// Congestion is the congestion control of new connections.
func Congestion() string {
	text, err := os.ReadFile(congestion)
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(text))
}

// Sync writes what was written to the file system of dir to its disk, so that it is not written at the cost of what is
// measured next.
func Sync(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}

// Allocated is how many bytes of the disk a file takes.
func Allocated(info os.FileInfo) int64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Blocks * 512
	}
	return info.Size()
}

// Free is how many bytes can be written to the file system of dir.
func Free(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * s.Bsize, nil
}
