package segment

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"mft/protocol"
)

const childVariable = "MFT_SEGMENT_TEST_CHILD"

// childLogs is how many logs the child appends to: enough that their data goes into the journal.
const childLogs = 24

func childLog(i int) LogID { return LogID{testTopic.Topic, testTopic.TopicID, int32(i)} }

// childMain appends to a data directory with several goroutines until it is killed, and prints a line for each ack: log, producer, sequence
// number, offset. Odd goroutines also propose metadata.
func childMain() {
	dir := os.Getenv(childVariable)
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var m ledger
	o := m.options()
	o.CheckpointBytes, o.JournalBytes = 512<<10, 256<<10
	s, err := Open(dir, o)
	if err != nil {
		fail(err)
	}
	logs := make([]*Log, childLogs)
	for i := range logs {
		if logs[i], err = s.OpenLog(childLog(i), LogConfig{SegmentBytes: 20 << 10}); err != nil {
			fail(err)
		}
	}
	ctx := context.Background()
	lines := make(chan string)
	for g := range 16 {
		go func() {
			for seq := int32(0); ; seq++ {
				i := (g + int(seq)) % childLogs // each producer goes round
				p := &protocol.BatchProducer{ID: int64(s.Epoch())*100 + int64(g), Sequence: seq / childLogs}
				l := logs[i]
				b, err := protocol.EncodeBatch(protocol.BatchOptions{BaseTimestamp: time.Now().UnixMilli(), Producer: p},
					[]protocol.Record{{Value: []byte(strings.Repeat("v", 10+int(seq)%700))}})
				if err != nil {
					fail(err)
				}
				a, err := l.Append(b)
				if err == nil {
					err = l.Wait(ctx, a.LastOffset+1)
				}
				if err == nil && g%2 == 1 {
					err = s.Propose(ctx, fmt.Appendf(nil, "m%d/%d/%d", i, p.ID, p.Sequence))
				}
				if err != nil {
					fail(err)
				}
				lines <- fmt.Sprintf("%d %d %d %d\n", i, p.ID, p.Sequence, a.BaseOffset)
			}
		}()
	}
	for line := range lines {
		if _, err := io.WriteString(os.Stdout, line); err != nil {
			fail(err)
		}
	}
}

// What was acked before a kill -9 is there afterwards: every record at its offset, every metadata entry.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	acked := map[[2]int64][2]int64{} // log and offset to producer id and sequence
	entries := map[string]bool{}
	journaled := int64(0)
	rounds := 6
	if testing.Short() {
		rounds = 2
	}
	for round := range rounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childVariable+"="+dir)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			var i, id, seq, offset int64
			if _, err := fmt.Sscan(lines.Text(), &i, &id, &seq, &offset); err != nil {
				continue // cut off by the kill
			}
			acked[[2]int64{i, offset}] = [2]int64{id, seq}
			if id%100%2 == 1 {
				entries[fmt.Sprintf("m%d/%d/%d", i, id, seq)] = true
			}
			if n == 200+500*round {
				must(t, cmd.Process.Kill())
			}
		}
		if err := cmd.Wait(); err == nil || stderr.Len() > 0 {
			t.Fatalf("the child was to be killed: %v %s", err, stderr.String())
		}
		checkAcked(t, copyDir(t, dir), acked, entries)
		lost := copyDir(t, dir)
		journaled += loseJournaled(t, lost)
		checkAcked(t, lost, acked, entries)
	}
	if journaled == 0 {
		t.Error("nothing was in the journal only")
	}
}

// loseJournaled takes everything out of the logs' files that the journal vouches for, as if it had not come to the disk, and returns how many
// bytes that were.
func loseJournaled(t *testing.T, dir string) (lost int64) {
	t.Helper()
	snap, err := readSnapshot(dir)
	must(t, err)
	s := &Store{dir: dir, o: Options{Apply: func([]byte) error { return nil }}, log: zerolog.Nop(), redone: map[string]*redo{}}
	j, err := s.replay(filepath.Join(dir, journalName), snap.generation)
	must(t, err)
	must(t, j.close())
	from := map[string]int64{}
	for _, p := range snap.logs {
		from[filepath.Join(dir, topicsName, p.id.dirName(), logName(p.base))] = p.position
	}
	for name, r := range s.redone {
		path := filepath.Join(dir, topicsName, name, logName(r.base))
		newer, err := filepath.Glob(filepath.Join(dir, topicsName, name, "*.log"))
		must(t, err)
		if newer[len(newer)-1] != path {
			continue // fdatasynced before that was begun
		}
		edit(t, path, func(data []byte) []byte {
			for _, x := range r.ranges {
				if start, end := max(x.position, from[path]), x.position+int64(len(x.data)); start < end {
					clear(data[start:end])
					lost += end - start
				}
			}
			return data
		})
	}
	return lost
}

func checkAcked(t *testing.T, dir string, acked map[[2]int64][2]int64, entries map[string]bool) {
	t.Helper()
	var m ledger
	s := openStore(t, dir, m.options())
	defer closeStore(t, s)
	found := 0
	for i := range childLogs {
		l := openLog(t, s, childLog(i), LogConfig{})
		for _, b := range readAll(t, l, 0, 1<<20) {
			if want, ok := acked[[2]int64{int64(i), b.BaseOffset()}]; ok {
				if b.ProducerID() != want[0] || int64(b.BaseSequence()) != want[1] {
					t.Fatalf("log %d, offset %d: producer %d, sequence %d, want %v", i, b.BaseOffset(), b.ProducerID(), b.BaseSequence(), want)
				}
				found++
			}
		}
	}
	if found != len(acked) {
		t.Errorf("%d of %d acked records are there", found, len(acked))
	}
	for _, e := range m.entries {
		delete(entries, e)
	}
	for e := range entries {
		t.Errorf("metadata entry %s is lost", e)
	}
	for _, e := range m.entries {
		entries[e] = true
	}
}
