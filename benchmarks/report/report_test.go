package report

import (
	"strings"
	"testing"
)

func results() *Results {
	r := &Results{Form: "tiny"}
	for i, v := range [][2]float64{{100, 40}, {220, 100}, {90, 50}} {
		r.Add(Sample{Work: Produce, Case: Case1KiB, System: "mft-cached", Rep: i + 1, Values: map[Metric]float64{MBPerS: v[0]}})
		r.Add(Sample{Work: Produce, Case: Case1KiB, System: "kafka", Rep: i + 1, Values: map[Metric]float64{MBPerS: v[1]}})
	}
	r.Add(Sample{Work: Produce, Case: Case1KiB, System: "mft-cached", Rep: 4, Values: map[Metric]float64{MBPerS: 1}}) // alone: no ratio
	r.Add(Sample{Work: Produce, Case: Case1KiB, System: "nats", Rep: 1, Error: "it broke\nbadly"})
	return r
}

// Ratios are of one repetition each, in which the systems ran one after the other.
func TestRatios(t *testing.T) {
	r := results()
	if s := r.Stat(Produce, Case1KiB, "mft-cached", MBPerS); s != (Stat{95, 1, 220, 4}) {
		t.Errorf("%+v", s)
	}
	var got Verdict
	for _, v := range r.Verdicts() {
		if v.Of == "mft-cached" && v.To == "kafka" && strings.HasPrefix(v.What, "produce, 1 KiB") {
			got = v
		} else if v.Ratio.N > 0 || v.State != "not measured" {
			t.Errorf("nothing was measured for %+v", v)
		}
	}
	if got.Ratio != (Stat{2.2, 1.8, 2.5, 3}) || got.State != "met" || got.Aim != "≥ 2" {
		t.Errorf("%+v", got)
	}
}

// Every target names work that the forms do: the names of cases are the same.
func TestTargetsAreSensible(t *testing.T) {
	for _, v := range targets() {
		if v.a.work != v.b.work || v.a.c != v.b.c || v.a.metric != v.b.metric || (v.least > 0) == (v.most > 0) {
			t.Errorf("%+v", v)
		}
	}
}

func TestTables(t *testing.T) {
	var b strings.Builder
	if err := results().Write(&b); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"| 1 KiB, 1 partition | mft-cached | 95 (1–220) |",
		"| 1 KiB, 1 partition | kafka | 50 (40–100) |",
		"| 1 KiB, 1 partition | nats | – |", // a failure has its row, and its reason
		"Failed: nats, 1 KiB, 1 partition: it broke",
		"| produce, 1 KiB, acks from the page cache | mft-cached : kafka | ≥ 2 | 2.2 (1.8–2.5) | met |",
		"| produce, 1 KiB, acks from the page cache | mft-cached : nats | ≥ 5 | – | not measured |",
	} {
		if !strings.Contains(b.String(), line+"\n") {
			t.Errorf("no line %q in\n%s", line, b.String())
		}
	}
}

func TestShort(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.0123: "0.012", 0.5: "0.5", 1.234: "1.23", 12.34: "12.3", 100: "100", 123.4: "123", 12345.6: "12,346", 10: "10"} {
		if got := short(v); got != want {
			t.Errorf("%v is %q, want %q", v, got, want)
		}
	}
}
