//go:build unix

package cmd_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// entries describes all that is below dir: kind, mode, mtime and owner of
// each, content or target, extended attributes. It goes by parts, so that names
// of any bytes and of any length are found.
func entries(t *testing.T, dir string) []string {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var list []string
	var look func(root *os.Root, at string)
	look = func(root *os.Root, at string) {
		d, err := root.Open(".")
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		names, err := d.Readdirnames(-1)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			info, err := root.Lstat(name)
			if err != nil {
				t.Fatal(err)
			}
			stat := info.Sys().(*syscall.Stat_t)
			line := fmt.Sprintf("%q %v %v %d:%d", at+name, info.Mode(), info.ModTime().UTC().Format(time.RFC3339Nano), stat.Uid, stat.Gid)
			switch {
			case info.Mode()&fs.ModeSymlink != 0:
				target, err := root.Readlink(name)
				if err != nil {
					t.Fatal(err)
				}
				line += fmt.Sprintf(" -> %q", target)
			case info.IsDir():
				line += attributes(t, root, name)
				sub, err := root.OpenRoot(name)
				if err != nil {
					t.Fatal(err)
				}
				look(sub, at+name+"/")
				must(t, sub.Close())
			default:
				content, err := root.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				line += fmt.Sprintf(" %q", content) + attributes(t, root, name)
			}
			list = append(list, line)
		}
	}
	look(root, "")
	slices.Sort(list)
	return list
}

func attributes(t *testing.T, root *os.Root, name string) (text string) {
	f, err := root.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 64<<10)
	n, err := unix.Flistxattr(int(f.Fd()), buf)
	if err != nil {
		return ""
	}
	names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	slices.Sort(names)
	for _, attr := range names {
		if !strings.HasPrefix(attr, "user.") {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Fgetxattr(int(f.Fd()), attr, value)
		if err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprintf(" %s=%q", attr, value[:n])
	}
	return text
}

func sameEntries(t *testing.T, want, got []string) {
	t.Helper()
	short := func(s string) string { return s[:min(len(s), 300)] }
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("not received as sent: %s", short(line))
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("received, but not sent so: %s", short(line))
		}
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// hardCases makes a tree of all that is difficult about names and metadata.
func hardCases(t *testing.T, dir string) {
	t.Helper()
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	write := func(name, content string) {
		t.Helper()
		must(t, root.WriteFile(name, []byte(content), 0o644))
	}
	for i, name := range []string{
		"plain", "CON", "nul.txt", "trailing.", "blank ", `q?*:<>|"`, `back\slash`, "line\nbreak", "-rf", "$(touch pwned)", "'; x", "\x1b[31mred",
		"größe", "caf\xe9", "\xff\xfe", "caf\uf0e9", "README", "readme", "%41", strings.Repeat("x", 255), strings.Repeat("é", 127), ".hidden", "~", "a,b;c",
	} {
		write(name, fmt.Sprint(i))
	}
	for _, name := range []string{"empty", "sub", "sub/empty too", "locked"} {
		must(t, root.Mkdir(name, 0o755))
	}
	write("sub/readonly", "r")
	write("locked/in", "in")
	must(t, root.Chmod("sub/readonly", 0o400), root.Chmod("plain", 0o755))

	must(t, root.Symlink("plain", "link"), root.Symlink("../plain", "sub/up"), root.Symlink("nowhere/at/all", "dangling"),
		root.Symlink("sub", "dirlink"), root.Symlink("caf\xe9", "raw\xe9"), root.Symlink(".", "self"))

	// A path of 4,000 bytes, below a directory that has more of its own.
	deep, err := root.OpenRoot(".")
	must(t, err)
	for length := 0; length+1+250 < 4000-6; length += 251 {
		part := strings.Repeat("d", 250)
		must(t, deep.Mkdir(part, 0o755))
		next, err := deep.OpenRoot(part)
		must(t, err, deep.Close())
		deep = next
	}
	must(t, deep.WriteFile(strings.Repeat("f", 4000-15*251), []byte("deep"), 0o600), deep.Symlink("x", "deeplink"), deep.Close())
	// Many levels.
	levels := strings.Repeat("l/", 600)
	must(t, root.MkdirAll(levels, 0o755))
	write(levels+"f", "many levels")

	when := time.Date(2001, 2, 3, 4, 5, 6, 123456789, time.UTC)
	for _, name := range []string{"plain", "empty", "sub", "readme", "sub/empty too"} {
		must(t, root.Chtimes(name, when, when))
	}
	must(t, root.Chtimes("caf\xe9", time.Time{}, time.Date(1969, 12, 31, 0, 0, 0, 0, time.UTC)))
	must(t, root.Chmod("locked", 0o500))
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "locked"), 0o700) })
}

// setXattr sets an attribute, or tells that there are none here.
func setXattr(t *testing.T, path, name, value string) bool {
	t.Helper()
	err := unix.Setxattr(path, name, []byte(value), 0)
	if err == unix.ENOTSUP {
		return false
	}
	must(t, err)
	return true
}

// Everything of a tree arrives as it was: in clear, encrypted, over several
// streams, by all rules for conflicts.
func TestMetadata(t *testing.T) {
	source := t.TempDir()
	hardCases(t, source)
	if setXattr(t, filepath.Join(source, "plain"), "user.comment", "für \x00 alle") {
		setXattr(t, filepath.Join(source, "plain"), "user.empty", "")
		setXattr(t, filepath.Join(source, "sub"), "user.of.dir", strings.Repeat("v", 2000))
		must(t, os.Chmod(filepath.Join(source, "sub", "readonly"), 0o600))
		setXattr(t, filepath.Join(source, "sub", "readonly"), "user.x", "of a file that nobody may write")
		must(t, os.Chmod(filepath.Join(source, "sub", "readonly"), 0o400))
	} else {
		t.Log("no extended attributes on this file system: they are not tested")
	}
	if os.Geteuid() == 0 {
		must(t, os.Chown(filepath.Join(source, "plain"), 12345, 54321), os.Lchown(filepath.Join(source, "link"), 1, 1),
			os.Chown(filepath.Join(source, "empty"), 1, 54321), os.Chown(filepath.Join(source, "sub/readonly"), 2, 3))
	} else {
		t.Log("not root: owners are all this user's")
	}
	want := entries(t, source)

	key := filepath.Join(t.TempDir(), "key")
	commands.Run(t, "mft-admin", "keygen", "-o", key)
	for _, c := range []struct {
		name             string
		produce, consume []string
	}{
		{"clear", nil, nil},
		{"encrypted", []string{"--encrypt-key", key}, []string{"--decrypt-key", key}},
		{"renaming", nil, []string{"--on-conflict", "rename"}},
		{"routed", []string{"--streams", "3"}, []string{"--on-conflict", "fail", "--route", "{name}"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := startBroker(t)
			commands.Run(t, "mft-produce", append([]string{"-b", b.Addr, "-t", "t", "--owner", "--xattrs", source + "/"}, c.produce...)...)
			out := t.TempDir()
			t.Cleanup(func() { _ = os.Chmod(filepath.Join(out, "locked"), 0o700) })
			args := append([]string{"-b", b.Addr, "-t", "t", "--dir", out, "--once", "--owner", "--xattrs"}, c.consume...)
			commands.Run(t, "mft-consume", args...)
			sameEntries(t, want, entries(t, out))
			commands.Run(t, "mft-consume", append(args, "-g", "again")...) // over what is there
			sameEntries(t, want, entries(t, out))
		})
	}
}

// Without being asked, owners and attributes are neither sent nor set.
func TestMetadataIsAskedFor(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away")
	}
	source := t.TempDir()
	file := filepath.Join(source, "f")
	must(t, os.WriteFile(file, nil, 0o644), os.Chown(file, 1, 1))
	xattrs := setXattr(t, file, "user.x", "y")
	b := startBroker(t)
	commands.Run(t, "mft-produce", "-b", b.Addr, "-t", "unsent", source+"/")
	commands.Run(t, "mft-produce", "-b", b.Addr, "-t", "sent", "--owner", "--xattrs", source+"/")
	for _, c := range []struct {
		topic string
		args  []string
	}{{"unsent", []string{"--owner", "--xattrs"}}, {"sent", nil}} {
		out := t.TempDir()
		commands.Run(t, "mft-consume", append([]string{"-b", b.Addr, "-t", c.topic, "--dir", out, "--once"}, c.args...)...)
		if got := entries(t, out)[0]; !strings.Contains(got, " 0:0 ") || strings.Contains(got, "user.x") {
			t.Errorf("%s: %s", c.topic, got)
		}
	}
	if !xattrs {
		t.Log("no extended attributes on this file system: they are not tested")
	}

	// A receiver that may not says so once, and has the files.
	must(t, os.WriteFile(filepath.Join(source, "g"), nil, 0o644), os.Chown(filepath.Join(source, "g"), 2, 2))
	commands.Run(t, "mft-produce", "-b", b.Addr, "-t", "two", "--owner", source+"/")
	out := t.TempDir()
	must(t, os.Chmod(filepath.Dir(out), 0o755), os.Chmod(filepath.Dir(commands.Path("mft-consume")), 0o755), os.Chown(out, 65534, 65534))
	unprivileged := commands.StartAs(t, 65534, "mft-consume", "-b", b.Addr, "-t", "two", "--dir", out, "--once", "--owner")
	if err := unprivileged.WaitFor(time.Minute); err != nil {
		t.Fatalf("%v\n%s", err, unprivileged.Stderr.String())
	}
	if n := strings.Count(unprivileged.Stderr.String(), "run mft-consume as root, or with CAP_CHOWN, for --owner"); n != 1 {
		t.Errorf("told %d times:\n%s", n, unprivileged.Stderr.String())
	}
	if got := entries(t, out); len(got) != 2 {
		t.Errorf("%q", got)
	}
}

// Links that lead out of the directory are refused, in whatever way they try.
func TestUnsafeLinks(t *testing.T) {
	source := t.TempDir()
	for name, target := range map[string]string{
		"absolute": "/etc/passwd", "out": "..", "d/out": "../../x", "turn": "d/../../x", "d/e/ok": "../../fine", "ok": "d/e", "backslash": `..\x`,
	} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(source, name)), 0o755), os.Symlink(target, filepath.Join(source, name)))
	}
	b := startBroker(t)
	commands.Run(t, "mft-produce", "-b", b.Addr, "-t", "t", source+"/")
	out := t.TempDir()
	p := commands.Start(t, nil, "mft-consume", "-b", b.Addr, "-t", "t", "--dir", out, "--once")
	if err := p.WaitFor(time.Minute); err == nil || p.ProcessState.ExitCode() != 3 {
		t.Errorf("%v", err)
	}
	var made []string
	for _, line := range entries(t, out) {
		if name, target, ok := strings.Cut(line, " -> "); ok {
			made = append(made, strings.Trim(strings.Fields(name)[0], `"`)+" "+strings.Trim(target, `"`))
		}
	}
	if want := []string{"d/e/ok ../../fine", "ok d/e"}; !slices.Equal(made, want) {
		t.Errorf("made %q, want %q\n%s", made, want, p.Stderr.String())
	}
	for _, want := range []string{`refused "absolute": it is a link to "/etc/passwd", which is absolute: --unsafe-links`, `refused "d/out"`, `refused "turn"`} {
		if !strings.Contains(p.Stderr.String(), want) {
			t.Errorf("not told: %s\n%s", want, p.Stderr.String())
		}
	}
	commands.Run(t, "mft-consume", "-b", b.Addr, "-t", "t", "--dir", out, "--once", "-g", "unsafe", "--unsafe-links")
	sameEntries(t, entries(t, source), entries(t, out))

	// A link that is not refused by itself, in a directory that is a link, is.
	must(t, os.RemoveAll(source), os.MkdirAll(filepath.Join(source, "real/in"), 0o755), os.Symlink("../../x", filepath.Join(source, "real/in/l")))
	linked := t.TempDir()
	must(t, os.Symlink(".", filepath.Join(linked, "real")), os.Mkdir(filepath.Join(linked, "in"), 0o755))
	commands.Run(t, "mft-produce", "-b", b.Addr, "-t", "u", source+"/")
	p = commands.Start(t, nil, "mft-consume", "-b", b.Addr, "-t", "u", "--dir", linked, "--once")
	if err := p.WaitFor(time.Minute); err == nil || !strings.Contains(p.Stderr.String(), "in a directory that is a link itself") {
		t.Errorf("%v: %s", err, p.Stderr.String())
	}
	if _, err := os.Lstat(filepath.Join(linked, "in", "l")); err == nil {
		t.Error("a link out of the directory was made")
	}
}
