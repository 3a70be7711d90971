// Package measure is what measurements of any broker have in common, whatever client they use: results, latencies,
// a pace, and data to send.
package measure

import (
	"encoding/binary"
	"math/rand/v2"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

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

// Run is a measurement of throughput under way.
type Run struct {
	start time.Time
	cpu   float64
}

// Start begins a measurement.
func Start() Run { return Run{time.Now(), CPUSeconds()} }

// Result completes a measurement of so many records and bytes.
func (r Run) Result(records, bytes int64) Result {
	s := time.Since(r.start).Seconds()
	return Result{
		Records: records, Bytes: bytes, Seconds: s,
		PerSecond: float64(records) / s, MBPerS: float64(bytes) / 1e6 / s,
		ClientCPU: CPUSeconds() - r.cpu,
	}
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

// Histogram counts latencies from a microsecond to ten minutes, to three digits. It is not for several goroutines.
type Histogram struct{ h *hdrhistogram.Histogram }

// NewHistogram makes an empty one.
func NewHistogram() Histogram {
	return Histogram{hdrhistogram.New(1, (10 * time.Minute).Microseconds(), 3)}
}

// Add counts a latency; what is out of the range counts as its end.
func (h Histogram) Add(d time.Duration) error {
	return h.h.RecordValue(max(1, min(d.Microseconds(), h.h.HighestTrackableValue())))
}

// Merge adds what other has counted.
func (h Histogram) Merge(other Histogram) { h.h.Merge(other.h) }

// Latency sums up what was counted.
func (h Histogram) Latency() *Latency {
	ms := func(q float64) float64 { return float64(h.h.ValueAtQuantile(q)) / 1000 }
	return &Latency{
		Count: h.h.TotalCount(), Min: float64(h.h.Min()) / 1000, Max: float64(h.h.Max()) / 1000,
		P50: ms(50), P90: ms(90), P99: ms(99), P999: ms(99.9), P9999: ms(99.99),
	}
}

// Payload returns size bytes; random ones do not compress, others do.
func Payload(size int, random bool, seed uint64) []byte {
	b := make([]byte, size)
	if random {
		var key [32]byte
		binary.LittleEndian.PutUint64(key[:], seed)
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
