package segment

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"mft/protocol"
)

const cleanChildVariable = "MFT_SEGMENT_TEST_CLEAN_CHILD"

var cleanChildConfig = LogConfig{SegmentBytes: 8 << 10, IndexIntervalBytes: 512, Compact: true}

// cleanChildMain writes numbers that only grow to a few keys of a log, one after the other, and to a second log with retention by bytes, while both
// are cleaned all the time, and prints a line for each ack: key, number, offset in the second log.
func cleanChildMain() {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	ctx := context.Background()
	s, err := Open(os.Getenv(cleanChildVariable), Options{CleanInterval: -1, CleanerBytes: 24 * 16})
	fail(err)
	l, err := s.OpenLog(testTopic, cleanChildConfig)
	fail(err)
	other := testTopic
	other.Partition = 1
	l2, err := s.OpenLog(other, LogConfig{SegmentBytes: 4 << 10, Delete: true, RetentionBytes: 20 << 10})
	fail(err)
	more := make(chan struct{}, 1)
	go func() {
		for range more {
			fail(s.Clean(ctx))
		}
	}()
	for i := l.EndOffset(); ; i++ {
		key := fmt.Sprint("k", i%13)
		batch := func() protocol.Batch {
			b, err := protocol.EncodeBatch(protocol.BatchOptions{BaseTimestamp: time.Now().UnixMilli(), Codec: protocol.Codec(i % 5)},
				[]protocol.Record{{Key: []byte(key), Value: fmt.Append([]byte(strings.Repeat("x", int(i%300))), " ", i)}})
			fail(err)
			return b
		}
		a, err := l.Append(batch())
		fail(err)
		a2, err := l2.Append(batch())
		fail(err)
		fail(l.Wait(ctx, a.LastOffset+1))
		fail(l2.Wait(ctx, a2.LastOffset+1))
		if _, err := fmt.Printf("%s %d %d\n", key, i, a2.BaseOffset); err != nil {
			fail(err)
		}
		if i%16 == 0 {
			select {
			case more <- struct{}{}:
			default:
			}
		}
	}
}

// Killed at any moment of retention and compaction, a log still has the last acked value of each key, and everything acked that retention keeps.
func TestKilledWhileCleaning(t *testing.T) {
	dir := t.TempDir()
	acked := map[string]int64{}
	last2 := int64(-1)
	rounds := 8
	if testing.Short() {
		rounds = 3
	}
	compacted, expired := false, false
	for round := range rounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), cleanChildVariable+"="+dir)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			var key string
			var number, offset int64
			if _, err := fmt.Sscan(lines.Text(), &key, &number, &offset); err != nil {
				continue // cut off by the kill
			}
			acked[key], last2 = number, offset
			if n == 250+61*round {
				must(t, cmd.Process.Kill())
			}
		}
		if err := cmd.Wait(); err == nil || stderr.Len() > 0 {
			t.Fatalf("the child was to be killed: %v %s", err, stderr.String())
		}
		s := openStore(t, copyDir(t, dir), Options{CleanInterval: -1})
		l := openLog(t, s, testTopic, cleanChildConfig)
		all, _ := readRecords(t, l, l.StartOffset(), 1<<20)
		found := map[string]int64{}
		for _, r := range all {
			var number int64
			_, err := fmt.Sscan(r.value[strings.LastIndexByte(r.value, ' ')+1:], &number)
			must(t, err)
			if number < found[r.key] {
				t.Fatalf("round %d: %s went from %d to %d", round, r.key, found[r.key], number)
			}
			found[r.key] = number
		}
		for key, number := range acked {
			if found[key] < number {
				t.Errorf("round %d: %s is %d, acked was %d", round, key, found[key], number)
			}
		}
		if l.StartOffset() != 0 {
			t.Errorf("round %d: start %d", round, l.StartOffset())
		}
		// A busy machine may not come to cleaning in each round.
		compacted = compacted || len(all) <= int(l.EndOffset())/2
		other := testTopic
		other.Partition = 1
		l2 := openLog(t, s, other, LogConfig{})
		batches := readAll(t, l2, l2.StartOffset(), 1<<20)
		if l2.EndOffset() <= last2 || l2.Size() < 20<<10 || batches[0].BaseOffset() != l2.StartOffset() {
			t.Errorf("round %d: %d to %d, %d bytes, acked was %d", round, l2.StartOffset(), l2.EndOffset(), l2.Size(), last2)
		}
		expired = expired || l2.StartOffset() > 0
		closeStore(t, s)
	}
	if !compacted || !expired {
		t.Errorf("nothing was cleaned before the kills: compaction %t, retention %t", compacted, expired)
	}
}
