package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"mft-broker": main})
}

// TestScripts runs testdata/*.txtar, one behaviour each. Besides testscript's
// own commands they have:
//
//	exits CODE PROGRAM [ARG...]   run it and check its exit code
//	start NAME [ARG...]           start mft-broker, wait until it listens; its
//	                              address is then $NAME, its log NAME.log
//	stop NAME                     send SIGTERM, check that it exits with 0
func TestScripts(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("these scripts stop brokers with SIGTERM, which Windows does not have")
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Values[brokersKey{}] = map[string]*running{}
			env.Setenv("GORACE", "atexit_sleep_ms=0") // or each command ends with a second of sleep under -race
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "start": start, "stop": stop,
		},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARG...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Check(err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// brokersKey is where a script keeps its running brokers, by name.
type brokersKey struct{}

func brokers(ts *testscript.TestScript) map[string]*running {
	return ts.Value(brokersKey{}).(map[string]*running)
}

// running is a broker that start started.
type running struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how
}

var listening = regexp.MustCompile(`(?m)^.*INF listening .*addr=(\S+)`)

func start(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: start NAME [ARG...]")
	}
	name := args[0]
	program, err := findProgram(ts.Getenv("PATH"), "mft-broker")
	ts.Check(err)
	logPath := ts.MkAbs(name + ".log")
	log, err := os.Create(logPath)
	ts.Check(err)
	cmd := exec.Command(program, args[1:]...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Stderr = log
	for _, variable := range []string{"PATH", "HOME", "GORACE", "MFT_LISTEN", "MFT_DATA", "MFT_LOG_LEVEL", "MFT_CONFIG"} {
		if value := ts.Getenv(variable); value != "" {
			cmd.Env = append(cmd.Env, variable+"="+value)
		}
	}
	ts.Check(cmd.Start())
	ts.Check(log.Close())
	r := &running{cmd: cmd, done: make(chan struct{})}
	go func() {
		r.err = cmd.Wait()
		close(r.done)
	}()
	ts.Defer(func() {
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			ts.Logf("killing mft-broker: %v", err)
		}
		<-r.done
	})
	brokers(ts)[name] = r

	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		text, err := os.ReadFile(logPath)
		ts.Check(err)
		found := listening.FindAllStringSubmatch(string(text), -1)
		if len(found) > 0 {
			for i, match := range found {
				variable := name
				if i > 0 {
					variable += strconv.Itoa(i + 1)
				}
				ts.Setenv(variable, match[1])
			}
			return
		}
		select {
		case <-r.done:
			ts.Fatalf("mft-broker ended (%v):\n%s", r.err, text)
		default:
		}
		if time.Now().After(deadline) {
			ts.Fatalf("mft-broker does not listen:\n%s", text)
		}
	}
}

func stop(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 || brokers(ts)[args[0]] == nil {
		ts.Fatalf("usage: stop NAME")
	}
	r := brokers(ts)[args[0]]
	ts.Check(r.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-r.done:
		ts.Check(r.err)
	case <-time.After(30 * time.Second):
		ts.Fatalf("mft-broker does not stop")
	}
}

func findProgram(path, name string) (string, error) {
	for _, dir := range filepath.SplitList(path) {
		for _, ext := range []string{"", ".exe"} {
			program := filepath.Join(dir, name+ext)
			if _, err := os.Stat(program); err == nil {
				return program, nil
			}
		}
	}
	return "", fmt.Errorf("no %s in %s", name, strings.TrimSpace(path))
}
