//go:build unix

package cmd_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"mft/internal/commandtest"
)

// asNobody runs mft-produce as somebody whom permissions bind: root reads
// everything.
func asNobody(t *testing.T, dir string, args ...string) (output string, code int) {
	t.Helper()
	program := commands.Path("mft-produce")
	cmd := exec.Command(program, args...)
	if os.Getuid() == 0 {
		copied := filepath.Join(dir, "mft-produce")
		if _, err := os.Stat(copied); err != nil {
			text, err := os.ReadFile(program)
			if err == nil {
				err = os.WriteFile(copied, text, 0o755)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		cmd = exec.Command(copied, args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	text, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(text), exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(text), 0
}

// openDir makes a directory that anybody may use.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "mft-failed-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A file that cannot be read is tried again, then it is on the list of failed
// files, until it can be sent.
func TestFailedFiles(t *testing.T) {
	t.Parallel()
	broker := startBroker(t)
	dir := openDir(t)
	secret, out, state := filepath.Join(dir, "out", "secret"), filepath.Join(dir, "out"), filepath.Join(dir, "state")
	commandtest.RandomFile(t, secret, 1000, 1)
	commandtest.RandomFile(t, filepath.Join(out, "open"), 1000, 2)
	if err := os.Chmod(secret, 0); err != nil {
		t.Fatal(err)
	}
	produce := func(args ...string) (string, int) {
		return asNobody(t, dir, append([]string{"-b", broker.Addr, "--state", state}, args...)...)
	}
	check := func(what, output string, code, want int, texts ...string) {
		t.Helper()
		if code != want {
			t.Errorf("%s: exit code %d, want %d: %s", what, code, want, output)
		}
		for _, text := range texts {
			if !strings.Contains(output, text) {
				t.Errorf("%s: %q is missing in %s", what, text, output)
			}
		}
	}
	output, code := produce("-t", "failing", "--dry-run", out+"/")
	check("a plan", output, code, 3, "leave", "permission denied", "would send 1 file")
	output, code = produce("-t", "failing", "--retries", "2", out+"/")
	check("sending", output, code, 3, "trying again", "failed: secret: ", "permission denied", "sent 1 file,")
	if n := strings.Count(output, "trying again"); n != 2 {
		t.Errorf("tried again %d times", n)
	}
	output, code = produce("--failed")
	check("the list", output, code, 0, "failing\t"+secret+"\t", "permission denied")
	output, code = produce("--failed", "-t", "other")
	check("another topic's", output, code, 0, "no file has failed")
	output, code = produce("--failed", "--json")
	check("the list as JSON", output, code, 0, `"topic":"failing"`, `"name":"secret"`, `"tries":3`)

	output, code = produce("-t", "failing", "--retry-failed", "--retries", "0")
	check("again, in vain", output, code, 1, "permission denied", "nothing could be sent")
	if err := os.Chmod(secret, 0o644); err != nil {
		t.Fatal(err)
	}
	output, code = produce("-t", "failing", "--retry-failed")
	check("again", output, code, 0, "sent 1 file, 1.0 kB")
	output, code = produce("-t", "failing", "--retry-failed")
	check("nothing is left", output, code, 0, "no file has failed for topic failing")
	commands.Run(t, "mft-consume", "-b", broker.Addr, "-t", "failing", "--dir", filepath.Join(dir, "in"), "--once")
	for _, name := range []string{"secret", "open"} {
		if _, err := os.Stat(filepath.Join(dir, "in", name)); err != nil {
			t.Error(err)
		}
	}
	// One that is gone is on the list no more.
	if err := os.Chmod(secret, 0); err != nil {
		t.Fatal(err)
	}
	output, code = produce("-t", "failing", "--retries", "0", secret)
	check("once more", output, code, 1, "permission denied")
	if err := os.Remove(secret); err != nil {
		t.Fatal(err)
	}
	output, code = produce("-t", "failing", "--retry-failed")
	check("a file that is gone", output, code, 1, "no such file")
	output, code = produce("--failed")
	check("is forgotten", output, code, 0, "no file has failed")
}
