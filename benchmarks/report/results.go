// Package report is what the benchmarks found: the raw data as JSON, and from it tables, targets and charts.
package report

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	"mft/benchmarks/machine"
)

// Results are everything that a run found.
type Results struct {
	Started  time.Time         `json:"started"`
	Ended    time.Time         `json:"ended"`
	Form     string            `json:"form"`    // tiny, short or long
	Command  string            `json:"command"` // the command line
	Hardware machine.Hardware  `json:"hardware"`
	Network  string            `json:"network"`  // what connections were made over
	Versions map[string]string `json:"versions"` // by system
	Settings map[string]string `json:"settings"` // by broker, or other way to move files
	// Installed is the size of what is installed to run a system, in bytes.
	Installed map[string]int64 `json:"installed_bytes"`
	Limits    []LimitSample    `json:"limits"`
	Samples   []Sample         `json:"samples"`
	Skipped   []Skip           `json:"skipped"`
}

// LimitSample is what the machine could do at some moment.
type LimitSample struct {
	At     time.Time       `json:"at"`
	Load   float64         `json:"load_average"` // of the last minute
	Limits []machine.Limit `json:"limits"`
}

// Sample is one measurement.
type Sample struct {
	Work   Work               `json:"work"`
	Case   string             `json:"case"`
	System string             `json:"system"`
	Rep    int                `json:"rep"` // from 1; the systems take turns in each
	Values map[Metric]float64 `json:"values,omitempty"`
	// Error says why there are no values.
	Error string `json:"error,omitempty"`
}

// Skip is something that was not measured.
type Skip struct {
	System string `json:"system"`
	Work   Work   `json:"work,omitempty"` // empty: any
	Reason string `json:"reason"`
}

// Work is a kind of measurement.
type Work string

// The kinds, in the order of tables.
const (
	Start      Work = "start"
	Produce    Work = "produce"
	Consume    Work = "consume"
	Latency    Work = "latency"
	FanOut     Work = "fan-out"
	FanOutRead Work = "fan-out-read"
	CatchUp    Work = "catch-up"
	KafkaTools Work = "kafka-tools"
	Files      Work = "files"
	Partitions Work = "scale-partitions"
	TopicSize  Work = "scale-topic"
	Clients    Work = "scale-clients"
)

// Metric is what a value means, and its unit.
type Metric string

// The metrics.
const (
	MBPerS      Metric = "mb_per_second"
	RecordsPerS Metric = "records_per_second"
	BrokerCPU   Metric = "broker_cpu_s_per_gb"
	ClientCPU   Metric = "client_cpu_s_per_gb"
	P50         Metric = "p50_ms"
	P99         Metric = "p99_ms"
	P999        Metric = "p99.9_ms"
	P9999       Metric = "p99.99_ms"
	Max         Metric = "max_ms"
	Mean        Metric = "mean_ms"
	Seconds     Metric = "seconds"
	FirstAck    Metric = "first_ack_ms"
	RSSIdle     Metric = "rss_idle_mib"
	RSSLoaded   Metric = "rss_loaded_mib"
	DiskPerByte Metric = "disk_bytes_per_byte"
	Rate        Metric = "rate_per_second" // that was asked for
	AckP99Alone Metric = "ack_p99_alone_ms"
	AckP99      Metric = "ack_p99_ms"
)

// Add adds a measurement.
func (r *Results) Add(s Sample) { r.Samples = append(r.Samples, s) }

// Skip notes something that is not measured, once.
func (r *Results) Skip(s Skip) {
	if !slices.Contains(r.Skipped, s) {
		r.Skipped = append(r.Skipped, s)
	}
}

// Stat sums up the repetitions of one measurement.
type Stat struct {
	Median, Min, Max float64
	N                int
}

// Stat finds the values of a measurement; N is 0 when there are none.
func (r *Results) Stat(w Work, c, system string, m Metric) Stat {
	var all []float64
	for _, s := range r.Samples {
		if v, ok := s.Values[m]; ok && s.Work == w && s.Case == c && s.System == system {
			all = append(all, v)
		}
	}
	return stat(all)
}

func stat(all []float64) Stat {
	if len(all) == 0 {
		return Stat{}
	}
	all = slices.Sorted(slices.Values(all))
	n := len(all)
	return Stat{Median: (all[(n-1)/2] + all[n/2]) / 2, Min: all[0], Max: all[n-1], N: n}
}

// ratio compares a with b in each repetition in which both were measured, and sums that up.
func (r *Results) ratio(a, b point) Stat {
	values := func(p point) map[int]float64 {
		found := make(map[int]float64)
		for _, s := range r.Samples {
			if v, ok := s.Values[p.metric]; ok && s.Work == p.work && s.Case == p.c && s.System == p.system {
				found[s.Rep] = v
			}
		}
		return found
	}
	of, to := values(a), values(b)
	var all []float64
	for rep, v := range of {
		if base, ok := to[rep]; ok && base > 0 {
			all = append(all, v/base)
		}
	}
	return stat(all)
}

// point names a measurement.
type point struct {
	work      Work
	c, system string
	metric    Metric
}

// Load reads results that were written by Write.
func Load(file string) (*Results, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var r Results
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return &r, nil
}
