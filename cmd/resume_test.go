package cmd_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mft/internal/commandtest"
	"mft/internal/kafkatest"
	"mft/protocol"
)

// window is how much mft-produce has on its way at most, in bytes.
const window = 32 << 20

// lag is how far what it writes down is behind what is acknowledged.
const lag = 4 << 20

// bytesFrom is a number of bytes from a variable.
func bytesFrom(t *testing.T, variable string, otherwise int64) int64 {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// TestCutConnections sends and receives a file over connections that are cut at
// random bytes, a hundred or two. MFT_TEST_CUT_BYTES is its size.
func TestCutConnections(t *testing.T) {
	size := bytesFrom(t, "MFT_TEST_CUT_BYTES", 384<<20)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	toBroker, fromBroker := commandtest.NewProxy(t, seed), commandtest.NewProxy(t, seed+1)
	config := filepath.Join(t.TempDir(), "transfer.yml")
	yml := fmt.Sprintf("broker:\n  listen:\n  - {address: '127.0.0.1:0', advertised: '%s'}\n  - {address: '127.0.0.1:0', advertised: '%s'}\n", toBroker.Addr, fromBroker.Addr)
	if err := os.WriteFile(config, []byte(yml), 0o600); err != nil {
		t.Fatal(err)
	}
	b := commands.Start(t, nil, "mft-broker", "--data", filepath.Join(t.TempDir(), "data"), "-c", config, "--log-format", "json")
	addrs := listening(t, b, 2)
	toBroker.To(addrs[0])
	fromBroker.To(addrs[1])

	source, out := filepath.Join(t.TempDir(), "file"), t.TempDir()
	commandtest.RandomFile(t, source, size, 1)
	const most = 16 << 20 // bytes that a connection lives to carry
	toBroker.CutAfter(most)
	fromBroker.CutAfter(most)
	p := commands.Start(t, nil, "mft-produce", "-b", toBroker.Addr, "-t", "files", "--compress", "none", source)
	c := commands.Start(t, nil, "mft-consume", "-b", fromBroker.Addr, "-t", "files", "--dir", out)
	limit := time.Duration(size>>20)*time.Second + 3*time.Minute
	if err := p.WaitFor(limit); err != nil {
		t.Fatalf("mft-produce: %v\n%s", err, p.Stderr.String())
	}
	toBroker.CutAfter(0)
	awaitFile(t, filepath.Join(out, "file"), size, limit)
	sameFile(t, source, filepath.Join(out, "file"))
	c.KillNow()
	fromBroker.CutAfter(0)

	// Requests that were cut are sent again: five of 1 MiB may be on their way. The broker
	// knows it, so that the topic has every chunk once.
	cuts := toBroker.Cuts.Load()
	twice := toBroker.Up.Load() - size
	t.Logf("%d MiB: %d connections to the broker cut, %d MiB sent twice; %d from it, %d MiB received twice",
		size>>20, cuts, twice>>20, fromBroker.Cuts.Load(), (fromBroker.Down.Load()-size)>>20)
	if cuts < size/most/2 || fromBroker.Cuts.Load() < size/most/2 {
		t.Errorf("only %d and %d connections were cut", cuts, fromBroker.Cuts.Load())
	}
	if bound := (cuts + 1) * 6 << 20; twice > bound {
		t.Errorf("%d bytes were sent twice, more than %d", twice, bound)
	}
	if again := fromBroker.Down.Load() - size; again > (fromBroker.Cuts.Load()+1)*most {
		t.Errorf("%d bytes were received twice", again)
	}
	if in := readTransfers(t, fromBroker.Addr, "files", size); in.twice != 0 || in.transfers != 1 {
		t.Errorf("the topic: %+v", in)
	}
}

// listening waits until a broker listens on n addresses, and returns them.
func listening(t *testing.T, b *commandtest.Process, n int) (addrs []string) {
	t.Helper()
	ctx := withDeadline(t, time.Minute)
	for at := 0; len(addrs) < n; {
		text, next, err := b.Stderr.Line(ctx, at)
		if err != nil {
			t.Fatalf("mft-broker does not listen: %v\n%s", err, b.Stderr.String())
		}
		at = next
		var line struct{ Addr, Message string }
		if json.Unmarshal([]byte(text), &line) == nil && line.Message == "listening" {
			addrs = append(addrs, line.Addr)
		}
	}
	return addrs
}

// TestKilledInTheMiddle kills producer, consumer and broker again and again in
// the middle of one file.
func TestKilledInTheMiddle(t *testing.T) {
	data := t.TempDir()
	b := commands.StartBroker(t, data, "")
	killed(t, b.Addr, "files", func() {
		b.KillNow()
		b = commands.StartBroker(t, data, b.Addr)
	})
}

// TestKafkaKilledInTheMiddle kills producer and consumer in the middle of one
// file that goes through Apache Kafka.
func TestKafkaKilledInTheMiddle(t *testing.T) {
	killed(t, kafkatest.Shared(t).Brokers(), t.Name(), nil)
}

func killed(t *testing.T, addr, topic string, killBroker func()) {
	const size, kills = 256 << 20, 12
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	source, out := filepath.Join(t.TempDir(), "file"), t.TempDir()
	commandtest.RandomFile(t, source, size, 1)
	// The pace keeps the file from being through before it is interrupted.
	produce := func() *commandtest.Process {
		return commands.Start(t, nil, "mft-produce", "-b", addr, "-t", topic, "--compress", "none", "--limit-rate", "30MB", "--json", source)
	}
	consume := func() *commandtest.Process {
		return commands.Start(t, nil, "mft-consume", "-b", addr, "-t", topic, "--dir", out, "--json")
	}
	p, c := produce(), consume()
	producers := 1
	for i := range kills {
		wait := time.NewTimer(time.Duration(100+rng.IntN(700)) * time.Millisecond)
		select {
		case <-wait.C:
		case <-p.Done():
		}
		select {
		case <-p.Done():
			if err := p.Err(); err != nil {
				t.Fatalf("mft-produce: %v\n%s", err, p.Stderr.String())
			}
			continue // it is through; the rest of the kills have nothing to do
		default:
		}
		switch {
		case i%3 == 0 || i%3 == 2 && killBroker == nil:
			p.KillNow()
			p = produce()
			producers++
		case i%3 == 1:
			c.KillNow()
			c = consume()
		default:
			killBroker()
		}
	}
	if err := p.WaitFor(3 * time.Minute); err != nil {
		t.Fatalf("mft-produce: %v\n%s", err, p.Stderr.String())
	}
	awaitFile(t, filepath.Join(out, "file"), size, 3*time.Minute)
	sameFile(t, source, filepath.Join(out, "file"))
	in := readTransfers(t, addr, topic, size)
	t.Logf("%d runs of mft-produce, %d transfers, %d MiB of %d in the topic twice", producers, in.transfers, in.twice>>20, size>>20)
	// A producer that is killed before its first chunk is acknowledged has
	// nothing to go on with, but goes on by the same transfer.
	if in.transfers != 1 || in.ends < 1 || in.begins > producers || in.twice > int64(producers-1)*(window+lag) {
		t.Errorf("the topic, after %d runs: %+v", producers, in)
	}
}

func sameFile(t *testing.T, want, got string) {
	t.Helper()
	a, err := commandtest.Sum(want)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := commandtest.Sum(got); err != nil || a != b {
		t.Errorf("%s is not as it was sent: %v", got, err)
	}
}

// awaitFile waits until a file is in its place.
func awaitFile(t *testing.T, name string, size int64, limit time.Duration) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if info, err := os.Stat(name); err == nil && info.Size() == size {
			return
		}
		if time.Since(began) > limit {
			t.Fatalf("%s did not arrive", name)
		}
	}
}

// inTopic is what a topic has of one file.
type inTopic struct {
	transfers, begins, ends int
	twice                   int64 // bytes
}

// readTransfers reads a topic to the end of its file.
func readTransfers(t *testing.T, addr, topic string, size int64) (in inTopic) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableClientMetrics())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx := withDeadline(t, 2*time.Minute)
	ids := make(map[string]bool)
	var bytes int64
	for in.ends == 0 {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatal("the topic has no end of the file")
		}
		fetches.EachRecord(func(r *kgo.Record) {
			f, err := protocol.ParseFileRecord(r.Key, r.Value, r.Headers)
			if err != nil {
				t.Fatal(err)
			}
			ids[string(f.Transfer)] = true
			switch f.Kind {
			case protocol.KindBegin:
				in.begins++
			case protocol.KindChunk:
				bytes += int64(len(f.Data))
			case protocol.KindEnd:
				in.ends++
			}
		})
	}
	in.transfers, in.twice = len(ids), bytes-size
	return in
}
