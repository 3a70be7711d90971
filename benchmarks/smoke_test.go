package main

import (
	"bufio"
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mft/benchmarks/report"
)

// build builds this command.
func build(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "benchmarks")
	if runtime.GOOS == "windows" {
		path += ".exe"
	}
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// runTiny runs the harness and returns what it wrote. Its work directory has to be empty afterwards.
func runTiny(t *testing.T, program string, args ...string) (*report.Results, string) {
	t.Helper()
	work, out := t.TempDir(), filepath.Join(t.TempDir(), "results")
	c := exec.CommandContext(t.Context(), program, append([]string{"-tiny", "-no-install", "-dir", work, "-out", out}, args...)...)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	if said, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	if left, err := os.ReadDir(work); err != nil || len(left) > 0 {
		t.Errorf("left in the work directory: %v, %v", left, err)
	}
	res, err := report.Load(filepath.Join(out, "results.json"))
	if err != nil {
		t.Fatal(err)
	}
	return res, out
}

// want fails the test unless there are values of a measurement, all above zero.
func want(t *testing.T, res *report.Results, w report.Work, c, system string, metrics ...report.Metric) {
	t.Helper()
	for _, m := range metrics {
		if s := res.Stat(w, c, system, m); s.N == 0 || s.Min <= 0 {
			t.Errorf("%s, %s, %s: %s is %v of %d", w, c, system, m, s.Median, s.N)
		}
	}
}

// TestHarness does a little of everything with mft and with what else is there, so that the harness cannot rot.
func TestHarness(t *testing.T) {
	program := build(t)
	res, out := runTiny(t, program, "-systems", "mft,nats,rsync,scp,nc")

	brokers, movers := []string{"mft", "mft-cached"}, []string{"mft", "mft-cached"}
	for system, names := range map[string][2][]string{
		"nats": {{"nats", "nats-always"}, {"nats"}}, "rsync": {nil, {"rsync", "rsync-fsync"}}, "scp": {nil, {"scp"}}, "nc": {nil, {"tar-nc"}},
	} {
		if i := slices.IndexFunc(res.Skipped, func(s report.Skip) bool { return s.System == system && s.Work == "" }); i >= 0 {
			t.Logf("without %s: %s", system, res.Skipped[i].Reason)
			continue
		}
		brokers, movers = append(brokers, names[0]...), append(movers, names[1]...)
	}
	for _, b := range brokers {
		want(t, res, report.Start, report.CaseStart, b, report.FirstAck)
		want(t, res, report.Produce, report.Case1KiB, b, report.MBPerS, report.RecordsPerS, report.ClientCPU, report.DiskPerByte)
		want(t, res, report.Consume, report.Case1KiB, b, report.MBPerS, report.RecordsPerS)
		want(t, res, report.Latency, report.CasePaced, b, report.P50, report.P99, report.P999, report.P9999)
		want(t, res, report.FanOut, "3 consumers", b, report.P50)
		want(t, res, report.FanOutRead, "3 consumers", b, report.MBPerS)
		want(t, res, report.CatchUp, "1 KiB", b, report.MBPerS, report.AckP99, report.AckP99Alone)
		want(t, res, report.Clients, "2 clients", b, report.MBPerS)
		if runtime.GOOS == "linux" {
			want(t, res, report.Start, report.CaseStart, b, report.RSSIdle)
			want(t, res, report.Produce, report.Case1KiB, b, report.RSSLoaded, report.BrokerCPU)
		}
	}
	want(t, res, report.Produce, "1 MiB, 2 partitions", "mft", report.MBPerS)
	want(t, res, report.Partitions, "1 KiB, 10 partitions", "mft", report.MBPerS, report.Seconds)
	want(t, res, report.TopicSize, "2 MiB, produce", "mft", report.MBPerS, report.FirstAck)
	for _, m := range movers {
		want(t, res, report.Files, "20 x 1 KiB of text", m, report.Seconds, report.MBPerS, report.ClientCPU)
	}
	want(t, res, report.Files, "3 x 1 KiB, 2 streams", "mft", report.Seconds)
	for _, s := range res.Samples {
		if s.Error != "" {
			t.Errorf("%s, %s, %s: %s", s.Work, s.Case, s.System, s.Error)
		}
	}
	for _, l := range res.Limits {
		for _, v := range l.Limits {
			if v.Value <= 0 {
				t.Errorf("the machine's limit %q is %v", v.Name, v.Value)
			}
		}
	}

	// What is written can be read, and made again from the raw data.
	text, err := os.ReadFile(filepath.Join(out, "RESULTS.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range append([]string{"## Targets", "Produce", "Files", "congestion control", res.Versions["mft"]}, movers...) {
		if !strings.Contains(string(text), part) {
			t.Errorf("RESULTS.md does not say %q", part)
		}
	}
	again := filepath.Join(t.TempDir(), "again")
	if said, err := exec.Command(program, "-render", filepath.Join(out, "results.json"), "-out", again).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	if repeated, err := os.ReadFile(filepath.Join(again, "RESULTS.md")); err != nil || !bytes.Equal(repeated, text) {
		t.Errorf("made again it is another: %v", err)
	}
	charts, err := filepath.Glob(filepath.Join(out, "*.svg"))
	if err != nil || len(charts) == 0 {
		t.Fatalf("charts: %v, %v", charts, err)
	}
	for _, c := range charts {
		wellFormed(t, c)
	}
}

// TestHarnessWithKafka runs Kafka itself, and its tools.
func TestHarnessWithKafka(t *testing.T) {
	res, _ := runTiny(t, build(t), "-systems", "mft,kafka", "-work", "tools")
	if i := slices.IndexFunc(res.Skipped, func(s report.Skip) bool { return s.System == "kafka" && s.Work == "" }); i >= 0 {
		t.Skip("without Kafka: " + res.Skipped[i].Reason)
	}
	for _, b := range []string{"mft-cached", "kafka"} {
		want(t, res, report.KafkaTools, "ProducerPerformance", b, report.RecordsPerS, report.P99)
		want(t, res, report.KafkaTools, "ConsumerPerformance", b, report.RecordsPerS)
		want(t, res, report.KafkaTools, "EndToEndLatency", b, report.Mean)
	}
}

func wellFormed(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(text)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
}

// TestInterruptLeavesNothing interrupts a run in the middle of its work: no process and no file is left, and what was
// measured is written.
func TestInterruptLeavesNothing(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("programs cannot interrupt others there")
	}
	work, out := t.TempDir(), filepath.Join(t.TempDir(), "results")
	c := exec.CommandContext(t.Context(), build(t), "-tiny", "-no-install", "-systems", "mft", "-reps", "1000", "-dir", work, "-out", out)
	said, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for s := bufio.NewScanner(said); s.Scan(); {
		lines = append(lines, s.Text())
		if strings.Contains(s.Text(), "first_ack_ms") {
			if err := c.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	rest, err := io.ReadAll(said)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err == nil || c.ProcessState.ExitCode() != exitFailed {
		t.Errorf("it ended with %v\n%s\n%s", err, strings.Join(lines, "\n"), rest)
	}
	if left, err := os.ReadDir(work); err != nil || len(left) > 0 {
		t.Errorf("left in the work directory: %v, %v", left, err)
	}
	if res, err := report.Load(filepath.Join(out, "results.json")); err != nil || len(res.Samples) == 0 {
		t.Errorf("results of an interrupted run: %v", err)
	} else if left := (report.Skip{System: "all", Work: report.Files, Reason: "the run ended before this was done"}); !slices.Contains(res.Skipped, left) {
		t.Errorf("%v does not name the work that was left", res.Skipped)
	}
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) { // the last ones may be on their way out
		left := processesOf(work)
		if len(left) == 0 {
			break
		}
		if time.Since(start) > time.Minute {
			t.Fatalf("still running: %v", left)
		}
	}
}

// processesOf are the command lines that name dir; none where the system does not tell.
func processesOf(dir string) []string {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil
	}
	var all []string
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil && bytes.Contains(text, []byte(dir)) {
			all = append(all, strings.ReplaceAll(string(text), "\x00", " "))
		}
	}
	return all
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"-systems", "rabbitmq"}, {"-work", "all,"}, {"-long", "-tiny"}, {"now"}, {"-reps", "-1"}, {"-nonsense"}} {
		if _, err := parse(args); !errors.As(err, new(usageError)) {
			t.Errorf("%v: %v", args, err)
		}
	}
	o, err := parse([]string{"-systems", "kafka", "-work", "latency,files", "-long", "-reps", "2", "-disk", "5"})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(o.systems, []string{"mft", "kafka"}) || o.form.name != "long" || o.form.reps != 2 || o.form.disk != 5e9 || len(o.works) != 2 {
		t.Errorf("%+v", o)
	}
	if len(o.form.cells) != 13 { // four sizes by three numbers of partitions, and producers that wait
		t.Errorf("the long form has the cells %v", o.form.cells)
	}
}
