package producer_test

import (
	"crypto/rand"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kfake"

	"mft/producer"
)

// TestBrokerGoesAway takes the broker away in the middle of a transfer and
// brings it back once the producer has said that it waits.
func TestBrokerGoesAway(t *testing.T) {
	t.Parallel()
	t.Run("mft", func(t *testing.T) {
		data, addr := t.TempDir(), fmt.Sprintf("127.0.0.1:%d", freePort(t))
		testBrokerGoesAway(t, addr, func() (stop func()) { return runBroker(t, data, addr, 1).stop })
	})
	t.Run("kfake", func(t *testing.T) {
		data, port := t.TempDir(), freePort(t)
		testBrokerGoesAway(t, fmt.Sprintf("127.0.0.1:%d", port), func() (stop func()) {
			return startKafka(t, kfake.Ports(port), kfake.DataDir(data), kfake.SyncWrites()).Close
		})
	})
}

func testBrokerGoesAway(t *testing.T, addr string, start func() (stop func())) {
	stop := start()
	content := make([]byte, 24*defaultChunk)
	rand.Read(content)
	file := writeFile(t, filepath.Join(t.TempDir(), "file"), content)

	var (
		gone, away = make(chan struct{}), make(chan struct{})
		told       = map[string]int{}
		mu         sync.Mutex
		once       sync.Once
	)
	p := newProducer(t, []string{addr}, func(c *producer.Config) {
		c.Events.Advance = func(string, int64) { once.Do(func() { close(gone) }) }
		c.Logger = c.Logger.Hook(zerolog.HookFunc(func(_ *zerolog.Event, _ zerolog.Level, msg string) {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case strings.Contains(msg, "is away"):
				if told["away"]++; told["away"] == 1 {
					close(away)
				}
			case strings.Contains(msg, "is back"):
				told["back"]++
			}
		}))
	})
	var restart sync.WaitGroup
	restart.Go(func() {
		<-gone
		stop()
		select {
		case <-away:
		case <-time.After(timeout):
			t.Error("it does not say that the broker is away")
		}
		start()
	})
	sum, err := p.SendFiles(t.Context(), []string{file}, producer.FileOptions{})
	restart.Wait()
	if err != nil || sum.Files != 1 || sum.Bytes != int64(len(content)) {
		t.Fatalf("%+v, %v", sum, err)
	}
	mu.Lock()
	if told["away"] != 1 || told["back"] != 1 {
		t.Errorf("told %v, want each once", told)
	}
	mu.Unlock()
	newReader(t, []string{addr}).files(1) // every chunk once, in order, and the digest right
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
