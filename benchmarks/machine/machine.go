// Package machine tells what the benchmarks run on, and measures what it can do: the yardstick beside every figure.
package machine

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/dustin/go-humanize"
)

// Hardware is what the benchmarks run on.
type Hardware struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory string `json:"memory"`
	System string `json:"system"`
	Disk   string `json:"disk"` // file system and device of the work directory
	Go     string `json:"go"`
}

// Look looks at the machine; dir is where the benchmarks work. What the system does not tell is "unknown".
func Look(dir string) Hardware {
	h := Hardware{CPU: "unknown", Cores: runtime.NumCPU(), Memory: "unknown", System: runtime.GOOS + "/" + runtime.GOARCH, Disk: "unknown", Go: runtime.Version()}
	if name, ok := field("/proc/cpuinfo", "model name"); ok {
		h.CPU = name
	}
	if total, ok := field("/proc/meminfo", "MemTotal"); ok {
		var kb uint64
		if n, err := fmt.Sscanf(total, "%d kB", &kb); n == 1 && err == nil {
			h.Memory = humanize.IBytes(kb << 10)
		}
	}
	if out, err := exec.Command("uname", "-sr").Output(); err == nil {
		h.System = strings.TrimSpace(string(out)) + " " + runtime.GOARCH
	}
	if out, err := exec.Command("df", "--output=fstype,source", dir).Output(); err == nil {
		if lines := strings.Split(strings.TrimSpace(string(out)), "\n"); len(lines) == 2 {
			h.Disk = strings.Join(strings.Fields(lines[1]), " on ")
		}
	}
	return h
}

// Load is the load average of the last minute; false where the system does not tell.
func Load() (float64, bool) {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, false
	}
	var load float64
	n, err := fmt.Sscan(string(text), &load)
	return load, n == 1 && err == nil
}

// field finds the first line "name: value" of a file.
func field(file, name string) (string, bool) {
	f, err := os.Open(file)
	if err != nil {
		return "", false
	}
	defer func() { _ = f.Close() }() // only read
	for s := bufio.NewScanner(f); s.Scan(); {
		if k, v, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v), true
		}
	}
	return "", false
}
