package cmd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"mft/internal/commandtest"
	"mft/internal/kafkatest"
)

// complaint is what kafka.tools.DumpLogSegments says of files that are not as it wants them. It ends with 0 all the same.
var complaint = regexp.MustCompile(`(?i)mismatch|isvalid: false|isvalid=false|non-consecutive|out of order|invalid bytes|corrupt|exception|could not|error`)

// TestKafkaDumpsOurSegments has Kafka's own tool read what our broker wrote: segments, offset indexes and time indexes, closed and active, after a
// clean stop and after a kill.
func TestKafkaDumpsOurSegments(t *testing.T) {
	kafkatest.Command(t, "kafka.tools.DumpLogSegments") // skips before there is anything to clean up
	data := t.TempDir()
	b := commands.StartBroker(t, data, "")
	addr := b.Addr
	sent := map[string]int{}
	send := func(topic string, lines int, args ...string) {
		var in strings.Builder
		for i := range lines {
			fmt.Fprintf(&in, "key%d=%s %d\n", i%100, strings.Repeat("value", i%40), i)
		}
		commands.Pipe(t, strings.NewReader(in.String()), "mft-produce", append([]string{"-b", addr, "-t", topic, "--key-delim", "=", "--header", "a=b"}, args...)...)
		sent[topic] += lines
	}
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		topic := "t-" + codec
		commands.Run(t, "mft-admin", "topics", "create", "-b", addr, topic, "--config", "segment.bytes=65536", "--config", "index.interval.bytes=1024")
		for range 3 {
			send(topic, 3000, "--compress", codec)
		}
	}
	// A file too: few, large batches.
	file := filepath.Join(t.TempDir(), "file")
	commandtest.RandomFile(t, file, 3<<20, 1)
	commands.Run(t, "mft-produce", "-b", addr, "-t", "files", file)

	dumpWithKafka(t, data, sent, "while the broker runs", ".log")
	b.KillNow()
	b = commands.StartBroker(t, data, addr)
	send("t-none", 500)
	send("t-zstd", 500, "--compress", "zstd")
	stopBroker(t, b)
	dumpWithKafka(t, data, sent, "after a clean stop", ".log", ".index", ".timeindex")
	commands.Run(t, "mft-admin", "dump", "--verify", data)
}

// dumpWithKafka dumps the files with the given extensions of every topic and looks for complaints and for every record.
func dumpWithKafka(t *testing.T, data string, sent map[string]int, when string, extensions ...string) {
	t.Helper()
	var files []string
	for _, ext := range extensions {
		found, err := filepath.Glob(filepath.Join(data, "topics", "*", "*"+ext))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			// The tool cannot map an empty file into memory; Kafka does not leave any.
			if info, err := os.Stat(path); err == nil && info.Size() > 0 {
				files = append(files, path)
			}
		}
	}
	if len(files) < 10 {
		t.Fatalf("only %d files", len(files))
	}
	modes := [][]string{{"--deep-iteration", "--print-data-log"}}
	if len(extensions) > 1 {
		modes = append(modes, []string{"--verify-index-only"}, []string{"--index-sanity-check"})
	}
	for _, mode := range modes {
		c := kafkatest.Command(t, "kafka.tools.DumpLogSegments", append(mode, "--files", strings.Join(files, ","))...)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%s, %v: %v\n%.3000s", when, mode, err, out)
		}
		records := map[string]int{}
		topic := ""
		for line := range strings.Lines(string(out)) {
			if rest, ok := strings.CutPrefix(line, "Dumping "); ok {
				topic = strings.TrimSuffix(filepath.Base(filepath.Dir(strings.TrimSpace(rest))), "-0")
			}
			if strings.HasPrefix(line, "| offset:") {
				records[topic]++
			}
			if found := complaint.FindString(line); found != "" && !strings.Contains(line, "payload:") {
				t.Errorf("%s, %v: in %s: %.300s", when, mode, topic, line)
			}
		}
		if mode[0] == "--deep-iteration" {
			for topic, want := range sent {
				if records[topic] != want {
					t.Errorf("%s: %d records in %s, want %d", when, records[topic], topic, want)
				}
			}
		}
		if mode[0] == "--index-sanity-check" {
			if n := strings.Count(string(out), "passed sanity check"); n == 0 {
				t.Errorf("no index passed the sanity check:\n%.2000s", out)
			}
		}
	}
}

// stopBroker stops a broker as an init system does.
func stopBroker(t *testing.T, b *commandtest.Broker) {
	t.Helper()
	if err := b.Process.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := b.WaitFor(time.Minute); err != nil {
		t.Fatalf("mft-broker: %v\n%s", err, b.Stderr.String())
	}
}
