package command

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"mft/internal/config"
)

// codedError is an error that asks for an exit code other than ExitFailed.
type codedError struct {
	code int
	err  error
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

// Usagef makes an error of wrong usage: exit code 2, and a pointer to --help.
func Usagef(format string, args ...any) error {
	return &codedError{ExitUsage, fmt.Errorf(format, args...)}
}

// Partlyf makes the error of a command that did some of what it was asked:
// exit code 3. What was not done should have been printed already.
func Partlyf(format string, args ...any) error {
	return &codedError{ExitPartly, fmt.Errorf(format, args...)}
}

// hintedError is an error that knows what to do about it.
type hintedError struct {
	err  error
	hint string
}

func (e *hintedError) Error() string { return e.err.Error() + ": " + e.hint }
func (e *hintedError) Unwrap() error { return e.err }

// Hintf adds to err what the user can do about it. It returns nil for nil.
func Hintf(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &hintedError{err, fmt.Sprintf(format, args...)}
}

// ExitCode is the exit code that err stands for.
func ExitCode(err error) int {
	if err == nil {
		return ExitDone
	}
	if e, ok := errors.AsType[*codedError](err); ok {
		return e.code
	}
	if _, ok := errors.AsType[*config.Error](err); ok {
		return ExitUsage
	}
	return ExitFailed
}

// explain is the text of err for a person, in one line. Errors say themselves
// what to do; one of wrong usage, which --help answers, need not.
func explain(err error, ran *cobra.Command) string {
	text := strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ")
	_, hinted := errors.AsType[*hintedError](err)
	_, inFile := errors.AsType[*config.Error](err)
	if ExitCode(err) == ExitUsage && !hinted && !inFile {
		return text + ": see '" + ran.CommandPath() + " --help'"
	}
	return text
}
