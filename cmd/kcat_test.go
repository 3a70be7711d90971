package cmd_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"sort"
	"strings"
	"testing"
	"time"

	"mft/internal/commandtest"
)

// exitCode is the code a process ended with, -1 when it has none.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

// kcat runs Debian's kcat (librdkafka) against a broker.
func kcat(t *testing.T, b *commandtest.Broker, stdin string, args ...string) string {
	t.Helper()
	c := exec.CommandContext(withDeadline(t, time.Minute), kcatPath(t), append([]string{"-b", b.Addr}, args...)...)
	c.Stdin = strings.NewReader(stdin)
	var stderr strings.Builder
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("kcat %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

func kcatPath(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("kcat")
	if err != nil {
		t.Skip("kcat is not installed: apt-get install kcat")
	}
	return path
}

func TestKcatListsMetadata(t *testing.T) {
	b := startBroker(t)
	commands.Run(t, "mft-admin", "topics", "create", "-b", b.Addr, "-p", "3", "orders")
	out := kcat(t, b, "", "-L")
	for _, want := range []string{"broker 1 at " + b.Addr, `topic "orders" with 3 partitions`, "partition 2, leader 1"} {
		if !strings.Contains(out, want) {
			t.Errorf("kcat -L does not show %q:\n%s", want, out)
		}
	}
}

func TestKcatProducesAndConsumesEveryCodec(t *testing.T) {
	b := startBroker(t)
	var in, want strings.Builder
	for i := range 300 {
		fmt.Fprintf(&in, "key%d=value %d\n", i, i)
		fmt.Fprintf(&want, "%d|key%d|value %d|a=1,b=two\n", i, i, i)
	}
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		t.Run(codec, func(t *testing.T) {
			topic := "t-" + codec
			args := []string{"-P", "-t", topic, "-K=", "-H", "a=1", "-H", "b=two", "-X", "enable.idempotence=true"}
			if codec != "none" {
				args = append(args, "-z", codec)
			}
			kcat(t, b, in.String(), args...)
			if got := kcat(t, b, "", "-C", "-q", "-t", topic, "-o", "beginning", "-e", "-f", "%o|%k|%s|%h\n"); got != want.String() {
				t.Errorf("kcat read back\n%.300s", got)
			}
			if got := commands.Run(t, "mft-consume", "-b", b.Addr, "-t", topic, "--from", "beginning", "--format", `%o|%k|%s|%h\n`); got != want.String() {
				t.Errorf("mft-consume read\n%.300s", got)
			}
		})
	}
}

func TestKcatReadsWhatMftProduces(t *testing.T) {
	b := startBroker(t)
	commands.Pipe(t, strings.NewReader("k1:one\nk2:two\n"), "mft-produce", "-b", b.Addr, "-t", "t", "--key-delim", ":", "--header", "from=test", "--compress", "zstd")
	if got, want := kcat(t, b, "", "-C", "-q", "-t", "t", "-e", "-f", "%k=%s %h\n"), "k1=one from=test\nk2=two from=test\n"; got != want {
		t.Errorf("kcat read %q, want %q", got, want)
	}
}

// groupMember is a running `kcat -G`.
type groupMember struct {
	cmd    *exec.Cmd
	out    commandtest.Output
	err    commandtest.Output
	ended  chan struct{}
	cancel context.CancelFunc
}

func startMember(t *testing.T, b *commandtest.Broker, path string) *groupMember {
	t.Helper()
	ctx, cancel := context.WithCancel(withDeadline(t, 2*time.Minute))
	m := &groupMember{cancel: cancel, ended: make(chan struct{})}
	m.cmd = exec.CommandContext(ctx, path, "-b", b.Addr, "-u", "-G", "readers", "-X", "auto.offset.reset=earliest",
		"-X", "session.timeout.ms=6000", "-X", "heartbeat.interval.ms=200", "-f", "%p %s\n", "grouped")
	m.cmd.Stdout, m.cmd.Stderr = &m.out, &m.err
	m.cmd.Cancel = func() error { return m.cmd.Process.Signal(os.Interrupt) }
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(m.ended)
		// An interrupted kcat ends as it likes.
		_ = m.cmd.Wait()
	}()
	t.Cleanup(m.leave)
	return m
}

func (m *groupMember) leave() {
	m.cancel()
	<-m.ended
}

var assigned = regexp.MustCompile(`assigned: (.*)`)

// assignment waits until the member's latest assignment has n partitions.
func (m *groupMember) assignment(t *testing.T, n int) {
	t.Helper()
	ctx := withDeadline(t, time.Minute)
	for at := 0; ; {
		line, next, err := m.err.Line(ctx, at)
		if err != nil {
			t.Fatalf("no assignment of %d partitions: %v\n%s", n, err, m.err.String())
		}
		at = next
		if got := assigned.FindStringSubmatch(line); got != nil && strings.Count(got[1], "[") == n {
			return
		}
	}
}

func TestKcatGroupRebalances(t *testing.T) {
	path := kcatPath(t)
	b := startBroker(t)
	commands.Run(t, "mft-admin", "topics", "create", "-b", b.Addr, "-p", "4", "grouped")

	first := startMember(t, b, path)
	first.assignment(t, 4)
	second := startMember(t, b, path)
	second.assignment(t, 2)
	first.assignment(t, 2)

	for p := range 4 {
		kcat(t, b, fmt.Sprintf("a%d\n", p), "-P", "-t", "grouped", "-p", fmt.Sprint(p))
	}
	lines := readLines(t, 4, first, second)
	if want := []string{"0 a0", "1 a1", "2 a2", "3 a3"}; fmt.Sprint(lines) != fmt.Sprint(want) {
		t.Errorf("two members read %q", lines)
	}

	second.leave()
	first.assignment(t, 4)
	for p := range 4 {
		kcat(t, b, fmt.Sprintf("b%d\n", p), "-P", "-t", "grouped", "-p", fmt.Sprint(p))
	}
	lines = readLines(t, 8, first, second)
	if want := []string{"0 a0", "0 b0", "1 a1", "1 b1", "2 a2", "2 b2", "3 a3", "3 b3"}; fmt.Sprint(lines) != fmt.Sprint(want) {
		t.Errorf("after one left, read in all: %q", lines)
	}
	first.leave()

	out := commands.Run(t, "mft-admin", "groups", "describe", "-b", b.Addr, "readers")
	if !strings.Contains(out, "grouped") {
		t.Errorf("mft-admin groups describe:\n%s", out)
	}
}

// readLines waits until the members have printed n lines in all, and returns
// them sorted.
func readLines(t *testing.T, n int, members ...*groupMember) []string {
	t.Helper()
	ctx := withDeadline(t, time.Minute)
	type read struct {
		line string
		err  error
	}
	all := make(chan read)
	reading, stop := context.WithCancel(ctx)
	defer stop()
	for _, m := range members {
		go func() {
			for at := 0; ; {
				line, next, err := m.out.Line(reading, at)
				if errors.Is(err, io.EOF) {
					return
				}
				select {
				case all <- read{line, err}:
				case <-reading.Done():
					return
				}
				if err != nil {
					return
				}
				at = next
			}
		}()
	}
	var lines []string
	for len(lines) < n {
		select {
		case r := <-all:
			if r.err != nil {
				t.Fatalf("%d of %d lines: %v", len(lines), n, r.err)
			}
			lines = append(lines, r.line)
		case <-ctx.Done():
			t.Fatalf("%d of %d lines: %q\n%s\n%s", len(lines), n, lines, members[0].err.String(), members[1].err.String())
		}
	}
	sort.Strings(lines)
	return lines
}
