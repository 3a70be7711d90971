// Package terminal shows a person, or a program, how a command is getting on:
// a progress bar on a terminal, plain lines in a pipe, JSON events for
// programs, and a closing summary.
package terminal

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/term"
)

// Is reports whether w is a terminal, or writes to one (Progress.Writer).
func Is(w io.Writer) bool {
	switch w := w.(type) {
	case *os.File:
		return term.IsTerminal(int(w.Fd()))
	case aboveBar:
		return true
	}
	return false
}

// Colour reports whether colours are welcome on w: it is a terminal, and
// neither NO_COLOR nor TERM=dumb is set.
func Colour(w io.Writer) bool {
	return Is(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// Size is a number of bytes for a person: "1.2 GB", in powers of 1000.
func Size(bytes int64) string {
	return humanize.Bytes(uint64(max(bytes, 0)))
}

// Rate is bytes over a time for a person: "375 MB/s".
func Rate(bytes int64, elapsed time.Duration) string {
	if elapsed <= 0 {
		elapsed = time.Nanosecond
	}
	return Size(int64(float64(bytes)/elapsed.Seconds())) + "/s"
}

// Seconds is a time for a person: "0.042 s", "3.2 s", "2m5s".
func Seconds(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%.3f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// Count is a number of things for a person: "1 file", "12,000 files".
func Count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return humanize.Comma(int64(n)) + " " + thing
}

// Mode says whether progress is shown. It is the value of --progress.
type Mode string

// The modes of --progress.
const (
	Auto   Mode = "auto"   // a bar on a terminal, a line now and then elsewhere
	Always Mode = "always" // as Auto, also when --json would silence it
	Never  Mode = "never"  // nothing but failures and the closing summary
)

// String implements pflag.Value.
func (m *Mode) String() string { return string(*m) }

// Type implements pflag.Value.
func (m *Mode) Type() string { return "WHEN" }

// Set implements pflag.Value.
func (m *Mode) Set(s string) error {
	switch Mode(s) {
	case Auto, Always, Never:
		*m = Mode(s)
		return nil
	}
	return fmt.Errorf("use auto, always or never")
}
