package consumer

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"mft/internal/kafka"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestBrokerStartsAgain(t *testing.T) {
	t.Parallel()
	data, dir := t.TempDir(), t.TempDir()
	b := startBroker(t, data, "127.0.0.1:0")
	s := newSender(t, b.addrs, "restart", 2)
	cfg, log := s.config(dir), newOutcomeLog()
	cfg.Once, cfg.Events = false, log.events()
	stop := start(t, cfg)
	first := newUpload("first", randomBytes(5000))
	s.send(0, first.records(1000)...)
	log.wait(t, 1)
	slow := newUpload("slow", randomBytes(5000))
	s.send(1, slow.begin(), slow.chunk(0, 3000))

	b.stop()
	startBroker(t, data, b.addrs[0])
	s.send(1, slow.chunk(3000, 5000), slow.end())
	second := newUpload("second", randomBytes(5000))
	s.send(0, second.records(1000)...)
	log.wait(t, 2)
	if summary := stop(); summary.Partly() {
		t.Errorf("summary %+v", summary)
	}
	equalTrees(t, dir, map[string]string{"first": string(first.content), "slow": string(slow.content), "second": string(second.content)})
}

func TestTopicMadeAnewMeanwhile(t *testing.T) {
	t.Parallel()
	s := newSender(t, startBroker(t, t.TempDir(), "127.0.0.1:0").addrs, "again", 1)
	dir := t.TempDir()
	cfg, log := s.config(dir), newOutcomeLog()
	cfg.Once, cfg.Events = false, log.events()
	start(t, cfg)
	s.send(0, newUpload("old", []byte("x")).records(10)...)
	log.wait(t, 1)
	if _, err := kadm.NewClient(s.client).DeleteTopic(t.Context(), s.topic); err != nil {
		t.Fatal(err)
	}
	again := newSender(t, s.brokers, s.topic, 1)
	again.send(0, newUpload("new", []byte("x")).records(10)...)
	if names := log.wait(t, 1); names[0] != "new" {
		t.Errorf("received %v", names)
	}
}

func TestNoBroker(t *testing.T) {
	t.Parallel()
	b := startBroker(t, t.TempDir(), "127.0.0.1:0")
	b.stop() // an address where nobody listens
	cfg := FilesConfig{Config: Config{Brokers: b.addrs, Topic: "t", ConnectTimeout: 300 * time.Millisecond, Logger: testLog(t)}, Dir: t.TempDir(), Once: true}
	_, err := ReceiveFiles(t.Context(), cfg)
	if _, ok := errors.AsType[*kafka.UnreachableError](err); !ok {
		t.Errorf("files: %v", err)
	}
	_, err = ReadRecords(t.Context(), RecordsConfig{Config: cfg.Config}, io.Discard)
	if _, ok := errors.AsType[*kafka.UnreachableError](err); !ok {
		t.Errorf("records: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	cfg.ConnectTimeout = -1
	if _, err := ReceiveFiles(ctx, cfg); err != nil {
		t.Errorf("stopped while it waits: %v", err)
	}
}

// TestTransactions reads what a transactional producer wrote: its markers take
// offsets, also the last ones, and what it aborted does not count.
func TestTransactions(t *testing.T) {
	t.Parallel()
	s := newSender(t, otherKafka(t), "transactions", 1)
	client, err := kgo.NewClient(kgo.SeedBrokers(s.brokers...), kgo.TransactionalID("tx"), kgo.DefaultProduceTopic(s.topic), kgo.DisableClientMetrics())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	transaction := func(commit kgo.TransactionEndTry, records ...*kgo.Record) {
		t.Helper()
		if err := client.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := client.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := client.EndTransaction(t.Context(), commit); err != nil {
			t.Fatal(err)
		}
	}
	good, bad := newUpload("good", randomBytes(3000)), newUpload("bad", randomBytes(3000))
	transaction(kgo.TryCommit, good.records(1000)...)
	transaction(kgo.TryAbort, bad.records(1000)...)
	dir := t.TempDir()
	if summary := receive(t, s.config(dir)); summary.Files != 1 || summary.Partly() {
		t.Errorf("summary %+v", summary)
	}
	equalTrees(t, dir, map[string]string{"good": string(good.content)})

	lines := newSender(t, s.brokers, "lines", 1)
	for i := range 5 {
		r := &kgo.Record{Topic: "lines", Value: []byte{'0' + byte(i)}}
		transaction(kgo.TransactionEndTry(i%2 == 0), r)
	}
	for i := range 5 {
		lines.send(0, &kgo.Record{Value: []byte{'a' + byte(i)}})
		transaction(kgo.TryAbort, &kgo.Record{Topic: "lines", Value: []byte("no")})
	}
	cfg := lines.records()
	cfg.Limit = 6
	if got := strings.ReplaceAll(read(t, cfg), "\n", ""); got != "4abcde" {
		t.Errorf("the last 6 are %q", got)
	}
}
