package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"mft/broker"
	"mft/internal/command"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"mft-admin": main})
}

// run runs mft-admin in this process and returns its exit code and output.
func run(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := newAdmin()
	cmd.SetOut(&stdout)
	cmd.SetErr(&stderr)
	code = command.Run(t.Context(), cmd, args, &stderr)
	return code, stdout.String(), stderr.String()
}

// The same commands serve any Kafka: here kfake, three brokers that are not ours.
func TestAnotherKafka(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	t.Setenv("MFT_BROKERS", strings.Join(cluster.ListenAddrs(), ","))

	ok := func(want string, args ...string) string {
		t.Helper()
		code, out, errOut := run(t, args...)
		if code != 0 || !strings.Contains(out, want) {
			t.Fatalf("%v: code %d, output %q, error %q; want %q", args, code, out, errOut, want)
		}
		return out
	}
	ok("created orders (4 partitions)\n", "topics", "create", "orders", "-p", "4", "--config", "max.message.bytes=2000000")
	ok("created prices (1 partition)\n", "topics", "create", "prices", "-p", "1")

	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.DefaultProduceTopic("prices"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for range 5 {
		if err := client.ProduceSync(t.Context(), kgo.StringRecord("x")).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	if out := ok("orders  4           0\n", "topics", "list"); !strings.Contains(out, "prices  1           5\n") {
		t.Errorf("list:\n%s", out)
	}
	out := ok("config      max.message.bytes=2000000\n", "topics", "describe", "orders")
	if !strings.Contains(out, "partitions  4\n") {
		t.Errorf("describe:\n%s", out)
	}
	ok("changed orders\n", "configs", "set", "orders", "retention.ms=5000", "--reset", "max.message.bytes")
	if out := ok("orders  retention.ms  5000   topic\n", "configs", "describe", "orders"); strings.Contains(out, "max.message.bytes") {
		t.Errorf("configs describe:\n%s", out)
	}
	ok("  default\n", "configs", "describe", "orders", "--all")
	var topic topicResult
	if err := json.Unmarshal([]byte(ok("{", "topics", "describe", "prices", "--json")), &topic); err != nil {
		t.Fatal(err)
	}
	if topic.Topic != "prices" || topic.ID == "" || topic.Records != 5 || len(topic.Details) != 1 || topic.Details[0].End != 5 {
		t.Errorf("describe --json: %+v", topic)
	}

	if err := kadm.NewClient(client).CommitAllOffsets(t.Context(), "readers", kadm.OffsetsFromRecords(kgo.Record{Topic: "prices", Offset: 1})); err != nil {
		t.Fatal(err)
	}
	ok("readers  Empty", "groups", "list")
	if out := ok("lag       3\n", "groups", "describe", "readers"); !strings.Contains(out, "prices  0          2          5    3    -\n") {
		t.Errorf("describe:\n%s", out)
	}

	ok("deleted prices\n", "topics", "delete", "prices")
	code, out, errOut := run(t, "topics", "delete", "nothing", "orders")
	if code != command.ExitPartly || out != "deleted orders\n" || errOut != "mft-admin: topic nothing was not deleted: there is no such topic\n" {
		t.Errorf("delete: %d %q %q", code, out, errOut)
	}
}

func TestNoBroker(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	code, _, errOut := run(t, "topics", "list", "-b", address, "--timeout", "2s")
	if code != command.ExitFailed || !strings.Contains(errOut, "no broker answers at "+address) || !strings.HasSuffix(errOut, "start mft-broker there, or name the broker with -b HOST:PORT\n") {
		t.Errorf("%d %q", code, errOut)
	}
}

// A group with a member: who it is, what it was given, and how far it is.
func TestGroupWithMember(t *testing.T) {
	address := startBroker(t)
	t.Setenv("MFT_BROKERS", address)
	if code, _, errOut := run(t, "topics", "create", "orders", "-p", "2"); code != 0 {
		t.Fatal(errOut)
	}
	member, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.ClientID("reader-1"), kgo.ConsumerGroup("readers"),
		kgo.ConsumeTopics("orders"), kgo.DisableAutoCommit(), kgo.DefaultProduceTopic("orders"))
	if err != nil {
		t.Fatal(err)
	}
	defer member.Close()
	record := &kgo.Record{Value: []byte("x"), Partition: 1}
	if err := member.ProduceSync(t.Context(), record).FirstErr(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := member.PollFetches(ctx).Err(); err != nil { // it is in the group
		t.Fatal(err)
	}
	code, out, errOut := run(t, "groups", "describe", "readers", "--json")
	if code != 0 {
		t.Fatal(errOut)
	}
	var group groupResult
	if err := json.Unmarshal([]byte(out), &group); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	if group.State != "Stable" || len(group.Members) != 1 || *group.Lag != 1 || len(group.Offsets) != 2 {
		t.Fatalf("%+v", group)
	}
	m := group.Members[0]
	if m.Client != "reader-1" || m.Host != "127.0.0.1" || len(m.Assigned["orders"]) != 2 || group.Offsets[0].Member != m.Member {
		t.Errorf("%+v", m)
	}
	_, out, _ = run(t, "groups", "describe", "readers")
	if !strings.Contains(out, "reader-1  127.0.0.1  orders 0,1\n") || !strings.Contains(out, "state     Stable\n") {
		t.Errorf("describe:\n%s", out)
	}
}

// startBroker starts mft's broker in this process and returns its address.
func startBroker(t testing.TB) string {
	t.Helper()
	cfg := broker.DefaultConfig()
	cfg.Data = t.TempDir()
	cfg.Listeners = []broker.Listener{{Addr: "127.0.0.1:0"}}
	b, err := broker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return b.Addrs()[0].String()
}

// TestScripts runs testdata/*.txtar, one behaviour each, with a broker of its
// own for each script. Besides testscript's own commands they have:
//
//	exits CODE PROGRAM [ARG...]            run it and check its exit code
//	produce TOPIC N                        append N records to partition 0
//	commit GROUP TOPIC PARTITION OFFSET    commit an offset of a group
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("MFT_BROKERS", startBroker(env.T().(testing.TB)))
			env.Setenv("GORACE", "atexit_sleep_ms=0") // or each command ends with a second of sleep under -race
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "produce": produce, "commit": commit,
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

func produce(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: produce TOPIC N")
	}
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	client, err := kgo.NewClient(kgo.SeedBrokers(ts.Getenv("MFT_BROKERS")), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	ts.Check(err)
	defer client.Close()
	for range n {
		ts.Check(client.ProduceSync(context.Background(), &kgo.Record{Topic: args[0], Value: []byte("x")}).FirstErr())
	}
}

func commit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: commit GROUP TOPIC PARTITION OFFSET")
	}
	partition, err := strconv.ParseInt(args[2], 10, 32)
	ts.Check(err)
	offset, err := strconv.ParseInt(args[3], 10, 64)
	ts.Check(err)
	client, err := kgo.NewClient(kgo.SeedBrokers(ts.Getenv("MFT_BROKERS")))
	ts.Check(err)
	defer client.Close()
	var offsets kadm.Offsets
	offsets.Add(kadm.Offset{Topic: args[1], Partition: int32(partition), At: offset, LeaderEpoch: -1})
	ts.Check(kadm.NewClient(client).CommitAllOffsets(context.Background(), args[0], offsets))
}
