package segment

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"mft/protocol"
)

const childVariable = "MFT_SEGMENT_TEST_CHILD"

// childMain appends to a data directory with several goroutines until it is killed, and prints a line for each ack: goroutine, sequence
// number, offset. Odd goroutines also propose metadata.
func childMain() {
	dir := os.Getenv(childVariable)
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var m ledger
	o := m.options()
	o.CheckpointBytes, o.JournalBytes = 64<<10, 4<<10
	s, err := Open(dir, o)
	if err != nil {
		fail(err)
	}
	l, err := s.OpenLog(testTopic, LogConfig{SegmentBytes: 100 << 10})
	if err != nil {
		fail(err)
	}
	ctx := context.Background()
	lines := make(chan string)
	for g := range 4 {
		go func() {
			for seq := int32(0); ; seq++ {
				p := &protocol.BatchProducer{ID: int64(s.Epoch())*100 + int64(g), Sequence: seq}
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
					err = s.Propose(ctx, fmt.Appendf(nil, "m%d/%d", p.ID, seq))
				}
				if err != nil {
					fail(err)
				}
				lines <- fmt.Sprintf("%d %d %d\n", p.ID, seq, a.BaseOffset)
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
	acked := map[int64][2]int64{} // offset to producer id and sequence
	entries := map[string]bool{}
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
			var id, seq, offset int64
			if _, err := fmt.Sscan(lines.Text(), &id, &seq, &offset); err != nil {
				continue // cut off by the kill
			}
			acked[offset] = [2]int64{id, seq}
			if id%100%2 == 1 {
				entries[fmt.Sprintf("m%d/%d", id, seq)] = true
			}
			if n == 50+100*round {
				must(t, cmd.Process.Kill())
			}
		}
		if err := cmd.Wait(); err == nil || stderr.Len() > 0 {
			t.Fatalf("the child was to be killed: %v %s", err, stderr.String())
		}
		checkAcked(t, copyDir(t, dir), acked, entries)
	}
}

func checkAcked(t *testing.T, dir string, acked map[int64][2]int64, entries map[string]bool) {
	t.Helper()
	var m ledger
	s := openStore(t, dir, m.options())
	defer closeStore(t, s)
	l := openLog(t, s, testTopic, LogConfig{})
	found := 0
	for _, b := range readAll(t, l, 0, 1<<20) {
		if want, ok := acked[b.BaseOffset()]; ok {
			if b.ProducerID() != want[0] || int64(b.BaseSequence()) != want[1] {
				t.Fatalf("offset %d: producer %d, sequence %d, want %v", b.BaseOffset(), b.ProducerID(), b.BaseSequence(), want)
			}
			found++
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
