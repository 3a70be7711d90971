// Package bench measures a broker through an ordinary Kafka client (kgo), the
// same way for mft and for any other that speaks the protocol: how many
// records a second it takes and gives, and how long one is on its way.
package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Config is what the measurements have in common.
type Config struct {
	Brokers []string
	Topic   string
	// Clients is how many clients work side by side, each with connections of
	// its own. At least 1.
	Clients int
	// Options are added to those of every client.
	Options []kgo.Opt
}

// Result is what a measurement of throughput found.
type Result struct {
	Records   int64   `json:"records"`
	Bytes     int64   `json:"bytes"` // of the records' values
	Seconds   float64 `json:"seconds"`
	PerSecond float64 `json:"records_per_second"`
	MBPerS    float64 `json:"mb_per_second"` // 1 MB = 1e6 bytes
	// ClientCPU is the CPU time of this process, user and system, in seconds;
	// 0 where the system does not tell.
	ClientCPU float64 `json:"client_cpu_seconds"`
	// Acks is how long acknowledgements took, for producers.
	Acks *Latency `json:"acks,omitempty"`
}

// Latency is a distribution, in milliseconds.
type Latency struct {
	Count int64   `json:"count"`
	Min   float64 `json:"min_ms"`
	P50   float64 `json:"p50_ms"`
	P90   float64 `json:"p90_ms"`
	P99   float64 `json:"p99_ms"`
	P999  float64 `json:"p99.9_ms"`
	P9999 float64 `json:"p99.99_ms"`
	Max   float64 `json:"max_ms"`
}

// newHistogram counts from a microsecond to ten minutes, to three digits.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, (10 * time.Minute).Microseconds(), 3)
}

func record(h *hdrhistogram.Histogram, d time.Duration) error {
	return h.RecordValue(max(1, min(d.Microseconds(), h.HighestTrackableValue())))
}

func latency(h *hdrhistogram.Histogram) *Latency {
	ms := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1000 }
	return &Latency{
		Count: h.TotalCount(), Min: float64(h.Min()) / 1000, Max: float64(h.Max()) / 1000,
		P50: ms(50), P90: ms(90), P99: ms(99), P999: ms(99.9), P9999: ms(99.99),
	}
}

// result completes a measurement that began at start with cpu seconds used.
func result(records, bytes int64, start time.Time, cpu float64) Result {
	s := time.Since(start).Seconds()
	return Result{
		Records: records, Bytes: bytes, Seconds: s,
		PerSecond: float64(records) / s, MBPerS: float64(bytes) / 1e6 / s,
		ClientCPU: cpuSeconds() - cpu,
	}
}

func (c *Config) client(more ...kgo.Opt) (*kgo.Client, error) {
	opts := append([]kgo.Opt{kgo.SeedBrokers(c.Brokers...), kgo.ClientID("mft-bench"), kgo.DisableClientMetrics()}, c.Options...)
	return kgo.NewClient(append(opts, more...)...)
}

// CreateTopic creates the topic, unless it exists, and waits until it can be
// written to. configs are topic configs by Kafka's names.
func CreateTopic(ctx context.Context, cfg Config, partitions int32, replicas int16, configs map[string]string) error {
	cl, err := cfg.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	values := make(map[string]*string, len(configs))
	for k, v := range configs {
		values[k] = &v
	}
	adm := kadm.NewClient(cl)
	if _, err = adm.CreateTopic(ctx, partitions, replicas, values, cfg.Topic); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("create topic %s: %w", cfg.Topic, err)
	}
	for {
		topics, err := adm.ListTopics(ctx, cfg.Topic)
		if err != nil {
			return fmt.Errorf("look at topic %s: %w", cfg.Topic, err)
		}
		if t := topics[cfg.Topic]; t.Err == nil && led(t) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("topic %s has no leader yet: %w", cfg.Topic, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// led reports whether every partition has a leader.
func led(t kadm.TopicDetail) bool {
	for _, p := range t.Partitions {
		if p.Leader < 0 || p.Err != nil {
			return false
		}
	}
	return len(t.Partitions) > 0
}

// payload returns size bytes; random ones do not compress, others do.
func payload(size int, random bool, seed uint64) []byte {
	b := make([]byte, size)
	if random {
		var key [32]byte
		key[0], key[1] = byte(seed), byte(seed>>8)
		_, _ = rand.NewChaCha8(key).Read(b) // never fails
		return b
	}
	words := []string{"order ", "payment ", "transfer ", "delivered ", "2026-01-31T12:00:00Z ", "status=ok "}
	rng := rand.New(rand.NewPCG(seed, 2))
	for at := 0; at < size; {
		at += copy(b[at:], words[rng.IntN(len(words))])
	}
	return b
}
