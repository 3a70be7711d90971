package cmd_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mft/internal/commandtest"
)

// On a terminal Enter asks for the state.
func TestStateOnEnter(t *testing.T) {
	t.Parallel()
	broker := startBroker(t)
	dir := t.TempDir()
	commandtest.RandomFile(t, filepath.Join(dir, "file"), 20_000_000, 1)
	master, slave := openTerminal(t)
	p := exec.Command(commands.Path("mft-produce"), "-b", broker.Addr, "-t", "state", "--limit-rate", "100kB", filepath.Join(dir, "file"))
	p.Stdin, p.Stdout, p.Stderr = slave, slave, slave
	p.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Process.Kill(); _ = p.Wait() })
	var out commandtest.Output
	go func() { _, _ = io.Copy(&out, master) }()
	for end := time.Now().Add(time.Minute); !strings.Contains(out.String(), "mft-produce: sent 0 of 1 file, "); {
		if time.Now().After(end) {
			t.Fatalf("no answer: %q", out.String())
		}
		if _, err := master.Write([]byte("\n")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// openTerminal makes a pseudo terminal.
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("no pseudo terminal is to be had: ", err)
	}
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Close(); _ = master.Close() })
	return master, slave
}
