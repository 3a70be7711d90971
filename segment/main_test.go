package segment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"mft/protocol"
)

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		childMain()
		return
	}
	if os.Getenv(cleanChildVariable) != "" {
		cleanChildMain()
		return
	}
	goleak.VerifyTestMain(m)
}

var testTopic = LogID{Topic: "letters", TopicID: [16]byte{1, 2, 3}, Partition: 0}

// ledger is a state machine that keeps every entry; entries that begin with "!" fail.
type ledger struct {
	entries  []string
	restored int
}

func (m *ledger) options() Options {
	return Options{
		Logger: zerolog.Nop(),
		Restore: func(state []byte) error {
			m.restored++
			m.entries = nil
			if len(state) > 0 {
				m.entries = strings.Split(string(state), "\n")
			}
			return nil
		},
		Apply: func(entry []byte) error {
			m.entries = append(m.entries, string(entry))
			if entry[0] == '!' {
				return fmt.Errorf("refused: %s", entry)
			}
			return nil
		},
		Snapshot: func() ([]byte, error) { return []byte(strings.Join(m.entries, "\n")), nil },
	}
}

func openStore(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && s.Err() == nil {
			t.Error(err)
		}
	})
	return s
}

func closeStore(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func openLog(t testing.TB, s *Store, id LogID, c LogConfig) *Log {
	t.Helper()
	l, err := s.OpenLog(id, c)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// batchOf makes a batch of n records of the given size with timestamps ts, ts+1, ...
func batchOf(t testing.TB, n, size int, ts int64, p *protocol.BatchProducer) protocol.Batch {
	t.Helper()
	records := make([]protocol.Record, n)
	for i := range records {
		records[i] = protocol.Record{OffsetDelta: int32(i), TimestampDelta: int64(i), Value: slices.Repeat([]byte{byte('a' + i%26)}, size)}
	}
	b, err := protocol.EncodeBatch(protocol.BatchOptions{BaseTimestamp: ts, Producer: p}, records)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func appendBatch(t testing.TB, l *Log, b protocol.Batch) Appended {
	t.Helper()
	a, err := l.Append(b)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// fillLog appends batches of one to three records of size bytes, each 10 ms after the previous one, and waits for the last.
func fillLog(t testing.TB, l *Log, batches, size int) {
	t.Helper()
	for i := range batches {
		appendBatch(t, l, batchOf(t, 1+i%3, size, 1000+10*int64(i), nil))
	}
	waitDurable(t, l)
}

func waitDurable(t testing.TB, l *Log) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := l.Wait(ctx, l.EndOffset()); err != nil {
		t.Fatal(err)
	}
}

// readAll reads a log from an offset to its high watermark in pieces, and checks that offsets have no gaps and CRCs are right.
func readAll(t testing.TB, l *Log, from int64, maxBytes int) []protocol.Batch {
	t.Helper()
	var all []protocol.Batch
	next := from
	for next < l.HighWatermark() {
		r, err := l.Read(next, maxBytes, true)
		if err != nil {
			t.Fatalf("read at %d: %v", next, err)
		}
		data := make([]byte, r.Len())
		if n, err := r.ReadAt(data, 0); n < len(data) || err != nil && err != io.EOF {
			t.Fatalf("read %d of %d bytes: %v", n, len(data), err)
		}
		if err := r.Release(); err != nil {
			t.Fatal(err)
		}
		for first := true; ; first = false {
			b, rest, err := protocol.NextBatch(data)
			if err == io.EOF && !first {
				break
			}
			if err != nil {
				t.Fatalf("at offset %d: %v", next, err)
			}
			if first && (b.BaseOffset() > next || b.LastOffset() < next) || !first && b.BaseOffset() != next {
				t.Fatalf("batch %d..%d where %d was expected", b.BaseOffset(), b.LastOffset(), next)
			}
			if err := b.CheckCRC(); err != nil {
				t.Fatal(err)
			}
			all = append(all, b)
			next, data = b.LastOffset()+1, rest
		}
	}
	return all
}

// contents is everything in a log, as bytes.
func contents(t testing.TB, l *Log) []byte {
	t.Helper()
	return slices.Concat(readAllBytes(readAll(t, l, l.StartOffset(), 1<<20))...)
}

func readAllBytes(batches []protocol.Batch) [][]byte {
	var all [][]byte
	for _, b := range batches {
		all = append(all, b)
	}
	return all
}

// copyDir copies a data directory as it is at this moment, file by file, as a backup of a running broker or a crash would.
func copyDir(t testing.TB, from string) string {
	t.Helper()
	to := t.TempDir()
	err := filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), data, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// edit changes a file.
func edit(t testing.TB, path string, change func([]byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

func flipped(at int) func([]byte) []byte {
	return func(data []byte) []byte {
		if at < 0 {
			at += len(data)
		}
		data[at] ^= 0x10
		return data
	}
}

func cutBy(n int) func([]byte) []byte {
	return func(data []byte) []byte { return data[:len(data)-n] }
}

func with(tail ...byte) func([]byte) []byte {
	return func(data []byte) []byte { return append(data, tail...) }
}

func isCorruption(err error) bool {
	var c *CorruptionError
	return errors.As(err, &c)
}
