package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"go.uber.org/goleak"

	"mft/internal/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func run(t *testing.T, root *cobra.Command, args ...string) (code int, stderr string) {
	t.Helper()
	var b bytes.Buffer
	root.SetOut(io.Discard)
	root.SetErr(&b)
	code = Run(t.Context(), root, args, &b)
	return code, b.String()
}

func failing(err error) *cobra.Command {
	return &cobra.Command{
		Use: "mft-test", Short: "Test.", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return err },
	}
}

func TestExitCodesAndMessages(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		code int
		want string
	}{
		{"done", nil, 0, ""},
		{"failed", errors.New("disk on fire"), 1, "mft-test: disk on fire\n"},
		{"usage", Usagef("nothing to send"), 2, "mft-test: nothing to send: see 'mft-test --help'\n"},
		{"wrapped usage", fmt.Errorf("list: %w", Usagef("no")), 2, "mft-test: list: no: see 'mft-test --help'\n"},
		{"partly", Partlyf("%d of %d failed", 1, 3), 3, "mft-test: 1 of 3 failed\n"},
		{"hint", Hintf(errors.New("key is short"), "make one of %d bytes", 32), 1, "mft-test: key is short: make one of 32 bytes\n"},
		{"one line", errors.New("a\nb"), 1, "mft-test: a; b\n"},
		{"config", &config.Error{Path: "t.yml", Line: 3, Key: "brokers", Reason: "wrong: do right"}, 2, "mft-test: t.yml, line 3: brokers: wrong: do right\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, stderr := run(t, failing(c.err))
			if code != c.code || stderr != c.want {
				t.Errorf("got %d %q, want %d %q", code, stderr, c.code, c.want)
			}
		})
	}
	if Hintf(nil, "nothing") != nil {
		t.Error("a hint made an error of nil")
	}
}

func TestInterruptedIsSaid(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stderr bytes.Buffer
	code := Run(ctx, failing(fmt.Errorf("sending: %w", context.Canceled)), nil, &stderr)
	if code != ExitFailed || stderr.String() != "mft-test: interrupted\n" {
		t.Errorf("got %d %q", code, stderr.String())
	}
}

func TestWrongUsage(t *testing.T) {
	tree := func() *cobra.Command {
		root := &cobra.Command{Use: "mft-test", Short: "Test."}
		topics := &cobra.Command{Use: "topics", Short: "Topics."}
		topics.AddCommand(&cobra.Command{Use: "list", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error { return nil }})
		root.AddCommand(topics)
		return root
	}
	for args, want := range map[string]string{
		"":                   "mft-test needs a command: topics: see 'mft-test --help'",
		"topics":             "mft-test topics needs a command: list: see 'mft-test topics --help'",
		"topicz":             `unknown command "topicz"`,
		"topics lost":        `unknown command "lost"`,
		"topics list one":    `unknown command "one"`,
		"topics list --fast": "unknown flag: --fast",
		"topics list -x":     "unknown shorthand flag",
	} {
		code, stderr := run(t, tree(), strings.Fields(args)...)
		if code != ExitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%q: got %d %q, want 2 and %q", args, code, stderr, want)
		}
	}
	if code, stderr := run(t, tree(), "topics", "list"); code != 0 || stderr != "" {
		t.Errorf("topics list: got %d %q", code, stderr)
	}
}

func TestPrecedence(t *testing.T) {
	file := t.TempDir() + "/transfer.yml"
	if err := os.WriteFile(file, []byte("brokers: [file:1]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, variable, want string
		args                 []string
	}{
		{"default", "", "127.0.0.1:9999", nil},
		{"file", "", "file:1", []string{"-c", file}},
		{"variable before file", "env:2,env2", "env:2 env2:9999", []string{"-c", file}},
		{"flag before variable", "env:2", "flag:3", []string{"-c", file, "-b", "flag:3"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("MFT_BROKERS", c.variable)
			var o Options
			root := &cobra.Command{Use: "mft-test"}
			o.ClientFlags(root.PersistentFlags())
			o.ProgressFlag(root.Flags())
			root.RunE = func(cmd *cobra.Command, _ []string) error {
				if typed, want := Typed(cmd.Flags(), "brokers"), slices.Contains(c.args, "-b"); typed != want {
					t.Errorf("typed: %v, want %v", typed, want)
				}
				_, err := o.Load(cmd.Flags())
				return err
			}
			code, stderr := run(t, root, c.args...)
			if got := strings.Join(o.Brokers, " "); code != 0 || got != c.want {
				t.Errorf("got %d %q %q, want %q", code, stderr, got, c.want)
			}
		})
	}
}

func TestWrongVariableAndFlagValues(t *testing.T) {
	load := func(args ...string) (int, string) {
		var o Options
		root := &cobra.Command{Use: "mft-test"}
		o.ClientFlags(root.Flags())
		o.ProgressFlag(root.Flags())
		root.RunE = func(cmd *cobra.Command, _ []string) error {
			_, err := o.Load(cmd.Flags())
			return err
		}
		return run(t, root, args...)
	}
	t.Setenv("MFT_PROGRESS", "sometimes")
	if code, stderr := load(); code != 2 || !strings.Contains(stderr, "variable MFT_PROGRESS: ") {
		t.Errorf("got %d %q", code, stderr)
	}
	t.Setenv("MFT_PROGRESS", "")
	for args, want := range map[string]string{
		"--log-level loud": `--log-level "loud"`,
		"--log-format xml": `--log-format "xml"`,
		"-b host:port":     `address "host:port": the port must be a number`,
		"--progress yes":   "use auto, always or never",
	} {
		if code, stderr := load(strings.Fields(args)...); code != 2 || !strings.Contains(stderr, want) {
			t.Errorf("%s: got %d %q, want 2 and %q", args, code, stderr, want)
		}
	}
	if code, stderr := load("-c", "/does/not/exist.yml"); code != 1 || !strings.Contains(stderr, "reading the configuration") {
		t.Errorf("got %d %q", code, stderr)
	}
}

func TestLogger(t *testing.T) {
	var b bytes.Buffer
	log := (&Options{LogLevel: "info", LogFormat: "json"}).Logger(&b)
	log.Info().Str("topic", "t").Msg("hello")
	log.Debug().Msg("not this")
	if got := b.String(); !strings.Contains(got, `"topic":"t"`) || !strings.Contains(got, `"level":"info"`) || strings.Contains(got, "not this") {
		t.Errorf("json: %q", got)
	}
	b.Reset()
	log = (&Options{LogLevel: "warn", LogFormat: "console"}).Logger(&b)
	log.Info().Msg("not this")
	log.Warn().Msg("hello")
	if got := b.String(); !strings.Contains(got, "WRN hello") || strings.Contains(got, "\x1b") || strings.Contains(got, "not this") {
		t.Errorf("console: %q", got)
	}
	b.Reset()
	log = (&Options{LogLevel: "off"}).Logger(&b)
	log.Error().Msg("not this")
	if b.Len() > 0 {
		t.Errorf("off: %q", b.String())
	}
}

func TestVersion(t *testing.T) {
	root := failing(nil)
	var out bytes.Buffer
	root.SetOut(&out)
	if code := Run(t.Context(), root, []string{"--version"}, io.Discard); code != 0 {
		t.Fatal(code)
	}
	if got := out.String(); !strings.HasPrefix(got, "mft-test ") || !strings.Contains(got, "go1.") {
		t.Errorf("got %q", got)
	}
}
