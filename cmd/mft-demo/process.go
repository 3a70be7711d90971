package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"mft/internal/terminal"
)

// grace is how long a program that was asked to stop has to do so.
const grace = 10 * time.Second

// exec makes a command of one of our programs, to be run in the temporary
// directory. When ctx ends it is asked to stop, and killed if it does not.
func (d *demo) exec(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, d.program(name), args...)
	cmd.Dir = d.dir
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "MFT_") })
	cmd.Env = append(cmd.Env, "MFT_STATE="+filepath.Join(d.dir, "state"))
	if d.address != "" {
		cmd.Env = append(cmd.Env, "MFT_BROKERS="+d.address)
	}
	cmd.Cancel = func() error { return interrupt(cmd.Process, syscall.SIGTERM) }
	cmd.WaitDelay = grace
	return cmd
}

// interrupt asks a process to stop; Windows has no way to ask.
func interrupt(p *os.Process, signal os.Signal) error {
	if runtime.GOOS == "windows" {
		return p.Kill()
	}
	return p.Signal(signal)
}

// command shows a command, runs it to its end and shows what it printed.
func (d *demo) command(ctx context.Context, limit time.Duration, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	d.prompt(name + " " + strings.Join(args, " "))
	output, err := d.exec(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w", name, failure(ctx, err, output))
	}
	d.say("%s", output)
	return nil
}

// failure is why a command failed: the deadline, or what it printed last.
func failure(ctx context.Context, err error, output []byte) error {
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	lines := strings.Split(strings.TrimSpace(string(output)), "\n")
	if last := strings.Join(lines[max(0, len(lines)-10):], "\n  "); last != "" {
		return fmt.Errorf("%w\n  %s", err, last)
	}
	return err
}

// process is a program that runs beside the demo.
type process struct {
	cmd    *exec.Cmd
	cancel context.CancelFunc
	log    *tail
}

// stop asks the process to end and waits until it has.
func (p *process) stop() error {
	p.cancel()
	return p.wait()
}

// wait waits until the process has ended; having been asked to is no failure.
func (p *process) wait() error {
	defer p.cancel()
	err := p.cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && runtime.GOOS == "windows" && !exit.Success() {
		return nil // it was killed
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w\n  %s", err, p.log)
	}
	return nil
}

// startBroker starts mft-broker on a free port and waits until it listens.
func (d *demo) startBroker(ctx context.Context) (*process, error) {
	args := []string{"--data", "data", "--listen", "127.0.0.1:0", "--log-format", "json"} // the log tells the port
	d.prompt("mft-broker " + strings.Join(args, " ") + " &")
	start := time.Now()
	running, cancel := context.WithCancel(ctx)
	cmd := d.exec(running, "mft-broker", args...)
	p := &process{cmd: cmd, cancel: cancel, log: &tail{}}
	addresses := make(chan string, 1)
	cmd.Stderr = &brokerLog{tail: p.log, addresses: addresses}
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	timeout := time.NewTimer(startTime)
	defer timeout.Stop()
	select {
	case d.address = <-addresses:
		d.say("listening on %s after %s", d.address, terminal.Seconds(time.Since(start)))
		d.prompt("export MFT_BROKERS=" + d.address)
		return p, nil
	case <-timeout.C:
		return nil, errors.Join(fmt.Errorf("it does not listen after %s\n  %s", startTime, p.log), p.stop())
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), p.stop())
	}
}

// brokerLog watches the broker's log for the address that it listens on.
type brokerLog struct {
	*tail
	addresses chan<- string
	rest      []byte
}

func (b *brokerLog) Write(p []byte) (int, error) {
	b.rest = append(b.rest, p...)
	for {
		line, rest, ok := bytes.Cut(b.rest, []byte("\n"))
		if !ok {
			return b.tail.Write(p)
		}
		b.rest = rest
		var entry struct{ Message, Addr string }
		if json.Unmarshal(line, &entry) == nil && entry.Message == "listening" && entry.Addr != "" {
			select {
			case b.addresses <- entry.Addr:
			default: // it has been told already
			}
		}
	}
}
