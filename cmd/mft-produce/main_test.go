package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"mft/broker"
	"mft/internal/command"
	"mft/protocol"
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
	testscript.Main(leakChecked{m}, map[string]func(){"mft-produce": main})
}

// TestScripts runs testdata/*.txtar, each against a broker of its own that
// MFT_BROKERS names. Besides the usual commands there are
//
//	files TOPIC N     prints the first N transfers of a topic, sorted: name, type, mode, size
//	records TOPIC N   prints its first N records: partition, key, value, headers
//	mode OCTAL FILE...
//
// both waiting for them to arrive.
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
			env.Setenv("MFT_STATE", filepath.Join(env.WorkDir, ".state"))
			env.Defer(func() {
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"files":   printFiles,
			"records": printRecords,
			"mode":    setMode,
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
	t.Setenv("MFT_STATE", t.TempDir())
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	file, missing := filepath.Join(dir, "file"), filepath.Join(dir, "missing")
	for _, test := range []struct {
		name string
		ctx  context.Context
		args []string
		want int
	}{
		{"done", t.Context(), []string{"-t", "t", file}, command.ExitDone},
		{"in part", t.Context(), []string{"-t", "t", file, missing}, command.ExitPartly},
		{"nothing", t.Context(), []string{"-t", "t", missing}, command.ExitFailed},
		{"interrupted", stopped, []string{"-t", "t", file}, command.ExitFailed},
		{"nobody there", t.Context(), []string{"-t", "t", "-b", "127.0.0.1:1", "--timeout", "100ms", file}, command.ExitFailed},
		{"a glob that is none", t.Context(), []string{"-t", "t", "--exclude", "[", file}, command.ExitUsage},
		{"no such flag", t.Context(), []string{"-t", "t", "--stream", file}, command.ExitUsage},
		{"resume without a state", t.Context(), []string{"-t", "t", "--resume", "--state", "none", file}, command.ExitUsage},
		{"resume without acks", t.Context(), []string{"-t", "t", "--resume", "--acks", "1", file}, command.ExitUsage},
		{"no such configuration", t.Context(), []string{"-c", missing}, command.ExitFailed},
	} {
		var stderr strings.Builder
		cmd := newProduce()
		cmd.SetErr(&stderr)
		if got := command.Run(test.ctx, cmd, test.args, &stderr); got != test.want {
			t.Errorf("%s: exit code %d, want %d: %s", test.name, got, test.want, stderr.String())
		}
	}
}

// read calls f with the records of a topic, oldest first, until it is content.
func read(ts *testscript.TestScript, topic string, f func(*kgo.Record) (enough bool)) {
	client, err := kgo.NewClient(kgo.SeedBrokers(ts.Getenv("MFT_BROKERS")), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableClientMetrics(),
		kgo.MetadataMinAge(50*time.Millisecond), kgo.MetadataMaxAge(time.Second))
	ts.Check(err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			ts.Fatalf("no further record arrived in topic %s", topic)
		}
		for _, rec := range fetches.Records() {
			if f(rec) {
				return
			}
		}
	}
}

func topicAndCount(ts *testscript.TestScript, neg bool, args []string) (string, int) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: files|records TOPIC N")
	}
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	return args[0], n
}

func printRecords(ts *testscript.TestScript, neg bool, args []string) {
	topic, n := topicAndCount(ts, neg, args)
	read(ts, topic, func(rec *kgo.Record) bool {
		line := fmt.Sprintf("%d %s|%s", rec.Partition, rec.Key, rec.Value)
		for _, h := range rec.Headers {
			line += fmt.Sprintf("|%s=%s", h.Key, h.Value)
		}
		fmt.Fprintln(ts.Stdout(), line)
		n--
		return n == 0
	})
}

func printFiles(ts *testscript.TestScript, neg bool, args []string) {
	topic, n := topicAndCount(ts, neg, args)
	open := make(map[protocol.TransferID]*protocol.Manifest)
	content := make(map[protocol.TransferID][]byte)
	var lines []string
	read(ts, topic, func(rec *kgo.Record) bool {
		r, err := protocol.ParseFileRecord(rec.Key, rec.Value, rec.Headers)
		ts.Check(err)
		switch r.Kind {
		case protocol.KindBegin:
			open[r.Transfer] = r.Manifest
		case protocol.KindChunk:
			content[r.Transfer] = append(content[r.Transfer], r.Data...)
		case protocol.KindEnd:
			m := open[r.Transfer]
			if r.End.Digest != "" {
				digest, err := protocol.NewDigest(m.Digest)
				ts.Check(err)
				digest.Write(content[r.Transfer])
				if hex.EncodeToString(digest.Sum(nil)) != r.End.Digest {
					ts.Fatalf("%s: the digest is wrong", m.Name)
				}
			}
			lines = append(lines, fmt.Sprintf("%s %s %s %d %s", m.Name, m.Type, m.Mode, len(content[r.Transfer]), m.Digest))
		}
		return len(lines) == n
	})
	slices.Sort(lines)
	fmt.Fprintln(ts.Stdout(), strings.ReplaceAll(strings.Join(lines, "\n"), " \n", "\n"))
}

func setMode(ts *testscript.TestScript, _ bool, args []string) {
	mode, err := strconv.ParseUint(args[0], 8, 32)
	ts.Check(err)
	for _, name := range args[1:] {
		ts.Check(os.Chmod(ts.MkAbs(name), os.FileMode(mode)))
	}
}
