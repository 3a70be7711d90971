package bench

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mft/broker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startBroker starts a broker and returns a configuration for it.
func startBroker(t *testing.T) Config {
	t.Helper()
	return startBrokerOn(t, "127.0.0.1:0")
}

func startBrokerOn(t *testing.T, addr string) Config {
	t.Helper()
	cfg := broker.DefaultConfig()
	cfg.Data, cfg.Listeners = filepath.Join(t.TempDir(), "data"), []broker.Listener{{Addr: addr}}
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
	return Config{Brokers: []string{b.Addrs()[0].String()}, Topic: "bench"}
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestEveryRecordIsCounted(t *testing.T) {
	cfg, ctx := startBroker(t), testContext(t)
	if err := CreateTopic(ctx, cfg, 3, -1, map[string]string{"write.caching": "true"}); err != nil {
		t.Fatal(err)
	}
	if _, err := Consume(ctx, cfg, 0); err == nil {
		t.Error("reading an empty topic is no error")
	}
	cfg.Clients = 2
	sent, err := Produce(ctx, ProduceConfig{Config: cfg, Size: 100, Records: 5001, Random: true})
	if err != nil {
		t.Fatal(err)
	}
	if sent.Records != 5001 || sent.Bytes != 500_100 || sent.Acks.Count != 5001 || sent.PerSecond <= 0 {
		t.Errorf("produced %+v, acks %+v", sent, sent.Acks)
	}
	timed, err := Produce(ctx, ProduceConfig{Config: cfg, Size: 100, Duration: 50 * time.Millisecond})
	if err != nil || timed.Records == 0 {
		t.Fatalf("produced for a while: %+v %v", timed, err)
	}
	read, err := Consume(ctx, cfg, 0)
	if err != nil {
		t.Fatal(err)
	}
	// Each of the two clients reads all of it.
	if want := 2 * (sent.Records + timed.Records); read.Records != want || read.Bytes != 100*want {
		t.Errorf("consumed %+v, want %d records", read, want)
	}
	if read, err = Consume(ctx, cfg, 7); err != nil || read.Records != 14 || read.Bytes != 1400 {
		t.Errorf("consumed the first seven, twice: %+v %v", read, err)
	}
}

func TestLatencyCountsEveryRecord(t *testing.T) {
	cfg, ctx := startBroker(t), testContext(t)
	if err := CreateTopic(ctx, cfg, 1, -1, nil); err != nil {
		t.Fatal(err)
	}
	l, err := EndToEnd(ctx, LatencyConfig{Config: cfg, Size: 64, Rate: 500, Duration: 400 * time.Millisecond, WarmUp: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if l.Count != 200 || l.Min <= 0 || l.P50 < l.Min || l.Max < l.P9999 {
		t.Errorf("%+v", l)
	}
	l, err = EndToEnd(ctx, LatencyConfig{Config: cfg, Size: 64, Rate: 500, Duration: 200 * time.Millisecond, Consumers: 3})
	if err != nil {
		t.Fatal(err)
	}
	if l.Count != 300 { // each consumer gets each
		t.Errorf("three consumers: %+v", l)
	}
	if _, err := EndToEnd(ctx, LatencyConfig{Config: cfg, Size: 8, Rate: 500, Duration: time.Second}); err == nil {
		t.Error("records without room for the time are no error")
	}
}

func TestPaceOfProducing(t *testing.T) {
	const partitions = 3
	cfg, ctx := startBroker(t), testContext(t)
	if err := CreateTopic(ctx, cfg, partitions, -1, nil); err != nil {
		t.Fatal(err)
	}
	cfg.Clients = 2
	sent, err := Produce(ctx, ProduceConfig{Config: cfg, Size: 100, Rate: 1000, Records: 200, Duration: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	// The last of each client's hundred is due after 198 ms.
	if sent.Records != 200 || sent.Acks.Count != 200 || sent.Seconds < 0.198 {
		t.Errorf("%+v, acks %+v", sent, sent.Acks)
	}
	before, err := cfg.records(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sent, err = Produce(ctx, ProduceConfig{Config: cfg, Size: 100, Records: 1, Touch: true})
	if err != nil || sent.Records != 1 || sent.Acks.Count != 1 {
		t.Errorf("what touches is counted: %+v %v", sent, err)
	}
	if after, err := cfg.records(ctx); err != nil || after != before+1+TouchRecords*partitions {
		t.Errorf("%d records are %d: each of %d partitions is to get two: %v", before, after, partitions, err)
	}
	if sent, err = Produce(ctx, ProduceConfig{Config: cfg, Size: 100, Rate: 1000, Records: 1 << 40, Duration: 50 * time.Millisecond}); err != nil || sent.Records > 100 {
		t.Errorf("the time ends what the records do not: %+v %v", sent, err)
	}
}

func TestCreateTopicInSteps(t *testing.T) {
	cfg, ctx := startBroker(t), testContext(t)
	if err := createTopic(ctx, cfg, 5, -1, map[string]string{"write.caching": "true"}, 2); err != nil {
		t.Fatal(err)
	}
	sent, err := Produce(ctx, ProduceConfig{Config: cfg, Size: 1, Records: 1, Touch: true})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := cfg.records(ctx); err != nil || n != sent.Records+5*TouchRecords {
		t.Errorf("%d records in 5 partitions: %v", n, err)
	}
	if err := createTopic(ctx, cfg, 9, -1, nil, 2); err != nil {
		t.Errorf("it is there: %v", err)
	}
}

func TestFirstAckWaitsForTheBroker(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Brokers: []string{ln.Addr().String()}, Topic: "first"}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	type result struct {
		at  time.Time
		err error
	}
	got := make(chan result, 1)
	go func() {
		at, err := FirstAck(testContext(t), cfg, nil)
		got <- result{at, err}
	}()
	started := time.Now()
	startBrokerOn(t, cfg.Brokers[0])
	if r := <-got; r.err != nil || r.at.Before(started) {
		t.Errorf("acknowledged at %v, %v", r.at, r.err)
	}
}
