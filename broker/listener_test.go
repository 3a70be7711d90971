package broker

import (
	"context"
	"errors"
	"net"
	"strconv"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"mft/segment"
)

// metadataOf asks one address for the cluster, and returns the broker's
// address that it names.
func metadataOf(t *testing.T, addr string) string {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	resp, err := kmsg.NewPtrMetadataRequest().RequestWith(testContext(t), cl)
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.Brokers) != 1 {
		t.Fatalf("%d brokers", len(resp.Brokers))
	}
	return net.JoinHostPort(resp.Brokers[0].Host, strconv.Itoa(int(resp.Brokers[0].Port)))
}

func TestClientStaysOnItsListener(t *testing.T) {
	r := startBroker(t, func(c *Config) {
		c.Listeners = []Listener{
			{Addr: "127.0.0.1:0"},
			{Addr: "127.0.0.1:0"},
			{Addr: "0.0.0.0:0"},
			{Addr: "127.0.0.1:0", Advertised: "files.example.org:7777"},
		}
	})
	addrs := r.Addrs()
	for i := range 2 {
		if got := metadataOf(t, addrs[i].String()); got != addrs[i].String() {
			t.Errorf("listener %d: told %s, came in by %s", i, got, addrs[i])
		}
	}
	_, port, err := net.SplitHostPort(addrs[2].String())
	if err != nil {
		t.Fatal(err)
	}
	if came := "127.0.0.1:" + port; metadataOf(t, came) != came {
		t.Errorf("wildcard listener: told %s, came in by %s", metadataOf(t, came), came)
	}
	if got := metadataOf(t, addrs[3].String()); got != "files.example.org:7777" {
		t.Errorf("advertised listener: told %s", got)
	}

	// All serve the same broker.
	ctx := testContext(t)
	if err := r.client(kgo.DefaultProduceTopic("t")).ProduceSync(ctx, &kgo.Record{Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(addrs[1].String()), kgo.ConsumeTopics("t"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if recs := cl.PollFetches(ctx).Records(); len(recs) != 1 {
		t.Errorf("the second listener served %d records", len(recs))
	}
}

func TestNewSaysWhatIsWrong(t *testing.T) {
	r := startBroker(t)
	fails := func(change func(*Config)) error {
		t.Helper()
		cfg := r.cfg
		cfg.Data = t.TempDir()
		change(&cfg)
		b, err := New(cfg)
		if err == nil {
			t.Error("New succeeded")
			if err := b.Close(); err != nil {
				t.Error(err)
			}
			return errors.New("no error")
		}
		return err
	}
	var inUse *segment.InUseError
	if err := fails(func(c *Config) { c.Data = r.cfg.Data }); !errors.As(err, &inUse) {
		t.Errorf("data in use: %v", err)
	}
	if err := fails(func(c *Config) { c.Listeners = []Listener{{Addr: r.addr()}} }); !errors.As(err, new(*net.OpError)) {
		t.Errorf("port taken: %v", err)
	}
	for name, change := range map[string]func(*Config){
		"advertised": func(c *Config) { c.Listeners = []Listener{{Addr: "127.0.0.1:0", Advertised: "nonsense"}} },
		"partitions": func(c *Config) { c.DefaultPartitions = -2 },
		"config":     func(c *Config) { c.TopicDefaults = map[string]string{"retention.ms": "long"} },
		"unknown":    func(c *Config) { c.TopicDefaults = map[string]string{"no.such.config": "5"} },
		"no data":    func(c *Config) { c.Data = "" },
		"no address": func(c *Config) { c.Listeners = nil },
	} {
		if err := fails(change); len(err.Error()) < 20 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	r := startBroker(t)
	ctx := testContext(t)
	// A consumer in a long poll and an idle connection do not hold it up.
	cl := r.client(kgo.ConsumeTopics("t"))
	polling := make(chan struct{})
	pollCtx, cancel := context.WithCancel(ctx)
	go func() {
		defer close(polling)
		cl.PollFetches(pollCtx)
	}()
	idle := r.dial()
	if err := r.client(kgo.DefaultProduceTopic("t")).ProduceSync(ctx, &kgo.Record{}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := idle.Read(make([]byte, 1)); err == nil {
		t.Error("the idle connection is still open")
	}
	cancel()
	<-polling
}
