package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"

	"mft/broker"
)

// runBroker runs a broker on a data directory while do is called with its address.
func runBroker(t *testing.T, data string, do func(addr string)) {
	t.Helper()
	cfg := broker.DefaultConfig()
	cfg.Data, cfg.Listeners, cfg.Logger = data, []broker.Listener{{Addr: "127.0.0.1:0"}}, zerolog.Nop()
	b, err := broker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	do(b.Addrs()[0].String())
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// brokerData is the data directory of a broker that has stopped, with records a, b, c in topic letters.
func brokerData(t *testing.T) string {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	runBroker(t, data, func(addr string) {
		client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic("letters"))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		for _, text := range []string{"a", "b", "c"} {
			r := &kgo.Record{Key: []byte("k-" + text), Value: []byte("letter " + text), Headers: []kgo.RecordHeader{{Key: "h", Value: []byte{0xff}}}}
			if err := client.ProduceSync(t.Context(), r).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	})
	return data
}

func TestDump(t *testing.T) {
	data := brokerData(t)
	for _, tc := range []struct {
		args []string
		want []string
	}{
		{[]string{data}, []string{"meta.snapshot  ", "letters-0  offsets 0..3  segment 0", "offsets 1..1  1 record", "checked 6 files", "3 batches: no damage"}},
		{[]string{"--records", data}, []string{`offset 2  2`, `key "k-c"  value "letter c"  h="\xff"`, `state {`}},
		{[]string{"--verify", data}, []string{"no damage"}},
		{[]string{"--json", "--records", filepath.Join(data, "topics", "letters-0")}, []string{`"value":"letter b"`, `"value_base64":"/w=="`, `"kind":"total"`}},
		{[]string{filepath.Join(data, "topics", "letters-0", "00000000000000000000.log"), filepath.Join(data, "meta.snapshot")}, []string{"checked 2 files"}},
		{[]string{filepath.Join(data, "journal")}, []string{"checked 1 file"}},
	} {
		code, out, errOut := run(t, append([]string{"dump"}, tc.args...)...)
		if code != 0 {
			t.Errorf("%v: code %d, %s", tc.args, code, errOut)
		}
		for _, want := range tc.want {
			if !strings.Contains(out, want) {
				t.Errorf("%v: no %q in\n%s", tc.args, want, out)
			}
		}
		if tc.args[0] == "--json" {
			for line := range strings.Lines(out) {
				if !json.Valid([]byte(line)) {
					t.Errorf("not JSON: %s", line)
				}
			}
		}
	}
	if code, _, errOut := run(t, "dump", t.TempDir()); code != 1 || !strings.Contains(errOut, "neither a data directory nor") {
		t.Errorf("code %d, %s", code, errOut)
	}
}

// A flipped bit is found, with its place, and cut when it is said so: everything else stays.
func TestDumpRepairs(t *testing.T) {
	data := brokerData(t)
	log := filepath.Join(data, "topics", "letters-0", "00000000000000000000.log")
	whole, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	at := len(whole) / 2 // in the second of three batches of the same size
	damaged := append([]byte(nil), whole...)
	damaged[at] ^= 1
	if err := os.WriteFile(log, damaged, 0o644); err != nil {
		t.Fatal(err)
	}

	step := func(code int, out, errOut string, args ...string) {
		t.Helper()
		gotCode, gotOut, gotErr := run(t, append([]string{"dump"}, args...)...)
		if gotCode != code || !strings.Contains(gotOut, out) || !strings.Contains(gotErr, errOut) {
			t.Fatalf("%v: code %d, %q, %q; want %d, %q, %q", args, gotCode, gotOut, gotErr, code, out, errOut)
		}
	}
	where := log + " at byte "
	step(3, "damage: "+where, "1 damaged place found", "--verify", data)
	step(3, ", offset 1: CORRUPT_MESSAGE: the CRC32C", "", "--verify", log)
	runBroker(t, data, func(string) { step(1, "", "is in use by", "--repair", data) })
	step(1, "", "is not a data directory", "--repair", filepath.Dir(log))
	step(3, "would cut", "nothing was changed in "+data+": add --yes", "--repair", data)
	if now, err := os.ReadFile(log); err != nil || string(now) != string(damaged) {
		t.Fatal("changed unasked", err)
	}
	step(0, "the records with offsets 1 to 1 are lost", "", "--repair", "--yes", data)
	step(0, "no damage", "", "--verify", data)
	step(0, "nothing to repair", "", "--repair", data)

	runBroker(t, data, func(addr string) {
		client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics("letters"), kgo.DefaultProduceTopic("letters"))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if err := client.ProduceSync(t.Context(), kgo.StringRecord("letter d")).FirstErr(); err != nil {
			t.Fatal(err)
		}
		var got []string
		for len(got) < 3 {
			fetches := client.PollFetches(t.Context())
			if err := fetches.Err(); err != nil {
				t.Fatal(err)
			}
			fetches.EachRecord(func(r *kgo.Record) { got = append(got, string(r.Value)) })
		}
		if strings.Join(got, ",") != "letter a,letter c,letter d" {
			t.Errorf("consumed %q", got)
		}
	})
}
