// Package commandtest runs mft's commands as users do, as processes, in tests
// and benchmarks.
package commandtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// Commands are the built programs.
type Commands struct{ dir string }

// Build builds every command into dir.
func Build(dir string) (*Commands, error) {
	c := exec.Command("go", "build", "-o", dir+string(filepath.Separator), "mft/cmd/...")
	if out, err := c.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build: %w\n%s", err, out)
	}
	return &Commands{dir}, nil
}

// Main builds the commands for the tests of a package, sets *commands, runs the
// tests, and returns the exit code for TestMain.
func Main(m *testing.M, commands **Commands) int {
	dir, err := os.MkdirTemp("", "mft-commands-")
	if err == nil {
		*commands, err = Build(dir)
	}
	code := 1
	if err == nil {
		code = m.Run()
	}
	if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// Path returns the path of a command.
func (c *Commands) Path(name string) string {
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	return filepath.Join(c.dir, name)
}

// Process is a running command. Its output is kept.
type Process struct {
	*exec.Cmd
	t      testing.TB
	Stdout Output
	Stderr Output
	done   chan struct{}
	err    error
}

// Start starts a command; it is killed when the test ends, if it still runs.
// A nil stdin is empty.
func (c *Commands) Start(t testing.TB, stdin io.Reader, name string, args ...string) *Process {
	t.Helper()
	p := c.process(t, name, args)
	p.Stdin, p.Cmd.Stdout = stdin, &p.Stdout
	return p.start()
}

// StartTo is Start for a command without standard input whose standard output
// is stdout.
func (c *Commands) StartTo(t testing.TB, stdout *os.File, name string, args ...string) *Process {
	t.Helper()
	p := c.process(t, name, args)
	p.Cmd.Stdout = stdout
	return p.start()
}

// StartAs is Start without standard input, as another user, by number. It takes
// root.
func (c *Commands) StartAs(t testing.TB, uid uint32, name string, args ...string) *Process {
	t.Helper()
	p := c.process(t, name, args)
	p.Cmd.Stdout = &p.Stdout
	asUser(p.Cmd, uid)
	return p.start()
}

func (c *Commands) process(t testing.TB, name string, args []string) *Process {
	p := &Process{t: t, Cmd: exec.Command(c.Path(name), args...), done: make(chan struct{})}
	p.Cmd.Stderr = &p.Stderr
	p.Env = append(os.Environ(), "XDG_STATE_HOME="+filepath.Join(c.dir, "state"))
	return p
}

func (p *Process) start() *Process {
	p.t.Helper()
	p.WaitDelay = time.Second
	if err := p.Cmd.Start(); err != nil {
		p.t.Fatalf("start %s: %v", p.Cmd.Path, err)
	}
	go func() {
		p.err = p.Cmd.Wait()
		p.Stdout.close()
		p.Stderr.close()
		close(p.done)
	}()
	p.t.Cleanup(p.KillNow)
	return p
}

// Pid is the process id.
func (p *Process) Pid() int { return p.Process.Pid }

// Run runs a command to its end and returns its standard output; the test
// fails when it does not end well, or not within five minutes.
func (c *Commands) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	return c.Pipe(t, nil, name, args...)
}

// Pipe is Run with standard input.
func (c *Commands) Pipe(t testing.TB, stdin io.Reader, name string, args ...string) string {
	t.Helper()
	p := c.Start(t, stdin, name, args...)
	if err := p.WaitFor(5 * time.Minute); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, p.Stderr.String())
	}
	return p.Stdout.String()
}

// WaitFor waits for the end of the process and returns how it ended. A
// process that does not end in time is killed, which is an error.
func (p *Process) WaitFor(limit time.Duration) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.done:
		return p.err
	case <-timer.C:
		p.KillNow()
		return fmt.Errorf("still running after %v", limit)
	}
}

// Done is closed when the process has ended; Err then says how.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err returns how the process ended, which it must have.
func (p *Process) Err() error {
	<-p.done
	return p.err
}

// KillNow ends the process as kill -9 does and waits until it is gone.
func (p *Process) KillNow() {
	if err := p.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("kill: %v", err)
	}
	<-p.done
}

// Broker is a running mft-broker.
type Broker struct {
	*Process
	Addr string
}

// StartBroker starts mft-broker on data and waits until it serves. An empty
// addr takes a free loopback port.
func (c *Commands) StartBroker(t testing.TB, data, addr string, args ...string) *Broker {
	t.Helper()
	b := c.BeginBroker(t, data, addr, args...)
	if err := b.WaitServing(); err != nil {
		t.Fatal(err)
	}
	return b
}

// BeginBroker starts mft-broker on data without waiting for anything.
func (c *Commands) BeginBroker(t testing.TB, data, addr string, args ...string) *Broker {
	t.Helper()
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	p := c.Start(t, nil, "mft-broker", append([]string{"--data", data, "--listen", addr, "--log-format", "json"}, args...)...)
	return &Broker{p, addr}
}

// WaitServing waits until the broker serves, and sets Addr to where.
func (b *Broker) WaitServing() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var line struct{ Addr, Message string }
	for at := 0; ; {
		text, next, err := b.Stderr.Line(ctx, at)
		if err != nil {
			return fmt.Errorf("mft-broker does not listen: %w\n%s", err, b.Stderr.String())
		}
		at = next
		if json.Unmarshal([]byte(text), &line) == nil && line.Message == "listening" {
			b.Addr = line.Addr
			return nil
		}
	}
}

// Output collects what a process prints, and lets others wait for lines.
type Output struct {
	mu     sync.Mutex
	buf    bytes.Buffer
	closed bool
	more   chan struct{} // closed and replaced at each write
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wake()
	return o.buf.Write(p)
}

func (o *Output) wake() {
	if o.more != nil {
		close(o.more)
		o.more = nil
	}
}

func (o *Output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.wake()
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Line returns the line that begins at byte at, without its newline, and
// where the next one begins. It waits for a whole line; io.EOF: the process
// ended without one.
func (o *Output) Line(ctx context.Context, at int) (line string, next int, err error) {
	for {
		o.mu.Lock()
		rest := o.buf.Bytes()[at:]
		if i := bytes.IndexByte(rest, '\n'); i >= 0 {
			line := string(rest[:i])
			o.mu.Unlock()
			return line, at + i + 1, nil
		}
		if o.closed {
			o.mu.Unlock()
			return "", at, io.EOF
		}
		if o.more == nil {
			o.more = make(chan struct{})
		}
		more := o.more
		o.mu.Unlock()
		select {
		case <-more:
		case <-ctx.Done():
			return "", at, ctx.Err()
		}
	}
}
