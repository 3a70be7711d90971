// Command mft-demo shows mft's main job on a fresh machine: it builds the
// programs, starts a broker, sends a file and a directory, receives them
// somewhere else, compares, streams lines live, and removes everything again.
// It runs the commands as a user would; nothing in them knows of it.
//
//	go run ./cmd/mft-demo
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"mft/internal/command"
	"mft/internal/terminal"
)

func main() { command.Main(newDemo()) }

func newDemo() *cobra.Command {
	size := "64MiB"
	cmd := &cobra.Command{
		Use:   "mft-demo",
		Short: "Send a file, a directory and live lines through a real broker, and compare.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			bytes, err := humanize.ParseBytes(size)
			if err != nil || bytes < 1 || bytes > 1<<40 {
				return command.Usagef("--size %q: give a size such as 64MiB or 1GB", size)
			}
			return run(cmd.Context(), cmd.OutOrStdout(), int64(bytes))
		},
	}
	cmd.Flags().StringVar(&size, "size", size, "size of the file of random bytes")
	return cmd
}

// Deadlines of the steps: far above what they take, so that a step that hangs
// ends the demo instead of keeping it for ever.
const (
	buildTime = 15 * time.Minute // a fresh machine fetches modules first
	startTime = 30 * time.Second
	linesTime = time.Minute
	lookTime  = 30 * time.Second
)

// transferTime is for moving a number of bytes once, at 4 MB/s or more.
func transferTime(bytes int64) time.Duration {
	return time.Minute + time.Duration(bytes/4_000_000)*time.Second
}

// demo is one run.
type demo struct {
	screen
	dir     string // temporary, removed at the end
	size    int64
	address string // of the broker
}

func run(ctx context.Context, out io.Writer, size int64) (err error) {
	start := time.Now()
	dir, err := os.MkdirTemp("", "mft-demo-")
	if err != nil {
		return err
	}
	d := &demo{screen: screen{out, terminal.Colour(out)}, dir: dir, size: size}
	defer func() {
		if removed := os.RemoveAll(dir); removed != nil {
			err = errors.Join(err, fmt.Errorf("removing %s: %w", dir, removed))
		} else if err == nil {
			d.title("Done in %s", terminal.Seconds(time.Since(start)))
			d.say("everything arrived as it was sent; nothing is left behind")
		}
	}()

	d.title("Build the programs")
	if err := d.build(ctx); err != nil {
		return fmt.Errorf("building: %w", err)
	}

	d.title("Start a broker")
	broker, err := d.startBroker(ctx)
	if err != nil {
		return fmt.Errorf("starting the broker: %w", err)
	}
	defer func() {
		if stopped := broker.stop(); stopped != nil && err == nil {
			err = fmt.Errorf("stopping the broker: %w", stopped)
		}
	}()

	d.title("Send a file and a directory")
	if err := d.makeFiles(); err != nil {
		return fmt.Errorf("making files to send: %w", err)
	}
	if err := d.command(ctx, transferTime(size), "mft-produce", "-t", "files", fileName, treeName); err != nil {
		return err
	}

	d.title("Receive them in another directory")
	if err := d.command(ctx, transferTime(size), "mft-consume", "-t", "files", "--dir", "received", "-g", "demo", "--once"); err != nil {
		return err
	}
	if err := d.compare(); err != nil {
		return err
	}

	d.title("Stream lines live")
	if err := d.streamLines(ctx); err != nil {
		return fmt.Errorf("streaming lines: %w", err)
	}

	d.title("Look at the broker")
	if err := d.command(ctx, lookTime, "mft-admin", "topics", "list"); err != nil {
		return err
	}
	return d.command(ctx, lookTime, "mft-admin", "groups", "describe", "demo")
}

// build compiles the commands into the temporary directory.
func (d *demo) build(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, buildTime)
	defer cancel()
	names := []string{"mft-broker", "mft-produce", "mft-consume", "mft-admin"}
	args := []string{"build", "-o", d.path("bin") + string(filepath.Separator)}
	for _, name := range names {
		args = append(args, "mft/cmd/"+name)
	}
	d.prompt("go build -o bin/ ./cmd/" + strings.Join(names, " ./cmd/"))
	start := time.Now()
	goBuild := exec.CommandContext(ctx, "go", args...)
	goBuild.Cancel = func() error { return interrupt(goBuild.Process, os.Interrupt) } // then it removes what it made
	goBuild.WaitDelay = grace
	if output, err := goBuild.CombinedOutput(); err != nil {
		return failure(ctx, err, output)
	}
	var sizes []string
	for _, name := range names {
		info, err := os.Stat(d.program(name))
		if err != nil {
			return err
		}
		sizes = append(sizes, name+" "+terminal.Size(info.Size()))
	}
	d.say("%s; %s", terminal.Seconds(time.Since(start)), strings.Join(sizes, ", "))
	return nil
}

func (d *demo) path(name string) string { return filepath.Join(d.dir, name) }

func (d *demo) program(name string) string {
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	return filepath.Join(d.dir, "bin", name)
}

// screen is where the demo speaks.
type screen struct {
	out    io.Writer
	colour bool
}

func (s screen) title(format string, args ...any) {
	fmt.Fprintln(s.out)
	s.line("", "1", fmt.Sprintf(format, args...))
}

// prompt shows a command as it is typed.
func (s screen) prompt(line string) { s.line("  ", "36", "$ "+line) }

func (s screen) say(format string, args ...any) {
	for text := range strings.Lines(fmt.Sprintf(format, args...)) {
		if text = strings.TrimRight(text, " \n"); text == "" {
			fmt.Fprintln(s.out)
			continue
		}
		s.line("  ", "", text)
	}
}

func (s screen) line(indent, style, text string) {
	if s.colour && style != "" {
		text = "\x1b[" + style + "m" + text + "\x1b[0m"
	}
	fmt.Fprintln(s.out, indent+text)
}
