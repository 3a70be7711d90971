package report

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// column is one of a table.
type column struct {
	metric Metric
	title  string
}

var (
	throughput = []column{{MBPerS, "MB/s"}, {RecordsPerS, "records/s"}, {BrokerCPU, "broker CPU s/GB"}, {ClientCPU, "client CPU s/GB"}, {RSSLoaded, "broker MiB"}}
	latencies  = []column{{P50, "p50 ms"}, {P99, "p99 ms"}, {P999, "p99.9 ms"}, {P9999, "p99.99 ms"}, {Max, "max ms"}, {RSSLoaded, "broker MiB"}}
)

// sections are the tables, in order.
var sections = []struct {
	work    Work
	title   string
	text    string
	columns []column
}{
	{Start, "Start-up and idle memory", "From starting the broker's process to its first acknowledgement, to a client that was waiting for it. " +
		"Memory is resident memory some seconds after.", []column{{FirstAck, "first ack ms"}, {RSSIdle, "idle MiB"}}},
	{Produce, "Produce", "`acks=all`, random values, one client process, as fast as the broker acknowledges.",
		append(slices.Clone(throughput), column{P99, "ack p99 ms"}, column{DiskPerByte, "disk bytes/byte"})},
	{Consume, "Consume", "What was produced before, from the page cache, one client process.", throughput},
	{Latency, "End-to-end latency", "From when a record of 1 KiB was to be sent, at a fixed pace whatever the system does, to its arrival at a consumer.",
		append([]column{{Rate, "records/s"}}, latencies...)},
	{FanOut, "Fan-out, live", "End-to-end latency of 100 records of 1 KiB a second, to each of so many consumers.", latencies},
	{FanOutRead, "Fan-out, reading", "So many consumers, in one process, each of which reads the whole topic; MB/s of all together.", throughput},
	{CatchUp, "Catch-up reads while producing", "A consumer reads a backlog while 1,000 records of 1 KiB a second are produced: its rate, and how long acknowledgements take without and with it.",
		[]column{{MBPerS, "read MB/s"}, {AckP99Alone, "ack p99 alone ms"}, {AckP99, "ack p99 meanwhile ms"}}},
	{KafkaTools, "Kafka's own tools", "The same brokers under the tools that come with Kafka, records of 1 KiB.",
		[]column{{MBPerS, "MB/s"}, {RecordsPerS, "records/s"}, {Mean, "mean ms"}, {P50, "p50 ms"}, {P99, "p99 ms"}, {P999, "p99.9 ms"}}},
	{Files, "Files", "From starting the sender to the last file in its place. Brokers: `mft-produce` to `mft-consume`, through the topic's log on disk, digests checked, " +
		"with `mft` files are fsynced; NATS: its object store, digests checked. The others send straight into the directory. What arrived was compared with what was sent after each.",
		[]column{{Seconds, "s"}, {MBPerS, "MB/s"}, {BrokerCPU, "broker or daemon CPU s/GB"}, {ClientCPU, "both clients CPU s/GB"}, {RSSLoaded, "broker MiB"}}},
	{Partitions, "Cost of partitions", "Producing 1 KiB to a topic with so many partitions.", append(slices.Clone(throughput), column{Seconds, "created in s"})},
	{TopicSize, "Cost of a large topic", "A topic that grows: producing its last part, and reading 1 GiB from its beginning, 1 MiB records.",
		append(slices.Clone(throughput), column{FirstAck, "restart to first ack ms"})},
	{Clients, "Cost of clients", "So many producing clients in one process, 1 KiB.", throughput},
}

// Write writes RESULTS.md.
func (r *Results) Write(w io.Writer) error {
	p := &printer{w: w}
	p.printf("# Results\n\nMade by `%s` (the %s form), %s to %s UTC. Medians, with the smallest and the largest of the repetitions, in which the "+
		"systems take turns. How to read and repeat this: `benchmarks/README.md`. Raw data: [results.json](results.json).\n",
		r.Command, r.Form, r.Started.UTC().Format("2006-01-02 15:04"), r.Ended.UTC().Format(time.TimeOnly))
	r.targets(p)
	p.printf("\n## Charts\n")
	for _, c := range r.charts() {
		p.printf("\n![%s](%s)\n", c.title, c.file)
	}
	for _, s := range sections {
		r.table(p, s.work, s.title, s.text, s.columns)
	}
	r.installed(p)
	r.surroundings(p)
	return p.err
}

type printer struct {
	w   io.Writer
	err error
}

func (p *printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

func (r *Results) targets(p *printer) {
	p.printf("\n## Targets\n\nRatios of the first system's value to the second's, each within one repetition: the median, and the smallest and largest. Of files, the value is the time, so less is better.\n\n" +
		"| work | systems | aim | measured | |\n|---|---|---|---|---|\n")
	for _, v := range r.Verdicts() {
		measured := "–"
		if v.Ratio.N > 0 {
			measured = v.Ratio.String()
		}
		p.printf("| %s | %s : %s | %s | %s | %s |\n", v.What, v.Of, v.To, v.Aim, measured, v.State)
	}
}

// table prints what was found about one kind of work, losing rows like winning ones, failed ones too.
func (r *Results) table(p *printer, w Work, title, text string, columns []column) {
	type row struct{ c, system string }
	var cases []string
	failed := make(map[row]string)
	for _, s := range r.Samples {
		if s.Work != w {
			continue
		}
		if !slices.Contains(cases, s.Case) {
			cases = append(cases, s.Case)
		}
		if s.Error != "" {
			failed[row{s.Case, s.System}] = s.Error
		}
	}
	if len(cases) == 0 {
		return
	}
	// A column that nobody has a value for is left out.
	columns = slices.DeleteFunc(slices.Clone(columns), func(c column) bool {
		return !slices.ContainsFunc(r.Samples, func(s Sample) bool { _, ok := s.Values[c.metric]; return ok && s.Work == w })
	})
	p.printf("\n## %s\n\n%s\n\n| | system |", title, text)
	for _, c := range columns {
		p.printf(" %s |", c.title)
	}
	p.printf("\n|---|---|%s\n", strings.Repeat("---|", len(columns)))
	for _, c := range cases {
		for _, system := range r.systemsOf(w, c) {
			p.printf("| %s | %s |", c, system)
			for _, col := range columns {
				if s := r.Stat(w, c, system, col.metric); s.N > 0 {
					p.printf(" %s |", s)
				} else {
					p.printf(" – |")
				}
			}
			p.printf("\n")
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(failed), func(a, b row) int { return strings.Compare(a.c+a.system, b.c+b.system) }) {
		reason, _, _ := strings.Cut(failed[k], "\n")
		p.printf("\nFailed: %s, %s: %s\n", k.system, k.c, reason)
	}
}

// systemsOf are those that a case was tried with, in the order in which they took turns.
func (r *Results) systemsOf(w Work, c string) []string {
	var all []string
	for _, s := range r.Samples {
		if s.Work == w && s.Case == c && !slices.Contains(all, s.System) {
			all = append(all, s.System)
		}
	}
	return all
}

func (r *Results) installed(p *printer) {
	p.printf("\n## Installed size\n\n| system | MiB | |\n|---|---|---|\n")
	notes := map[string]string{"mft": "broker, produce, consume, admin", "kafka": "jars and Java", "nats": "server", "scp": "scp, sshd, ssh-keygen", "nc": "nc, tar"}
	for _, k := range slices.Sorted(maps.Keys(r.Installed)) {
		p.printf("| %s | %s | %s |\n", k, short(float64(r.Installed[k])/(1<<20)), notes[k])
	}
}

func (r *Results) surroundings(p *printer) {
	p.printf("\n## Machine, versions, settings\n\n%s; %d cores; %s of memory; %s; work directory on %s; %s.\n\nNetwork: %s.\n",
		r.Hardware.CPU, r.Hardware.Cores, r.Hardware.Memory, r.Hardware.System, r.Hardware.Disk, r.Hardware.Go, r.Network)
	p.printf("\nWhat the machine could do, measured between the systems:\n\n| | unit | median (smallest–largest) |\n|---|---|---|\n")
	var names []string
	units, values := make(map[string]string), make(map[string][]float64)
	var loads []float64
	for _, sample := range r.Limits {
		loads = append(loads, sample.Load)
		for _, l := range sample.Limits {
			if _, ok := values[l.Name]; !ok {
				names = append(names, l.Name)
			}
			units[l.Name], values[l.Name] = l.Unit, append(values[l.Name], l.Value)
		}
	}
	for _, n := range names {
		p.printf("| %s | %s | %s |\n", n, units[n], stat(values[n]))
	}
	p.printf("| load average when these were measured | | %s |\n", stat(loads))
	p.printf("\n| system | version |\n|---|---|\n")
	for _, k := range slices.Sorted(maps.Keys(r.Versions)) {
		p.printf("| %s | %s |\n", k, r.Versions[k])
	}
	p.printf("\n| | settings |\n|---|---|\n")
	for _, k := range slices.Sorted(maps.Keys(r.Settings)) {
		p.printf("| %s | %s |\n", k, r.Settings[k])
	}
	if len(r.Skipped) > 0 {
		p.printf("\n## Not measured\n\n")
		for _, s := range r.Skipped {
			where := s.System
			if s.Work != "" {
				where += ", " + string(s.Work)
			}
			reason, _, _ := strings.Cut(s.Reason, "\n")
			p.printf("- %s: %s\n", where, reason)
		}
	}
}

func (s Stat) String() string {
	if s.N == 1 {
		return short(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", short(s.Median), short(s.Min), short(s.Max))
}

// short prints a number with three digits that count.
func short(v float64) string {
	switch abs := math.Abs(v); {
	case abs >= 1000:
		return humanize.Comma(int64(math.Round(v)))
	case abs >= 100:
		return fmt.Sprintf("%.0f", v)
	case abs >= 10:
		return trim(fmt.Sprintf("%.1f", v))
	case abs >= 1:
		return trim(fmt.Sprintf("%.2f", v))
	default:
		return trim(fmt.Sprintf("%.3f", v))
	}
}

func trim(s string) string { return strings.TrimSuffix(strings.TrimRight(s, "0"), ".") }
