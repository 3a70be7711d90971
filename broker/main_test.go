package broker

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if data := os.Getenv(childData); data != "" {
		os.Exit(runChild(data))
	}
	// sarama's metrics keep a ticker for the life of the process.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

// running is a broker under test.
type running struct {
	*Broker
	t    testing.TB
	cfg  Config
	stop func() error // stops it once, returns what Run returned
}

// startBroker starts a broker on a free loopback port; it is stopped, and Run
// must not have failed, when the test ends.
func startBroker(t testing.TB, change ...func(*Config)) *running {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Data = filepath.Join(t.TempDir(), "data")
	cfg.Listeners = []Listener{{Addr: "127.0.0.1:0"}}
	cfg.Logger = zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.InfoLevel)
	for _, f := range change {
		f(&cfg)
	}
	return startConfig(t, cfg)
}

func startConfig(t testing.TB, cfg Config) *running {
	t.Helper()
	b, err := New(cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	r := &running{Broker: b, t: t, cfg: cfg}
	stopped := false
	r.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

// restart stops the broker cleanly and starts it again on the same data and
// the same port.
func (r *running) restart() *running {
	r.t.Helper()
	addr := r.addr()
	if err := r.stop(); err != nil {
		r.t.Fatalf("Run: %v", err)
	}
	cfg := r.cfg
	cfg.Listeners = []Listener{{Addr: addr}}
	return startConfig(r.t, cfg)
}

func (r *running) addr() string { return r.Addrs()[0].String() }

func (r *running) client(opts ...kgo.Opt) *kgo.Client {
	r.t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(r.addr()), kgo.AllowAutoTopicCreation(), kgo.RetryTimeout(20 * time.Second)}, opts...)...)
	if err != nil {
		r.t.Fatalf("NewClient: %v", err)
	}
	r.t.Cleanup(cl.Close)
	return cl
}

// testContext ends with the test or after a minute: a test that hangs says
// where.
func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// dial opens a bare connection.
func (r *running) dial() net.Conn {
	r.t.Helper()
	nc, err := net.Dial("tcp", r.addr())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := nc.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			r.t.Error(err)
		}
	})
	return nc
}
