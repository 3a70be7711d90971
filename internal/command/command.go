// Package command is what all of mft's programs share: how they start, how
// they stop on a signal, how they say what went wrong, and with which exit
// code they end.
//
// A program is a cobra command handed to Main:
//
//	func main() { command.Main(newProduce()) }
//
// Exit codes are decided here and nowhere else: 0 done, 1 failed, 2 wrong
// usage, 3 done in part. A command returns a plain error for 1, one made by
// Usagef for 2 and one made by Partlyf for 3.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"mft/internal/terminal"
)

// Exit codes of every command.
const (
	ExitDone   = 0 // everything asked for was done
	ExitFailed = 1 // it failed
	ExitUsage  = 2 // the command line, a variable or the configuration is wrong
	ExitPartly = 3 // some of it was done, some was not; what was not was printed
)

// Main runs root with the arguments and signals of the process, prints the
// error if there is one, and exits with its code.
//
// The context of the command ends at the first SIGINT or SIGTERM; a second
// one exits at once with ExitFailed.
func Main(root *cobra.Command) {
	ctx, stop := signalContext(root.Name(), os.Stderr)
	state := &shown{name: root.Name(), stderr: os.Stderr}
	deaf := state.onSignal()
	code := Run(context.WithValue(ctx, shownKey{}, state), root, os.Args[1:], os.Stderr)
	deaf()
	stop()
	os.Exit(code)
}

// Run runs root with args and returns the exit code. An error is printed to
// stderr as one line, "name: what happened: what to do".
func Run(ctx context.Context, root *cobra.Command, args []string, stderr io.Writer) int {
	prepare(root)
	root.SetArgs(args)
	ran, err := root.ExecuteContextC(ctx)
	if err == nil {
		return ExitDone
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	fmt.Fprintln(stderr, root.Name()+": "+explain(err, ran))
	return ExitCode(err)
}

// prepare gives root and all commands below it the habits they share.
func prepare(root *cobra.Command) {
	root.SilenceErrors = true
	root.SilenceUsage = true
	root.Version = Version()
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return Usagef("%w", err) })
	if root.Long == "" {
		root.Long = root.Short
	}
	root.Long = strings.TrimSpace(root.Long) + exitCodesHelp
	adoptArgs(root)

	before := root.PersistentPreRunE
	root.PersistentPreRunE = func(cmd *cobra.Command, args []string) error {
		if err := setFromEnvironment(cmd.Flags(), os.LookupEnv); err != nil {
			return err
		}
		if before != nil {
			return before(cmd, args)
		}
		return nil
	}
}

const exitCodesHelp = `

Every flag can also be given as a variable: MFT_BROKERS for --brokers. Flags
come before variables, variables before transfer.yml, transfer.yml before defaults.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done in part.`

// adoptArgs makes wrong arguments usage errors, and an unknown subcommand an
// error instead of a help text.
func adoptArgs(cmd *cobra.Command) {
	check := cmd.Args
	if check == nil && cmd.HasSubCommands() {
		check = func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unknown command %q", args[0])
			}
			return nil
		}
	}
	if check == nil {
		check = cobra.ArbitraryArgs
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return Usagef("%w", err)
		}
		return nil
	}
	if cmd.HasSubCommands() && !cmd.Runnable() {
		cmd.RunE = func(cmd *cobra.Command, _ []string) error {
			var names []string
			for _, sub := range cmd.Commands() {
				if sub.IsAvailableCommand() {
					names = append(names, sub.Name())
				}
			}
			return Usagef("%s needs a command: %s", cmd.CommandPath(), strings.Join(names, ", "))
		}
	}
	for _, sub := range cmd.Commands() {
		adoptArgs(sub)
	}
}

// setFromEnvironment sets each flag that is not on the command line from its
// variable: MFT_LOG_LEVEL for --log-level. A flag set so counts as given
// (FlagSet.Changed), so that it comes before transfer.yml.
func setFromEnvironment(flags *pflag.FlagSet, lookup func(string) (string, bool)) error {
	var failed error
	flags.VisitAll(func(f *pflag.Flag) {
		if failed != nil || f.Changed || f.Name == "help" || f.Name == "version" {
			return
		}
		name := EnvName(f.Name)
		value, ok := lookup(name)
		if !ok || value == "" {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			failed = Usagef("variable %s: %w", name, err)
			return
		}
		if f.Annotations == nil {
			f.Annotations = map[string][]string{}
		}
		f.Annotations[fromVariable] = []string{name}
	})
	return failed
}

// fromVariable annotates flags that were set from the environment.
const fromVariable = "mft_variable"

// Typed reports whether a flag stands on the command line. One that was set
// from its variable has FlagSet.Changed too, but is no mistake where it has no
// meaning: variables are there for several commands.
func Typed(flags *pflag.FlagSet, name string) bool {
	f := flags.Lookup(name)
	return f != nil && f.Changed && f.Annotations[fromVariable] == nil
}

// EnvName is the variable that stands for a flag: MFT_LOG_LEVEL for "log-level".
func EnvName(flag string) string {
	return "MFT_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// sameSignal is the time in which another signal counts as the same one:
// terminals and wrappers such as timeout(1) signal a process and its group.
const sameSignal = 300 * time.Millisecond

// signalContext returns a context that the first SIGINT or SIGTERM cancels.
// The second one exits the process.
func signalContext(name string, stderr *os.File) (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		select {
		case <-signals:
		case <-done:
			return
		}
		if terminal.Is(stderr) {
			fmt.Fprintf(stderr, "%s: stopping; once more stops at once\n", name)
		}
		cancel()
		for first := time.Now(); ; {
			select {
			case <-signals:
				if time.Since(first) > sameSignal {
					os.Exit(ExitFailed)
				}
			case <-done:
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		cancel()
	}
}

// Version describes the build: module version or commit, Go version, platform.
func Version() string {
	version, commit, dirty := "devel", "", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if v := info.Main.Version; v != "" && v != "(devel)" {
			version = v
		}
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision" && len(s.Value) >= 12:
				commit = " commit " + s.Value[:12]
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = " (modified)"
			}
		}
	}
	return fmt.Sprintf("%s%s%s %s %s/%s", version, commit, dirty, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// TuneMemory sets how much the heap may grow between two garbage collections,
// in per cent of what is alive. GOGC in the environment comes first. Programs
// that move bytes through a few large buffers have little alive, so that a
// small heap with Go's 100 % would be collected all the time.
func TuneMemory(gcPercent int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}
