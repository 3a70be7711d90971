package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"mft/benchmarks/report"
	"mft/benchmarks/system"
	"mft/internal/bench"
	"mft/internal/measure"
)

// start measures the time from starting a broker to its first acknowledgement, to a client that was there before, and the
// memory that it takes when nothing happens.
func (r *runner) start(ctx context.Context) error {
	brokers := r.brokers(nil)
	var names []string
	for _, b := range brokers {
		names = append(names, b.Name)
	}
	return r.turns(ctx, report.Start, r.form.reps, names, func(i, rep int) error {
		dir, err := r.newDir(names[i])
		if err != nil {
			return err
		}
		values, err := r.startOnce(ctx, brokers[i], dir)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			r.failed(report.Start, report.CaseStart, names[i], rep, err)
		} else {
			r.add(report.Start, report.CaseStart, names[i], rep, values)
		}
		return r.retire(dir)
	})
}

func (r *runner) startOnce(ctx context.Context, b system.Broker, dir string) (_ map[report.Metric]float64, err error) {
	addr, err := system.FreeAddr()
	if err != nil {
		return nil, err
	}
	var server *system.Server
	took, err := r.firstAck(ctx, b, addr, func() (err error) {
		server, err = r.tools.Begin(ctx, b, dir, addr)
		return err
	})
	if server != nil {
		defer func() {
			if stopped := server.Stop(); err == nil {
				err = stopped
			}
		}()
	}
	if err != nil {
		return nil, err
	}
	values := map[report.Metric]float64{report.FirstAck: took.Seconds() * 1000}
	select {
	case <-time.After(r.form.idle):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if rss, _, ok := server.RSS(); ok {
		values[report.RSSIdle] = float64(rss) / (1 << 20)
	}
	return values, nil
}

// firstAck has a client wait for a broker, begins it, and returns how long it took to the first acknowledgement.
func (r *runner) firstAck(ctx context.Context, b system.Broker, addr string, begin func() error) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	type answer struct {
		at  time.Time
		err error
	}
	got := make(chan answer, 1)
	go func() {
		var a struct{ Acked time.Time }
		err := (&session{runner: r, Server: &system.Server{Broker: b, Addr: addr}}).measured(ctx, "first-ack", system.Load{Topic: "first"}, &a)
		got <- answer{a.Acked, err}
	}()
	// The client's own start is not to be measured.
	select {
	case <-time.After(300 * time.Millisecond):
	case a := <-got:
		return 0, fmt.Errorf("the client did not wait: %w", a.err)
	}
	start := time.Now()
	if err := begin(); err != nil {
		cancel()
		<-got
		return 0, err
	}
	a := <-got
	return a.at.Sub(start), a.err
}

// throughput produces and consumes records of every size, to every number of partitions.
func (r *runner) throughput(ctx context.Context) error {
	r.noPartitions()
	return r.sessions(ctx, report.Produce, r.form.reps, r.brokers(nil), func(s *session, ctx context.Context) error {
		if err := s.warm(ctx); err != nil {
			return err
		}
		for i, c := range r.form.cells {
			if c.partitions > 1 && !s.Kafka() {
				continue
			}
			if err := s.cell(ctx, fmt.Sprintf("records-%d", i), c); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				r.failed(report.Produce, c.String(), s.Name, s.rep, err)
			}
			select {
			case <-s.Done():
				return fmt.Errorf("it ended: %w", s.Wait())
			default:
			}
		}
		return nil
	})
}

func (r *runner) noPartitions() {
	for _, b := range r.brokers(func(b system.Broker) bool { return !b.Kafka() }) {
		r.res.Skip(report.Skip{System: b.Name, Work: report.Produce, Reason: "several partitions: a JetStream stream has none"})
	}
}

// cell produces to a new topic, and consumes that.
func (s *session) cell(ctx context.Context, topic string, c cell) error {
	l := system.Load{Topic: topic, Partitions: c.partitions, Size: c.size, Duration: s.form.produce, Records: max(1, s.form.cellBytes/int64(c.size)), Touch: true}
	if c.waiting > 0 {
		l.Clients, l.Ahead = c.waiting, 1
	}
	before, err := system.DiskUse(s.Data)
	if err != nil {
		return err
	}
	produced, err := s.throughputOf(ctx, report.Produce, c.String(), "produce", l)
	if err != nil {
		return err
	}
	if err := s.settle(); err != nil {
		return err
	}
	after, err := system.DiskUse(s.Data)
	if err != nil {
		return err
	}
	produced.values[report.DiskPerByte] = float64(after.Allocated-before.Allocated) / float64(produced.Bytes)
	s.add(report.Produce, c.String(), s.Name, s.rep, produced.values)
	if c.waiting > 0 { // as any other to consume, and little
		return nil
	}
	consumed, err := s.throughputOf(ctx, report.Consume, c.String(), "consume", system.Load{Topic: topic, Size: c.size})
	if err != nil {
		return err
	}
	acked := produced.Records
	if s.Kafka() {
		acked += bench.TouchRecords * int64(c.partitions)
	}
	if consumed.Records != acked {
		return fmt.Errorf("%d records were acknowledged, and %d read", acked, consumed.Records)
	}
	s.add(report.Consume, c.String(), s.Name, s.rep, consumed.values)
	return nil
}

// result is a client's, with the values to be added.
type result struct {
	measure.Result
	values map[report.Metric]float64
}

// throughputOf runs a client that produces or consumes.
func (s *session) throughputOf(ctx context.Context, w report.Work, c, what string, l system.Load) (result, error) {
	var found measure.Result
	u, err := s.client(ctx, what, l, &found)
	if err != nil {
		return result{}, fmt.Errorf("%s, %s: %w", w, c, err)
	}
	if found.Bytes == 0 {
		return result{}, fmt.Errorf("%s, %s: no record in %.1f s", w, c, found.Seconds)
	}
	values := map[report.Metric]float64{
		report.MBPerS: found.MBPerS, report.RecordsPerS: found.PerSecond, report.ClientCPU: found.ClientCPU / (float64(found.Bytes) / 1e9),
	}
	if found.Acks != nil {
		values[report.P50], values[report.P99] = found.Acks.P50, found.Acks.P99
	}
	u.add(values, found.Bytes)
	return result{found, values}, nil
}

// latency measures end to end at a fixed pace, and at half of what the slower systems can take.
func (r *runner) latency(ctx context.Context) error {
	brokers := r.brokers(nil)
	// Among those that acknowledge in the same way.
	half := func(fsync bool) (rate float64) {
		for _, b := range brokers {
			if s := r.res.Stat(report.Produce, report.Case1KiB, b.Name, report.RecordsPerS); b.Fsync == fsync && s.N > 0 && (rate == 0 || s.Median/2 < rate) {
				rate = s.Median / 2
			}
		}
		return float64(int64(rate))
	}
	return r.sessions(ctx, report.Latency, r.form.reps, brokers, func(s *session, ctx context.Context) error {
		if err := s.warm(ctx); err != nil {
			return err
		}
		if err := s.latencyAt(ctx, report.Latency, report.CasePaced, "paced", 1000, 1); err != nil {
			return err
		}
		name := "half of the slowest, page cache"
		if s.Fsync {
			name = "half of the slowest, fsync"
		}
		rate := half(s.Fsync)
		if rate == 0 {
			r.res.Skip(report.Skip{System: s.Name, Work: report.Latency, Reason: name + ": it takes the throughput of this run"})
			return nil
		}
		return s.latencyAt(ctx, report.Latency, name, "half", rate, 1)
	})
}

func (s *session) latencyAt(ctx context.Context, w report.Work, c, topic string, rate float64, consumers int) error {
	var l measure.Latency
	load := system.Load{Topic: topic, Size: 1 << 10, Rate: rate, Duration: s.form.latency, WarmUp: s.form.latency / 4, Clients: consumers}
	u, err := s.client(ctx, "latency", load, &l)
	if err != nil {
		return fmt.Errorf("%s: %w", c, err)
	}
	values := map[report.Metric]float64{
		report.Rate: rate, report.P50: l.P50, report.P99: l.P99, report.P999: l.P999, report.P9999: l.P9999, report.Max: l.Max,
	}
	u.add(values, 0)
	s.add(w, c, s.Name, s.rep, values)
	return s.settle()
}

func consumersName(n int) string {
	if n == 1 {
		return "1 consumer"
	}
	return fmt.Sprintf("%d consumers", n)
}

// fanOut has many consumers get the same records: live, and from the beginning.
func (r *runner) fanOut(ctx context.Context) error {
	return r.sessions(ctx, report.FanOut, r.form.fewReps, r.brokers(nil), func(s *session, ctx context.Context) error {
		if err := s.warm(ctx); err != nil {
			return err
		}
		for _, n := range r.form.consumers {
			if err := s.latencyAt(ctx, report.FanOut, consumersName(n), fmt.Sprintf("live-%d", n), 100, n); err != nil {
				return err
			}
		}
		if err := s.fill(ctx, "backlog", r.form.backlog/8); err != nil {
			return err
		}
		for _, n := range r.form.consumers {
			read, err := s.throughputOf(ctx, report.FanOutRead, consumersName(n), "consume", system.Load{Topic: "backlog", Size: 1 << 10, Clients: n})
			if err != nil {
				return err
			}
			s.add(report.FanOutRead, consumersName(n), s.Name, s.rep, read.values)
		}
		return nil
	})
}

// fill produces so many bytes in records of 1 KiB, for at most a minute.
func (s *session) fill(ctx context.Context, topic string, bytes int64) error {
	var filled measure.Result
	if err := s.measured(ctx, "produce", system.Load{Topic: topic, Size: 1 << 10, Records: bytes >> 10, Duration: time.Minute}, &filled); err != nil {
		return err
	}
	return s.settle()
}

// catchUp reads a backlog while new records come.
func (r *runner) catchUp(ctx context.Context) error {
	const c = "1 KiB"
	return r.sessions(ctx, report.CatchUp, r.form.fewReps, r.brokers(nil), func(s *session, ctx context.Context) error {
		if err := s.warm(ctx); err != nil {
			return err
		}
		if err := s.fill(ctx, "backlog", r.form.backlog); err != nil {
			return err
		}
		l := system.Load{Topic: "backlog", Size: 1 << 10, Rate: 1000, Duration: r.form.latency}
		var alone, meanwhile, read measure.Result
		if err := s.measured(ctx, "produce", l, &alone); err != nil {
			return err
		}
		produced := make(chan error, 1)
		go func() { produced <- s.measured(ctx, "produce", l, &meanwhile) }()
		// Over and over, so that it is under way all the time; the first time counts.
		err := s.measured(ctx, "consume", system.Load{Topic: "backlog", Size: 1 << 10}, &read)
		for err == nil {
			select {
			case err = <-produced:
				if err != nil {
					return err
				}
				s.add(report.CatchUp, c, s.Name, s.rep, map[report.Metric]float64{
					report.MBPerS: read.MBPerS, report.AckP99Alone: alone.Acks.P99, report.AckP99: meanwhile.Acks.P99,
				})
				return nil
			default:
				err = s.measured(ctx, "consume", system.Load{Topic: "backlog", Size: 1 << 10}, new(measure.Result))
			}
		}
		return errors.Join(err, <-produced)
	})
}

// scale measures what it costs when work grows.
func (r *runner) scale(ctx context.Context) error {
	kafka := r.brokers(system.Broker.Kafka)
	for _, b := range r.brokers(func(b system.Broker) bool { return !b.Kafka() }) {
		r.res.Skip(report.Skip{System: b.Name, Work: report.Partitions, Reason: "a JetStream stream has no partitions"})
	}
	for _, n := range r.form.partitions {
		c := cell{1 << 10, n, 0}
		err := r.sessions(ctx, report.Partitions, 1, kafka, func(s *session, ctx context.Context) error {
			if err := s.warm(ctx); err != nil {
				return err
			}
			if err := r.afterDeleting(ctx); err != nil {
				return err
			}
			created, err := s.create(ctx, "many", n)
			if err != nil {
				return fmt.Errorf("%s: %w", c, err)
			}
			found, err := s.throughputOf(ctx, report.Partitions, c.String(), "produce",
				system.Load{Topic: "many", Partitions: n, Size: c.size, Duration: r.form.produce, Records: r.form.cellBytes / int64(c.size), Touch: true})
			if err != nil {
				return err
			}
			found.values[report.Seconds] = created.Seconds()
			s.add(report.Partitions, c.String(), s.Name, s.rep, found.values)
			return nil
		})
		if err != nil {
			return err
		}
	}
	for _, n := range r.form.clients {
		c := fmt.Sprintf("%d clients", n)
		err := r.sessions(ctx, report.Clients, 1, r.brokers(nil), func(s *session, ctx context.Context) error {
			if err := s.warm(ctx); err != nil {
				return err
			}
			found, err := s.throughputOf(ctx, report.Clients, c, "produce",
				system.Load{Topic: "clients", Size: 1 << 10, Duration: r.form.produce, Records: r.form.cellBytes >> 10, Clients: n})
			if err != nil {
				return err
			}
			s.add(report.Clients, c, s.Name, s.rep, found.values)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return r.topicSizes(ctx)
}

// create creates a topic of so many partitions, and returns how long that took until it could be written to.
func (s *session) create(ctx context.Context, topic string, partitions int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	start := time.Now()
	err := bench.CreateTopic(ctx, bench.Config{Brokers: []string{s.Addr}, Topic: topic}, int32(partitions), 1, s.TopicConfig)
	return time.Since(start), err
}

// topicSizes lets a topic grow, reads from its beginning, and starts the broker again.
func (r *runner) topicSizes(ctx context.Context) error {
	if len(r.form.topics) == 0 {
		return nil
	}
	brokers := r.brokers(func(b system.Broker) bool { return !b.Fsync || b.System == "mft" })
	return r.sessions(ctx, report.TopicSize, 1, brokers, func(s *session, ctx context.Context) error {
		if err := s.warm(ctx); err != nil {
			return err
		}
		size := int64(0)
		for _, to := range r.form.topics {
			if to > r.room()*9/10 {
				r.res.Skip(report.Skip{System: s.Name, Work: report.TopicSize, Reason: sizeName(to) + ": no room on the disk for so much"})
				continue
			}
			c := sizeName(to)
			found, err := s.throughputOf(ctx, report.TopicSize, c, "produce", system.Load{Topic: "large", Size: 1 << 20, Records: (to - size) >> 20, Duration: 30 * time.Minute})
			if err != nil {
				return err
			}
			size = to
			if err := s.settle(); err != nil {
				return err
			}
			read, err := s.throughputOf(ctx, report.TopicSize, c, "consume", system.Load{Topic: "large", Size: 1 << 20, Records: min(to, 1<<30) >> 20})
			if err != nil {
				return err
			}
			// Once more, with what is there.
			if err := s.Stop(); err != nil {
				return err
			}
			took, err := r.firstAck(ctx, s.Broker, s.Addr, func() (err error) {
				again, err := r.tools.Begin(ctx, s.Broker, filepath.Dir(s.Data), s.Addr)
				if err == nil {
					s.Server = again
				}
				return err
			})
			if err != nil {
				return fmt.Errorf("%s: start again: %w", c, err)
			}
			found.values[report.FirstAck] = took.Seconds() * 1000
			s.add(report.TopicSize, c+", produce", s.Name, s.rep, found.values)
			s.add(report.TopicSize, c+", read 1 GiB", s.Name, s.rep, read.values)
		}
		return nil
	})
}
