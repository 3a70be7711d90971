// Package system fetches, starts and stops what the benchmarks compare: brokers, and other ways to move files.
package system

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Process is a program under way. It is the head of a process group, which ends with it.
type Process struct {
	cmd  *exec.Cmd
	log  *tail
	done chan struct{}
	err  error
}

// Command is what to run.
type Command struct {
	Path string
	Args []string
	Dir  string
	Env  []string // added to this process's
	// Stdin and Stdout are as in exec.Cmd. Without Stdout, both outputs are kept for errors.
	Stdin  io.Reader
	Stdout io.Writer
}

// Start starts a program. When ctx ends, it is killed.
func (c Command) Start(ctx context.Context) (*Process, error) {
	p := &Process{cmd: exec.CommandContext(ctx, c.Path, c.Args...), log: &tail{}, done: make(chan struct{})}
	p.cmd.Dir, p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = c.Dir, c.Stdin, c.Stdout, p.log
	if c.Stdout == nil {
		p.cmd.Stdout = p.log
	}
	p.cmd.Env = append(os.Environ(), c.Env...)
	p.cmd.WaitDelay = 5 * time.Second
	ownGroup(p.cmd)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Run runs a program to its end and returns how it used the machine.
func (c Command) Run(ctx context.Context) (Usage, error) {
	start := time.Now()
	p, err := c.Start(ctx)
	if err != nil {
		return Usage{}, err
	}
	if err := p.Wait(); err != nil {
		return Usage{}, err
	}
	return Usage{Wall: time.Since(start), CPU: p.CPUOnceEnded()}, nil
}

// Output runs a program to its end and returns what it printed on its standard output.
func (c Command) Output(ctx context.Context) ([]byte, error) {
	var out bytes.Buffer
	c.Stdout = &out
	_, err := c.Run(ctx)
	return out.Bytes(), err
}

// Usage is how a program that has ended used the machine.
type Usage struct {
	Wall time.Duration
	CPU  float64 // seconds, user and system
}

// Pid is the process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end of the program. An error quotes the end of what it printed.
func (p *Process) Wait() error {
	<-p.done
	if p.err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w%s", filepath.Base(p.cmd.Path), p.err, p.log.quote())
}

// CPUOnceEnded is how many seconds of CPU the program used, which must have ended.
func (p *Process) CPUOnceEnded() float64 {
	<-p.done
	s := p.cmd.ProcessState
	return (s.UserTime() + s.SystemTime()).Seconds()
}

// Stop ends the program and what it started: by the signal to terminate, and when it does not heed that in time, by force.
func (p *Process) Stop(patience time.Duration) error {
	select {
	case <-p.done:
		return p.Wait()
	default:
	}
	if err := terminate(p.cmd.Process.Pid); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.done:
		kill(p.cmd.Process.Pid)
		return nil
	case <-timer.C:
		kill(p.cmd.Process.Pid)
		<-p.done
		return fmt.Errorf("%s did not stop within %v, and was killed%s", filepath.Base(p.cmd.Path), patience, p.log.quote())
	}
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailSize = 4 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if n := len(t.buf) - tailSize; n > 0 {
		t.buf = append(t.buf[:0], t.buf[n:]...)
	}
	return len(b), nil
}

func (t *tail) quote() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := strings.TrimSpace(string(t.buf)); s != "" {
		return "\n\t" + strings.ReplaceAll(s, "\n", "\n\t")
	}
	return ""
}
