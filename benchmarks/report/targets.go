package report

import "fmt"

// Names of cases that targets are about.
const (
	CaseStart     = "start"
	Case1KiB      = "1 KiB, 1 partition"
	CaseWaiting   = "1 KiB, 64 producers that wait for each ack"
	Case1MiB      = "1 MiB, 1 partition"
	CasePaced     = "1,000/s"
	CaseOneFile   = "1 x 1 GiB"
	CaseManyFiles = "10,000 x 10 KiB"
)

// target is something that mft is to reach, as a ratio to another system in the same run.
type target struct {
	what  string
	a, b  point
	least float64 // the ratio is to be at least this
	most  float64 // or at most this
}

// targets are those that the project has set itself for 2 cores, which broker and clients share.
func targets() []target {
	var all []target
	atLeast := func(what string, a, b point, ratio float64) { all = append(all, target{what, a, b, ratio, 0}) }
	atMost := func(what string, a, b point, ratio float64) { all = append(all, target{what, a, b, 0, ratio}) }
	rate := func(w Work, c, system string) point { return point{w, c, system, MBPerS} }

	const produce = "produce, 1 KiB"
	atLeast(produce+", acks from the page cache", rate(Produce, Case1KiB, "mft-cached"), rate(Produce, Case1KiB, "kafka"), 2)
	atLeast(produce+", acks from the page cache", rate(Produce, Case1KiB, "mft-cached"), rate(Produce, Case1KiB, "nats"), 5)
	atLeast(produce+", fsync before every ack", rate(Produce, Case1KiB, "mft"), rate(Produce, Case1KiB, "kafka-fsync"), 30)
	atLeast(produce+", fsync before every ack", rate(Produce, Case1KiB, "mft"), rate(Produce, Case1KiB, "nats-always"), 30)
	atLeast(produce+", fsync before every ack, 64 producers that wait for each", rate(Produce, CaseWaiting, "mft"), rate(Produce, CaseWaiting, "kafka-fsync"), 30)
	atLeast(produce+", fsync before every ack, 64 producers that wait for each", rate(Produce, CaseWaiting, "mft"), rate(Produce, CaseWaiting, "nats-always"), 30)
	atLeast(produce+", our fsync against their page cache", rate(Produce, Case1KiB, "mft"), rate(Produce, Case1KiB, "kafka"), 1)

	atLeast("consume, 1 KiB", rate(Consume, Case1KiB, "mft"), rate(Consume, Case1KiB, "kafka"), 1.5)
	atLeast("consume, 1 KiB", rate(Consume, Case1KiB, "mft"), rate(Consume, Case1KiB, "nats"), 4)
	atLeast("consume, 1 MiB", rate(Consume, Case1MiB, "mft"), rate(Consume, Case1MiB, "kafka"), 1.5)
	atLeast("consume, 1 MiB", rate(Consume, Case1MiB, "mft"), rate(Consume, Case1MiB, "nats"), 1.5)

	for _, w := range []Work{Produce, Consume} {
		cpu := func(system string) point { return point{w, Case1KiB, system, BrokerCPU} }
		atMost(fmt.Sprintf("broker CPU per GB, %s, 1 KiB, acks from the page cache", w), cpu("mft-cached"), cpu("kafka"), 1./3)
		atMost(fmt.Sprintf("broker CPU per GB, %s, 1 KiB, acks from the page cache", w), cpu("mft-cached"), cpu("nats"), 1./10)
	}

	for _, q := range []struct {
		m    Metric
		name string
		most float64
	}{{P50, "p50", 1. / 3}, {P99, "p99", 1. / 5}, {P999, "p99.9", 1. / 5}} {
		at := func(system string) point { return point{Latency, CasePaced, system, q.m} }
		atMost("end-to-end latency at 1,000/s, "+q.name+", page cache", at("mft-cached"), at("kafka"), q.most)
		atMost("end-to-end latency at 1,000/s, "+q.name+", page cache", at("mft-cached"), at("nats"), 1)
		atMost("end-to-end latency at 1,000/s, "+q.name+", our fsync against their page cache", at("mft"), at("kafka"), q.most)
		atMost("end-to-end latency at 1,000/s, "+q.name+", fsync", at("mft"), at("kafka-fsync"), q.most)
		atMost("end-to-end latency at 1,000/s, "+q.name+", fsync", at("mft"), at("nats-always"), 1)
	}

	// Seconds: as fast is a ratio of 1, twice as fast one of 1/2.
	took := func(c, system string) point { return point{Files, c, system, Seconds} }
	faster := func(what, c, a, b string, times float64) { atMost(what, took(c, a), took(c, b), 1/times) }
	const one, many = "file → topic → directory, 1 GiB", "10,000 files of 10 KiB"
	// Like against like: none of these waits for the disk.
	faster(one, CaseOneFile, "mft-cached", "kafka", 2)
	faster(one, CaseOneFile, "mft-cached", "rsync", 1)
	faster(one, CaseOneFile, "mft-cached", "scp", 2.5)
	faster(one, CaseOneFile, "mft-cached", "nc", 0.8)
	faster(one, CaseOneFile, "mft-cached", "croc", 5)
	faster(many+", without fsync", CaseManyFiles, "mft-cached", "rsync", 1)
	faster(many+", made durable", CaseManyFiles, "mft", "rsync-fsync", 2)
	faster(many+", without fsync", CaseManyFiles, "mft-cached", "scp", 8)

	started := func(system string, m Metric) point { return point{Start, CaseStart, system, m} }
	loaded := func(system string) point { return point{Produce, Case1KiB, system, RSSLoaded} }
	atMost("memory, idle", started("mft", RSSIdle), started("kafka", RSSIdle), 1./20)
	atMost("memory, idle", started("mft", RSSIdle), started("nats", RSSIdle), 1)
	atMost("memory, producing 1 KiB", loaded("mft-cached"), loaded("kafka"), 1./5)
	atMost("memory, producing 1 KiB", loaded("mft-cached"), loaded("nats"), 1)
	atMost("start-up to first ack", started("mft", FirstAck), started("kafka", FirstAck), 1./30)
	atMost("start-up to first ack", started("mft", FirstAck), started("nats", FirstAck), 2)
	return all
}

// Verdict is a target with what was measured.
type Verdict struct {
	What, Of, To string // work, and the systems compared
	Aim          string
	Ratio        Stat
	State        string // met, missed or not measured
}

// Verdicts holds the targets against the results.
func (r *Results) Verdicts() []Verdict {
	var all []Verdict
	for _, t := range targets() {
		v := Verdict{What: t.what, Of: t.a.system, To: t.b.system, Ratio: r.ratio(t.a, t.b), State: "not measured"}
		aim := "≥ " + short(t.least)
		if t.most > 0 {
			aim = "≤ " + short(t.most)
		}
		v.Aim = aim
		if v.Ratio.N > 0 {
			v.State = "missed"
			if t.least > 0 && v.Ratio.Median >= t.least || t.most > 0 && v.Ratio.Median <= t.most {
				v.State = "met"
			}
		}
		all = append(all, v)
	}
	return all
}
