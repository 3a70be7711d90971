// Package benchmarks measures the built commands as a user would meet them:
// as processes, over loopback, with real files.
//
//	go test -run '^$' -bench . ./benchmarks
//
// The machines that this runs on are noisy: compare figures of one run with
// each other, not with figures of another.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mft/internal/commandtest"
)

var commands *commandtest.Commands

func TestMain(m *testing.M) { os.Exit(commandtest.Main(m, &commands)) }

// BenchmarkStart is the time from starting mft-broker to its serving, and
// from there to the first acknowledged record of a fresh producer process.
func BenchmarkStart(b *testing.B) {
	var listening, acked time.Duration
	for range b.N {
		start := time.Now()
		broker := commands.StartBroker(b, filepath.Join(b.TempDir(), "data"), "")
		listening += time.Since(start)
		commands.Pipe(b, strings.NewReader("x\n"), "mft-produce", "-b", broker.Addr, "-t", "t")
		acked += time.Since(start)
		b.ReportMetric(float64(maxRSS(b, broker.Pid()))/(1<<20), "broker-MiB")
		broker.KillNow()
	}
	b.ReportMetric(listening.Seconds()*1000/float64(b.N), "listening-ms")
	b.ReportMetric(acked.Seconds()*1000/float64(b.N), "first-ack-ms")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkTransfer sends files through a fresh broker into a directory, with
// everything that is on by default: acks when durable, digests, fsync before
// commit. "cp" is the same work without a network or a log.
func BenchmarkTransfer(b *testing.B) {
	for _, set := range []struct {
		name  string
		files int
		size  int64
	}{
		{"1x1GiB", 1, 1 << 30},
		{"10000x10KiB", 10_000, 10 << 10},
	} {
		source := b.TempDir()
		for i := range set.files {
			commandtest.RandomFile(b, filepath.Join(source, fmt.Sprintf("d%03d", i/100), fmt.Sprintf("f%05d", i)), set.size, uint64(i))
		}
		b.Run(set.name+"/mft", func(b *testing.B) {
			b.SetBytes(int64(set.files) * set.size)
			for range b.N {
				b.StopTimer()
				broker := commands.StartBroker(b, filepath.Join(b.TempDir(), "data"), "")
				out := b.TempDir()
				b.StartTimer()
				start := time.Now()
				commands.Run(b, "mft-produce", "-b", broker.Addr, "-t", "files", "--progress", "never", source+string(filepath.Separator))
				sent := time.Since(start)
				commands.Run(b, "mft-consume", "-b", broker.Addr, "-t", "files", "--progress", "never", "--dir", out, "--once")
				b.ReportMetric(sent.Seconds(), "send-s")
				b.ReportMetric((time.Since(start) - sent).Seconds(), "receive-s")
				b.ReportMetric(float64(maxRSS(b, broker.Pid()))/(1<<20), "broker-peak-MiB")
				b.StopTimer()
				broker.KillNow()
			}
		})
		b.Run(set.name+"/cp", func(b *testing.B) {
			b.SetBytes(int64(set.files) * set.size)
			for range b.N {
				if err := os.CopyFS(filepath.Join(b.TempDir(), "out"), os.DirFS(source)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkLineLatency writes lines one at a time to a running mft-produce
// and waits until a running mft-consume has printed each: from keyboard to
// screen, durable in between.
func BenchmarkLineLatency(b *testing.B) {
	broker := commands.StartBroker(b, filepath.Join(b.TempDir(), "data"), "")
	in, feed, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	screen, out, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	commands.Pipe(b, strings.NewReader("first\n"), "mft-produce", "-b", broker.Addr, "-t", "lines")
	producer := commands.Start(b, in, "mft-produce", "-b", broker.Addr, "-t", "lines")
	consumer := commands.StartTo(b, out, "mft-consume", "-b", broker.Addr, "-t", "lines", "--from", "beginning", "-f")
	for _, f := range []io.Closer{in, out} {
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
	lines := bufio.NewReader(screen)
	read := func(want string) {
		if got, err := lines.ReadString('\n'); err != nil || got != want {
			b.Fatalf("read %q, %v; want %q", got, err, want)
		}
	}
	read("first\n")
	took := make([]time.Duration, 0, b.N)
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for i := range b.N {
		<-pace.C
		line := fmt.Sprintf("line %d\n", i)
		start := time.Now()
		if _, err := io.WriteString(feed, line); err != nil {
			b.Fatal(err)
		}
		read(line)
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	for _, q := range []struct {
		name string
		at   float64
	}{{"p50-µs", .5}, {"p99-µs", .99}, {"max-µs", 1}} {
		b.ReportMetric(float64(took[min(int(q.at*float64(len(took))), len(took)-1)].Microseconds()), q.name)
	}
	b.ReportMetric(0, "ns/op")
	if err := feed.Close(); err != nil {
		b.Fatal(err)
	}
	if err := producer.WaitFor(time.Minute); err != nil {
		b.Fatal(err)
	}
	consumer.KillNow()
	if err := screen.Close(); err != nil {
		b.Fatal(err)
	}
}

// maxRSS is the largest resident size that a running process had, in bytes; 0
// where the system does not tell.
func maxRSS(b *testing.B, pid int) int64 {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	defer func() {
		if err := f.Close(); err != nil {
			b.Error(err)
		}
	}()
	for s := bufio.NewScanner(f); s.Scan(); {
		var kb int64
		if n, err := fmt.Sscanf(s.Text(), "VmHWM: %d kB", &kb); n == 1 && err == nil {
			return kb << 10
		}
	}
	return 0
}
