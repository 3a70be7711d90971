package main

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"mft/benchmarks/report"
	"mft/benchmarks/system"
)

// kafkaTools has Kafka's own tools measure every broker that speaks its protocol, so that nobody can say we chose the client.
func (r *runner) kafkaTools(ctx context.Context) error {
	if !r.tools.Has("kafka") {
		r.res.Skip(report.Skip{System: "all", Work: report.KafkaTools, Reason: "Kafka's jars are not there"})
		return nil
	}
	fit := func(b system.Broker) bool { return b.Kafka() && !(b.Fsync && r.form.name == "tiny") }
	return r.sessions(ctx, report.KafkaTools, r.form.fewReps, r.brokers(fit), func(s *session, ctx context.Context) error {
		if err := s.warm(ctx); err != nil {
			return err
		}
		for _, measure := range []func(context.Context) error{s.producerPerformance, s.consumerPerformance, s.endToEndLatency} {
			if err := measure(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

const toolsTopic, toolsSize = "tools", 1 << 10

// tool runs one of the tools and returns what it printed.
func (s *session) tool(ctx context.Context, class string, args ...string) (string, error) {
	out, err := s.tools.JavaTool("org.apache.kafka.tools."+class, args...).Output(ctx)
	return string(out), err
}

var produced = regexp.MustCompile(`(\d+) records sent, ([\d.]+) records/sec .*, ([\d.]+) ms avg latency, .* (\d+) ms 50th, .* (\d+) ms 99th, (\d+) ms 99\.9th`)

func (s *session) producerPerformance(ctx context.Context) error {
	// The topic, with its settings.
	if err := s.measured(ctx, "first-ack", system.Load{Topic: toolsTopic}, new(struct{})); err != nil {
		return err
	}
	n := s.form.tools
	if seen := s.res.Stat(report.Produce, report.Case1KiB, s.Name, report.RecordsPerS); seen.N > 0 {
		n = min(n, int64(10*seen.Median)) // ten seconds' work
	} else if s.Name == "kafka-fsync" {
		n = min(n, 50_000)
	}
	out, err := s.tool(ctx, "ProducerPerformance", "--topic", toolsTopic, "--num-records", strconv.FormatInt(n, 10), "--record-size", strconv.Itoa(toolsSize),
		"--throughput", "-1", "--producer-props", "bootstrap.servers="+s.Addr, "acks=all")
	if err != nil {
		return err
	}
	all := produced.FindAllStringSubmatch(out, -1) // the last one sums up
	if len(all) == 0 || all[len(all)-1][1] != strconv.FormatInt(n, 10) {
		return fmt.Errorf("ProducerPerformance printed %q", out)
	}
	s.toolRecords = n
	v, err := numbers(all[len(all)-1][2:])
	if err != nil {
		return err
	}
	s.add(report.KafkaTools, "ProducerPerformance", s.Name, s.rep, map[report.Metric]float64{
		report.RecordsPerS: v[0], report.MBPerS: v[0] * toolsSize / 1e6, report.Mean: v[1], report.P50: v[2], report.P99: v[3], report.P999: v[4],
	})
	return s.settle()
}

// consumerPerformance counts from the first fetch on: joining a group takes seconds, which says nothing of throughput.
func (s *session) consumerPerformance(ctx context.Context) error {
	out, err := s.tool(ctx, "ConsumerPerformance", "--topic", toolsTopic, "--bootstrap-server", s.Addr, "--messages", strconv.FormatInt(s.toolRecords, 10), "--hide-header")
	if err != nil {
		return err
	}
	// start.time, end.time, data.consumed.in.MB, MB.sec, data.consumed.in.nMsg, nMsg.sec, rebalance.time.ms, fetch.time.ms, fetch.MB.sec, fetch.nMsg.sec
	lines := strings.Split(strings.TrimSpace(out), "\n")
	fields := strings.Split(lines[len(lines)-1], ",")
	const fetchRate = 9
	if len(fields) <= fetchRate {
		return fmt.Errorf("ConsumerPerformance printed %q", out)
	}
	rate, err := strconv.ParseFloat(strings.TrimSpace(fields[fetchRate]), 64)
	if err != nil {
		return fmt.Errorf("ConsumerPerformance printed %q: %w", out, err)
	}
	s.add(report.KafkaTools, "ConsumerPerformance", s.Name, s.rep, map[report.Metric]float64{report.RecordsPerS: rate, report.MBPerS: rate * toolsSize / 1e6})
	return nil
}

var (
	averageLatency = regexp.MustCompile(`Avg latency: ([\d.]+) ms`)
	tailLatency    = regexp.MustCompile(`50th = ([\d.]+), 99th = ([\d.]+), 99\.9th = ([\d.]+)`)
)

// endToEndLatency sends one record after the other, each when the last is back.
func (s *session) endToEndLatency(ctx context.Context) error {
	n := max(100, s.form.tools/100)
	if err := s.measured(ctx, "first-ack", system.Load{Topic: "ping"}, new(struct{})); err != nil {
		return err
	}
	out, err := s.tool(ctx, "EndToEndLatency", s.Addr, "ping", strconv.FormatInt(n, 10), "all", strconv.Itoa(toolsSize))
	if err != nil {
		return err
	}
	mean, tail := averageLatency.FindStringSubmatch(out), tailLatency.FindStringSubmatch(out)
	if mean == nil || tail == nil {
		return fmt.Errorf("EndToEndLatency printed %q", out)
	}
	v, err := numbers(append(mean[1:], tail[1:]...))
	if err != nil {
		return err
	}
	s.add(report.KafkaTools, "EndToEndLatency", s.Name, s.rep, map[report.Metric]float64{report.Mean: v[0], report.P50: v[1], report.P99: v[2], report.P999: v[3]})
	return nil
}

func numbers(text []string) ([]float64, error) {
	var all []float64
	for _, t := range text {
		v, err := strconv.ParseFloat(t, 64)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}
