//go:build unix

package cmd_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"mft/internal/commandtest"
)

// units are those of docs/systemd, with the commands that were built in the
// place of installed ones.
func units(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../docs/systemd/*.service")
	if err != nil || len(files) != 3 {
		t.Fatal(files, err)
	}
	units := make(map[string]string)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		units[filepath.Base(file)] = strings.ReplaceAll(string(text), "/usr/local/bin/", filepath.Dir(commands.Path("mft-broker"))+"/")
	}
	return units
}

// systemd finds nothing wrong in the units, and little left open.
func TestUnitsVerify(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is missing: ", err)
	}
	dir := t.TempDir()
	for name, text := range units(t) {
		write(t, filepath.Join(dir, name), text)
	}
	analyze := func(args ...string) {
		t.Helper()
		c := exec.Command("systemd-analyze", args...)
		c.Dir = dir
		if out, err := c.CombinedOutput(); err != nil || strings.Contains(string(out), "nknown") {
			t.Errorf("systemd-analyze %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	for name := range units(t) {
		analyze("verify", "--man=no", "./"+name)
		analyze("security", "--offline=true", "--threshold=25", "--no-pager", "./"+name)
	}
}

// The commands of the units are understood, with other files and directories.
func TestUnitsRun(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "out"), "bytes")
	config := filepath.Join(dir, "transfer.yml")
	write(t, config, "broker: {listen: '127.0.0.1:0'}\ntransfers: {topic: t, source: "+filepath.Join(dir, "out")+", destination: "+filepath.Join(dir, "in")+"}\n")
	line := regexp.MustCompile(`(?m)^ExecStart=(.*)$`)
	words := func(unit string) []string {
		found := line.FindStringSubmatch(units(t)[unit])
		if found == nil {
			t.Fatalf("%s has no ExecStart", unit)
		}
		text := strings.NewReplacer("/etc/mft/transfer.yml", config, "/var/lib/mft", filepath.Join(dir, "state")).Replace(found[1])
		list := strings.Fields(text)
		return append([]string{filepath.Base(list[0])}, list[1:]...)
	}

	// Type=notify: systemd waits for this.
	socket := filepath.Join(dir, "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", socket)
	args := words("mft-broker.service")
	b := &commandtest.Broker{Process: commands.Start(t, nil, args[0], append(args[1:], "--log-format", "json")...)}
	if err := manager.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	var notice [100]byte
	n, err := manager.Read(notice[:])
	if err != nil || string(notice[:n]) != "READY=1" {
		t.Fatalf("the broker notifies %q, %v\n%s", notice[:n], err, b.Stderr.String())
	}
	if err := b.WaitServing(); err != nil {
		t.Fatal(err)
	}
	t.Setenv("MFT_BROKERS", b.Addr)
	args = words("mft-produce.service")
	commands.Run(t, args[0], args[1:]...)
	args = words("mft-consume.service")
	c := commands.Start(t, nil, args[0], args[1:]...)
	awaitEqual(t, filepath.Join(dir, "in", "out"), []byte("bytes"), c.Stderr.String)
	for _, p := range []*commandtest.Process{c, b.Process} { // as systemctl stop does
		if err := p.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := p.WaitFor(time.Minute); err != nil {
			t.Errorf("%s: %v\n%s", filepath.Base(p.Path), err, p.Stderr.String())
		}
	}
}
