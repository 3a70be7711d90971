package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"mft/broker"
	"mft/internal/command"
	"mft/producer"
)

// leakChecked fails a run of tests that leaves goroutines behind.
type leakChecked struct{ *testing.M }

func (m leakChecked) Run() int {
	code := m.M.Run()
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	return code
}

func TestMain(m *testing.M) {
	testscript.Main(leakChecked{m}, map[string]func(){"mft-consume": main})
}

// TestScripts runs testdata/*.txtar, each against a broker of its own that
// MFT_BROKERS names. Besides the usual commands there are
//
//	send TOPIC PATH...            sends files
//	lines TOPIC LINE...           sends lines; KEY:VALUE with a key
//	exits CODE PROGRAM [ARG...]   runs it and checks its exit code
//	appears FILE [TEXT]           waits until FILE is there, and holds TEXT
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			addr, stop, err := startBroker(filepath.Join(env.WorkDir, ".broker"))
			if err != nil {
				return err
			}
			env.Setenv("MFT_BROKERS", addr)
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			env.Defer(func() {
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"send": send, "lines": lines, "exits": exits, "appears": appears,
		},
	})
}

// startBroker starts a broker on a free loopback port.
func startBroker(data string) (addr string, stop func() error, err error) {
	cfg := broker.DefaultConfig()
	cfg.Data, cfg.Listeners = data, []broker.Listener{{Addr: "127.0.0.1:0"}}
	b, err := broker.New(cfg)
	if err != nil {
		return "", nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	return b.Addrs()[0].String(), func() error {
		cancel()
		return <-done
	}, nil
}

func withProducer(ts *testscript.TestScript, topic string, work func(*producer.Producer) error) {
	p, err := producer.New(producer.Config{Brokers: []string{ts.Getenv("MFT_BROKERS")}, Topic: topic})
	ts.Check(err)
	ts.Check(errors.Join(work(p), p.Close()))
}

func send(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: send TOPIC PATH...")
	}
	var paths []string
	for _, path := range args[1:] {
		abs := ts.MkAbs(path)
		if strings.HasSuffix(path, "/") {
			abs += "/" // the content of the directory, without its name
		}
		paths = append(paths, abs)
	}
	withProducer(ts, args[0], func(p *producer.Producer) error {
		_, err := p.SendFiles(context.Background(), paths, producer.FileOptions{})
		return err
	})
}

func lines(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: lines TOPIC LINE...")
	}
	withProducer(ts, args[0], func(p *producer.Producer) error {
		_, err := p.SendLines(context.Background(), strings.NewReader(strings.Join(args[1:], "\n")+"\n"), producer.LineOptions{KeyDelim: ":"})
		return err
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARG...]")
	}
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

func appears(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: appears FILE [TEXT]")
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		content, err := os.ReadFile(ts.MkAbs(args[0]))
		if err == nil && (len(args) == 1 || bytes.Contains(content, []byte(args[1]))) {
			return
		}
	}
	ts.Fatalf("%s does not appear", args[0])
}

func TestExitCodes(t *testing.T) {
	addr, stop, err := startBroker(filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	t.Setenv("MFT_BROKERS", addr)
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	for _, test := range []struct {
		name string
		ctx  context.Context
		args []string
		want int
	}{
		{"no topic", t.Context(), nil, command.ExitUsage},
		{"once without a directory", t.Context(), []string{"-t", "t", "--once"}, command.ExitUsage},
		{"follow into a directory", t.Context(), []string{"-t", "t", "-f", "--dir", dir}, command.ExitUsage},
		{"a format that is none", t.Context(), []string{"-t", "t", "--format", "%q"}, command.ExitUsage},
		{"a position that is none", t.Context(), []string{"-t", "t", "--from", "yesterday"}, command.ExitUsage},
		{"group and partition", t.Context(), []string{"-t", "t", "-g", "g", "-p", "0"}, command.ExitUsage},
		{"no records", t.Context(), []string{"-t", "t", "-n", "0"}, command.ExitUsage},
		{"listen without a broker", t.Context(), []string{"-t", "t", "--dir", dir, "--listen", "127.0.0.1:0"}, command.ExitUsage},
		{"embedded records", t.Context(), []string{"-t", "t", "--embedded"}, command.ExitUsage},
		{"an argument too many", t.Context(), []string{"-t", "t", "--dir", dir, "more"}, command.ExitUsage},
		{"missing topic", t.Context(), []string{"-t", "t", "--dir", dir, "--once"}, command.ExitFailed},
		{"missing topic, records", t.Context(), []string{"-t", "t"}, command.ExitFailed},
		{"nobody there", t.Context(), []string{"-t", "t", "--dir", dir, "--once", "-b", "127.0.0.1:1", "--timeout", "100ms"}, command.ExitFailed},
		{"no such configuration", t.Context(), []string{"-c", filepath.Join(dir, "missing")}, command.ExitFailed},
		{"interrupted before the end", stopped, []string{"-t", "t", "--dir", dir, "--once"}, command.ExitFailed},
		{"stopped", stopped, []string{"-t", "t", "--dir", dir}, command.ExitDone},
	} {
		var stderr strings.Builder
		cmd := newConsume()
		cmd.SetOut(&stderr)
		cmd.SetErr(&stderr)
		if got := command.Run(test.ctx, cmd, test.args, &stderr); got != test.want {
			t.Errorf("%s: exit code %d, want %d: %s", test.name, got, test.want, stderr.String())
		}
	}
}
