package report

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// chart is a picture of some measurements: groups of bars on a logarithmic scale, each with its median as a bar, its
// spread as a line, and its figure.
type chart struct {
	file, title, unit string
	better            string // more or less
	groups            []group
}

type group struct {
	title string
	bars  []bar
}

type bar struct {
	system string
	Stat
}

// charts are what is worth a picture, as far as it was measured.
func (r *Results) charts() []chart {
	brokers := []string{"mft", "mft-cached", "kafka", "kafka-fsync", "nats", "nats-always"}
	movers := []string{"mft", "mft-cached", "kafka", "nats", "rsync", "rsync-fsync", "scp", "nc", "tar-nc", "croc", "croc-plain"}
	// What an acknowledgement means belongs to a broker's name.
	label := map[string]string{
		"mft": "mft, fsync", "mft-cached": "mft, page cache", "kafka": "Kafka, page cache", "kafka-fsync": "Kafka, fsync",
		"nats": "NATS, page cache", "nats-always": "NATS, fsync",
	}
	from := func(title string, w Work, c string, m Metric, systems []string) group {
		g := group{title: title}
		for _, s := range systems {
			if v := r.Stat(w, c, s, m); v.N > 0 && v.Median > 0 {
				name := s
				if l, ok := label[s]; ok && w != Files {
					name = l
				}
				g.bars = append(g.bars, bar{name, v})
			}
		}
		return g
	}
	all := []chart{
		{"throughput.svg", "Records of 1 KiB, one partition", "MB/s", "more", []group{
			from("produce, acks=all", Produce, Case1KiB, MBPerS, brokers), from("consume", Consume, Case1KiB, MBPerS, brokers)}},
		{"latency.svg", "End-to-end latency at 1,000 records a second", "ms", "less", []group{
			from("median", Latency, CasePaced, P50, brokers), from("99 of 100 within", Latency, CasePaced, P99, brokers), from("999 of 1,000 within", Latency, CasePaced, P999, brokers)}},
		{"files.svg", "Files from one directory to another", "s", "less", []group{
			from("1 file of 1 GiB", Files, CaseOneFile, Seconds, movers), from("10,000 files of 10 KiB", Files, CaseManyFiles, Seconds, movers)}},
		{"weight.svg", "What a broker costs", "", "less", []group{
			from("memory, idle, MiB", Start, CaseStart, RSSIdle, brokers), from("memory, producing 1 KiB, MiB", Produce, Case1KiB, RSSLoaded, brokers),
			from("CPU seconds per GB produced", Produce, Case1KiB, BrokerCPU, brokers), from("start to first ack, ms", Start, CaseStart, FirstAck, brokers)}},
	}
	var some []chart
	for _, c := range all {
		var groups []group
		for _, g := range c.groups {
			if len(g.bars) > 0 {
				groups = append(groups, g)
			}
		}
		if c.groups = groups; len(groups) > 0 {
			some = append(some, c)
		}
	}
	return some
}

// Charts returns the charts by the names of their files.
func (r *Results) Charts() map[string]string {
	all := make(map[string]string)
	for _, c := range r.charts() {
		all[c.file] = c.svg()
	}
	return all
}

// Places in a chart, in pixels.
const (
	chartWidth = 760
	barsLeft   = 130
	barsRight  = chartWidth - 150
	rowHeight  = 20
	barHeight  = 14
)

// svg draws the chart, for light and dark pages.
func (c chart) svg() string {
	var b strings.Builder
	height := 50
	for _, g := range c.groups {
		height += 34 + rowHeight*len(g.bars)
	}
	unit := c.unit
	if unit != "" {
		unit += ", "
	}
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s">
<style>
text{font:12px system-ui,sans-serif;fill:#24292f}.t{font-size:16px;font-weight:600}.g{font-weight:600}.s{fill:#57606a}
.ours{fill:#0969da}.theirs{fill:#8c959f}.spread{stroke:#24292f;stroke-width:1.5}.axis{stroke:#d0d7de}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#9198a1}.ours{fill:#4493f8}.theirs{fill:#6e7681}.spread{stroke:#e6edf3}.axis{stroke:#3d444d}}
</style>
<text class="t" x="12" y="24">%s</text>
<text class="s" x="12" y="41">%s%s is better; logarithmic scale; medians, lines from the smallest to the largest</text>
`, chartWidth, height, chartWidth, height, html.EscapeString(c.title), html.EscapeString(c.title), html.EscapeString(unit), c.better)
	y := 50
	for _, g := range c.groups {
		y = g.draw(&b, y)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// draw draws a group from y on, and returns where it ends.
func (g group) draw(b *strings.Builder, y int) int {
	y += 22
	fmt.Fprintf(b, "<text class=\"g\" x=\"12\" y=\"%d\">%s</text>\n", y, html.EscapeString(g.title))
	y += 8
	low, high := math.Inf(1), math.Inf(-1)
	for _, v := range g.bars {
		low, high = min(low, v.Min, v.Median), max(high, v.Max)
	}
	// From the power of ten below the smallest, so that it has a bar too.
	from := math.Floor(math.Log10(max(low, 1e-9)) - 0.2)
	to := max(math.Log10(max(high, 1e-9)), from+1)
	x := func(v float64) float64 {
		return barsLeft + (math.Log10(max(v, 1e-9))-from)/(to-from)*(barsRight-barsLeft)
	}
	end := y + rowHeight*len(g.bars)
	for e := from; e <= to; e++ {
		at := x(math.Pow(10, e))
		fmt.Fprintf(b, "<line class=\"axis\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>\n", at, at, y, end)
	}
	for _, v := range g.bars {
		class := "theirs"
		if strings.HasPrefix(v.system, "mft") {
			class = "ours"
		}
		mid := y + rowHeight/2
		fmt.Fprintf(b, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", barsLeft-8, mid+4, html.EscapeString(v.system))
		fmt.Fprintf(b, "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\"/>\n", class, barsLeft, mid-barHeight/2, max(1, x(v.Median)-barsLeft), barHeight)
		if v.N > 1 {
			fmt.Fprintf(b, "<line class=\"spread\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>\n", x(v.Min), x(v.Max), mid, mid)
		}
		fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%d\">%s</text>\n", x(max(v.Median, v.Max))+6, mid+4, short(v.Median))
		y += rowHeight
	}
	return end + 4
}
