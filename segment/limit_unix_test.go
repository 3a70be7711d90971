//go:build linux || darwin

package segment

import (
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const limitVariable = "MFT_SEGMENT_TEST_LIMITED"

// inChild runs the calling test in a process of its own and reports whether this is that process.
func inChild(t *testing.T) bool {
	if os.Getenv(limitVariable) != "" {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), limitVariable+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}

// withFileLimit calls do while no file can be written beyond a size: such writes are cut short, or fail, as on a full disk. The limit is the
// process's: use it after inChild.
func withFileLimit(t testing.TB, size uint64, do func() error) error {
	t.Helper()
	var old unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_FSIZE, &old))
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: size, Max: old.Max}))
	defer func() { must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &old)) }()
	return do()
}
