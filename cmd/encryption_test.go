package cmd_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/twmb/franz-go/pkg/kfake"

	"mft/internal/commandtest"
	"mft/internal/kafkatest"
)

// TestScripts runs testdata/*.txtar with the built commands, each on a broker of
// mft's, on Apache Kafka, and on another that speaks its protocol, which
// MFT_BROKERS names. Scripts run side by side, so each has a broker of its own.
// Besides the usual commands there are
//
//	exits CODE PROGRAM [ARG...]   runs a program that has to end with CODE
//	hidden TEXT...                none of the texts is in what the broker has stored
//	private FILE                  only its owner can read it
func TestScripts(t *testing.T) {
	t.Run("mft", func(t *testing.T) {
		runScripts(t, func(t testing.TB) (addr, data string) {
			data = filepath.Join(t.TempDir(), "data")
			return commands.StartBroker(t, data, "").Addr, data
		})
	})
	t.Run("kafka", func(t *testing.T) {
		runScripts(t, func(t testing.TB) (addr, data string) {
			k := kafkatest.Start(t, 1, nil)
			return k.Brokers(), k.Data()
		})
	})
	t.Run("kfake", func(t *testing.T) {
		runScripts(t, func(t testing.TB) (addr, data string) {
			cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.AllowAutoTopicCreation(), kfake.DefaultNumPartitions(1))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(cluster.Close)
			return cluster.ListenAddrs()[0], ""
		})
	})
}

// brokerData is the variable with the directory that a script's broker stores
// in; empty: it stores nothing.
const brokerData = "MFT_TEST_BROKER_DATA"

func runScripts(t *testing.T, start func(testing.TB) (addr, data string)) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			addr, data := start(env.T().(testing.TB))
			env.Setenv("MFT_BROKERS", addr)
			env.Setenv(brokerData, data)
			env.Setenv("MFT_STATE", filepath.Join(env.WorkDir, ".state"))
			env.Setenv("PATH", filepath.Dir(commands.Path("mft-admin"))+string(os.PathListSeparator)+env.Getenv("PATH"))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits,
			"hidden": func(ts *testscript.TestScript, _ bool, texts []string) {
				if data := ts.Getenv(brokerData); data != "" {
					ts.Check(commandtest.NotStored(data, texts...))
				}
			},
			"private": func(ts *testscript.TestScript, _ bool, args []string) {
				info, err := os.Stat(ts.MkAbs(args[0]))
				ts.Check(err)
				if mode := info.Mode().Perm(); filepath.Separator == '/' && mode != 0o600 {
					ts.Fatalf("%s has mode %o", args[0], mode)
				}
			},
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
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// TestEncryptedTree sends files of all sizes around a chunk, some of which
// compress, in each way of compressing, to a topic that takes small records.
func TestEncryptedTree(t *testing.T) {
	dir := t.TempDir()
	source, key, data := filepath.Join(dir, "source"), filepath.Join(dir, "key"), filepath.Join(dir, "data")
	b := commands.StartBroker(t, data, "", "--partitions", "3")
	commands.Run(t, "mft-admin", "keygen", "-o", key)
	const chunk = 16 << 10 // what fits a record of 20,000 bytes, in whole pages
	for i, size := range []int64{0, 1, 100, chunk - 1, chunk, chunk + 1, 5*chunk + 7} {
		commandtest.RandomFile(t, filepath.Join(source, "sub", fmt.Sprint("random", size)), size, uint64(i))
		text := bytes.Repeat([]byte("it says the same over and over, "), int(size)/32+1)[:size]
		if err := os.WriteFile(filepath.Join(source, fmt.Sprint("text", size)), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, compress := range []string{"auto", "zstd", "none"} {
		out := t.TempDir()
		commands.Run(t, "mft-admin", "topics", "create", compress, "-b", b.Addr, "--config", "max.message.bytes=20000")
		commands.Run(t, "mft-produce", "-b", b.Addr, "-t", compress, "--encrypt-key", key, "--compress", compress, source+string(filepath.Separator))
		commands.Run(t, "mft-consume", "-b", b.Addr, "-t", compress, "--decrypt-key", key, "--dir", out, "--once")
		commandtest.SameTree(t, source, out)
	}
	if err := commandtest.NotStored(data, "text16384", "over and over"); err != nil {
		t.Error(err)
	}
}

// BenchmarkEncryption is a file of 256 MiB that does not compress through a
// broker, in clear and encrypted; cpu-ms/op is what the last run of the command
// took of the processors.
func BenchmarkEncryption(b *testing.B) {
	const size = 256 << 20
	dir := b.TempDir()
	commandtest.RandomFile(b, filepath.Join(dir, "big"), size, 1)
	key := filepath.Join(dir, "key")
	commands.Run(b, "mft-admin", "keygen", "-o", key)
	broker := commands.StartBroker(b, filepath.Join(dir, "data"), "")
	run := func(b *testing.B, program string, args ...string) {
		p := commands.Start(b, nil, program, append([]string{"-b", broker.Addr, "--progress", "never"}, args...)...)
		if err := p.WaitFor(time.Minute); err != nil {
			b.Fatalf("%v: %s", err, p.Stderr.String())
		}
		b.ReportMetric(float64((p.ProcessState.UserTime() + p.ProcessState.SystemTime()).Milliseconds()), "cpu-ms/op")
	}
	for _, test := range []struct {
		name          string
		send, receive []string
	}{
		{"clear", nil, nil},
		{"encrypted", []string{"--encrypt-key", key}, []string{"--decrypt-key", key}},
	} {
		topic := 0
		b.Run(test.name+"/send", func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				topic++
				run(b, "mft-produce", append([]string{"-t", fmt.Sprint(test.name, topic), filepath.Join(dir, "big")}, test.send...)...)
			}
		})
		b.Run(test.name+"/receive", func(b *testing.B) {
			b.SetBytes(size)
			for n := 0; b.Loop(); n++ { // each time another group and directory
				out := filepath.Join(dir, fmt.Sprint("out", n))
				run(b, "mft-consume", append([]string{"-t", fmt.Sprint(test.name, topic), "--dir", out, "--once"}, test.receive...)...)
				b.StopTimer()
				if err := os.RemoveAll(out); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
