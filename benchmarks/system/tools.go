package system

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"mft/internal/kafkajars"
)

// Tools are the programs that the benchmarks run.
type Tools struct {
	MFT    string // directory of mft's commands
	Java   string
	Jars   string // class path
	Format string // directory that Kafka has formatted, to begin with copies of it
	NATS   string // directory of nats-server and nats-bench
	Croc   string
	// Paths of what comes with the operating system, by name.
	Paths map[string]string

	Versions  map[string]string // by system
	Installed map[string]int64  // bytes of what is installed to run a system, by system
	Missing   map[string]string // why a system is left out
}

// crocVersion is the one that is built.
const crocVersion = "v10.7.0"

// Systems are what can be compared, in the order of tables.
var Systems = []string{"mft", "kafka", "nats", "rsync", "scp", "nc", "croc"}

// packages of Debian that bring a program.
var packages = map[string]string{
	"java": "openjdk-17-jre-headless", "mvn": "maven", "rsync": "rsync", "scp": "openssh-client", "sshd": "openssh-server", "nc": "netcat-openbsd",
}

// Prepare builds and fetches what the wanted systems need, into dir and a cache. What cannot be had is named in Missing.
// install allows to install packages of Debian. Only mft itself has to be there.
func Prepare(ctx context.Context, dir string, want []string, install bool, say func(format string, args ...any)) (*Tools, error) {
	t := &Tools{
		MFT: filepath.Join(dir, "mft"), Paths: make(map[string]string),
		Versions: make(map[string]string), Installed: make(map[string]int64), Missing: make(map[string]string),
	}
	if err := t.mft(ctx); err != nil {
		return nil, err
	}
	var need []string
	for _, s := range want {
		need = append(need, map[string][]string{"kafka": {"java", "mvn"}, "rsync": {"rsync"}, "scp": {"scp", "sshd"}, "nc": {"nc"}}[s]...)
	}
	if err := aptInstall(ctx, need, install, say); err != nil {
		say("%v", err)
	}
	for _, s := range want {
		var err error
		switch s {
		case "kafka":
			err = t.kafka(ctx, filepath.Join(dir, "kafka-format"))
		case "nats":
			err = t.nats(ctx, filepath.Join(dir, "nats"))
		case "croc":
			err = t.croc(ctx)
		case "rsync":
			err = t.find(ctx, s, "rsync", "--version")
		case "scp":
			// The server asks to be called by its whole path.
			if err = t.find(ctx, s, "scp"); err == nil {
				if err = t.find(ctx, s, "sshd"); err == nil {
					err = t.find(ctx, s, "ssh-keygen")
				}
			}
			if out, e := exec.CommandContext(ctx, "ssh", "-V").CombinedOutput(); err == nil && e == nil {
				t.Versions[s] = firstLine(out)
			}
		case "nc":
			if err = t.find(ctx, s, "nc"); err == nil {
				err = t.find(ctx, s, "tar", "--version")
				t.Versions[s] = debianVersion(ctx, "netcat-openbsd")
			}
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			t.Missing[s] = err.Error()
			say("%s is left out: %v", s, err)
		}
	}
	return t, nil
}

// Has says whether a system can be run.
func (t *Tools) Has(name string) bool { return t.Versions[name] != "" && t.Missing[name] == "" }

func (t *Tools) mft(ctx context.Context) error {
	c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", t.MFT+string(filepath.Separator), "mft/cmd/...")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("build mft: %w\n%s", err, out)
	}
	version, err := exec.CommandContext(ctx, t.Command("mft-broker"), "--version").Output()
	if err != nil {
		return err
	}
	t.Versions["mft"] = firstLine(version)
	if out, err := exec.CommandContext(ctx, "git", "rev-parse", "--short", "HEAD").Output(); err == nil && !strings.Contains(t.Versions["mft"], firstLine(out)) {
		t.Versions["mft"] += ", commit " + firstLine(out)
	}
	for _, name := range []string{"mft-broker", "mft-produce", "mft-consume", "mft-admin"} {
		info, err := os.Stat(t.Command(name))
		if err != nil {
			return err
		}
		t.Installed["mft"] += info.Size()
	}
	return nil
}

// Command is the path of one of mft's commands.
func (t *Tools) Command(name string) string {
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	return filepath.Join(t.MFT, name)
}

func (t *Tools) kafka(ctx context.Context, format string) (err error) {
	if t.Java, err = kafkajars.Java(); err != nil {
		return err
	}
	if t.Jars, err = kafkajars.Classpath(); err != nil {
		return err
	}
	for jar := range strings.SplitSeq(t.Jars, string(filepath.ListSeparator)) {
		info, err := os.Stat(jar)
		if err != nil {
			return err
		}
		t.Installed["kafka"] += info.Size()
	}
	java, err := filepath.EvalSymlinks(t.Java)
	if err != nil {
		return err
	}
	runtime, err := DiskUse(filepath.Dir(filepath.Dir(java)))
	if err != nil {
		return err
	}
	t.Installed["kafka"] += runtime.Size
	if err := formatKafka(ctx, t, format); err != nil {
		return err
	}
	t.Format = format
	out, err := exec.CommandContext(ctx, t.Java, "-version").CombinedOutput()
	if err != nil {
		return err
	}
	t.Versions["kafka"] = kafkajars.Version + ", " + firstLine(out)
	return nil
}

// nats builds the server and its client from a module of its own, which holds their versions.
func (t *Tools) nats(ctx context.Context, dir string) error {
	top, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "mft").Output()
	if err != nil {
		return err
	}
	const server = "github.com/nats-io/nats-server/v2"
	for name, pkg := range map[string]string{"nats-bench": ".", "nats-server": server} {
		c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, name), pkg)
		c.Dir, c.Env = filepath.Join(strings.TrimSpace(string(top)), "benchmarks", "nats"), append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	t.NATS = dir
	info, err := os.Stat(filepath.Join(dir, "nats-server"))
	if err != nil {
		return err
	}
	t.Installed["nats"] = info.Size()
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "nats-server"), "--version").Output()
	t.Versions["nats"] = strings.TrimPrefix(firstLine(out), "nats-server: ")
	return err
}

// croc is built once, into the cache.
func (t *Tools) croc(ctx context.Context) error {
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	dir := filepath.Join(cache, "mft-ci", "croc-"+crocVersion)
	t.Croc = filepath.Join(dir, "croc")
	if _, err := os.Stat(t.Croc); err != nil {
		c := exec.CommandContext(ctx, "go", "install", "-trimpath", "-ldflags=-s -w", "github.com/schollz/croc/v10@"+crocVersion)
		c.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=", "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("build croc: %w\n%s", err, out)
		}
	}
	info, err := os.Stat(t.Croc)
	if err != nil {
		return err
	}
	t.Versions["croc"], t.Installed["croc"] = crocVersion, info.Size()
	return nil
}

// find looks up a program of the operating system, and asks it for its version.
func (t *Tools) find(ctx context.Context, system, name string, version ...string) error {
	path, err := exec.LookPath(name)
	if err != nil && name == "sshd" {
		path, err = exec.LookPath("/usr/sbin/sshd")
	}
	if err != nil {
		return fmt.Errorf("%s is not installed", name)
	}
	if t.Paths[name], err = filepath.Abs(path); err != nil {
		return err
	}
	t.Versions[system] = name
	if len(version) > 0 {
		out, err := exec.CommandContext(ctx, path, version...).Output()
		if err != nil {
			return fmt.Errorf("%s %s: %w", name, strings.Join(version, " "), err)
		}
		t.Versions[system] = firstLine(out)
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(real)
	if err != nil {
		return err
	}
	t.Installed[system] += info.Size()
	return nil
}

// aptInstall installs the packages of programs that are missing, where it may.
func aptInstall(ctx context.Context, programs []string, install bool, say func(string, ...any)) error {
	var missing []string
	for _, p := range programs {
		_, err := exec.LookPath(p)
		if err != nil && p == "sshd" {
			_, err = os.Stat("/usr/sbin/sshd")
		}
		if err != nil && !slices.Contains(missing, packages[p]) {
			missing = append(missing, packages[p])
		}
	}
	apt, err := exec.LookPath("apt-get")
	if len(missing) == 0 || err != nil || !install || os.Geteuid() != 0 {
		return nil
	}
	say("installing %s", strings.Join(missing, " "))
	for _, args := range [][]string{{"-qq", "update"}, append([]string{"-qq", "-y", "--no-install-recommends", "install"}, missing...)} {
		c := exec.CommandContext(ctx, apt, args...)
		c.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

func debianVersion(ctx context.Context, name string) string {
	out, err := exec.CommandContext(ctx, "dpkg-query", "-W", "-f", "${Package} ${Version}", name).Output()
	if err != nil {
		return "nc"
	}
	return firstLine(out)
}

func firstLine(text []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	return strings.TrimSpace(line)
}

// Disk is what a directory takes.
type Disk struct {
	Files     int
	Size      int64 // of the files, in bytes
	Allocated int64 // bytes of the disk
}

// DiskUse adds up the regular files in a directory.
func DiskUse(dir string) (all Disk, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // gone meanwhile
			return nil
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		all.Files++
		all.Size += info.Size()
		all.Allocated += Allocated(info)
		return nil
	})
	return all, err
}
