package segment

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mft/protocol"
)

// flips are the places where a file of n bytes is damaged: every byte of small ones, and samples of large ones.
func flips(n int) (at []int) {
	step := 1 + n/2000
	for i := 0; i < n; i += step {
		at = append(at, i)
	}
	return at
}

// A flipped bit in any byte of any file of a data directory, found by a start and a read of everything: what is read is what was written, or there is a typed
// error that names the file, or the reader's checksum fails. Never a panic, never another record, never a metadata entry that was not proposed.
func TestFlippedBits(t *testing.T) {
	closed, crashed, batch := makeInspected(t)
	other := LogID{"other", [16]byte{9}, 3}
	logs := []LogID{testTopic, other}
	want := map[LogID][]protocol.Batch{}
	func() {
		var m ledger
		s := openStore(t, copyDir(t, crashed), m.options())
		for _, id := range logs {
			for _, b := range readAll(t, openLog(t, s, id, LogConfig{}), 0, 1<<20) {
				want[id] = append(want[id], slices.Clone(b))
			}
		}
		closeStore(t, s)
	}()
	entries := []string{"a", "b", "c"}

	try := func(t *testing.T, dir, file string, at int) {
		t.Helper()
		isLog := filepath.Ext(file) == ".log"
		var m ledger
		s, err := Open(dir, m.options())
		if err != nil {
			var format *FormatError
			if !isCorruption(err) && !errors.As(err, &format) {
				t.Fatalf("%s, byte %d: Open: %v", file, at, err)
			}
			return
		}
		defer func() {
			if err := s.Close(); err != nil {
				t.Errorf("%s, byte %d: Close: %v", file, at, err)
			}
		}()
		// A damaged last group of the journal cannot be told from one that was torn: what is before it stands.
		if !slices.Equal(m.entries, entries[:min(len(m.entries), len(entries))]) || len(m.entries) < len(entries) && !strings.HasPrefix(file, journalName) {
			t.Fatalf("%s, byte %d: entries %q", file, at, m.entries)
		}
		for _, id := range logs {
			l, err := s.OpenLog(id, LogConfig{})
			if err != nil {
				if !isCorruption(err) {
					t.Fatalf("%s, byte %d: OpenLog: %v", file, at, err)
				}
				continue
			}
			if err := readSomehow(l, want[id], isLog); err != nil {
				t.Fatalf("%s, byte %d (%d of the batch): %v", file, at, at%batch, err)
			}
			for _, ts := range []int64{0, 1, 31, 121, 1 << 40} {
				if _, _, _, err := l.OffsetForTime(ts); err != nil && !isCorruption(err) {
					t.Fatalf("%s, byte %d: OffsetForTime: %v", file, at, err)
				}
			}
		}
	}
	for _, from := range []string{closed, crashed} {
		must(t, filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || d.Name() == "LOCK" {
				return err
			}
			file, err := filepath.Rel(from, path)
			must(t, err)
			whole, err := os.ReadFile(path)
			must(t, err)
			places := flips(len(whole))
			if inTopics := strings.HasPrefix(file, topicsName); inTopics != (from == closed) && filepath.Dir(file) != filepath.Join(topicsName, other.dirName()) {
				return nil // the same in both
			}
			if testing.Short() || filepath.Ext(file) == ".log" && filepath.Base(file) != logName(8) && filepath.Dir(file) != filepath.Join(topicsName, other.dirName()) {
				places = places[:min(len(places), 50)]
			}
			for _, at := range places {
				dir := quickCopy(t, from)
				must(t, os.Remove(filepath.Join(dir, file)))
				must(t, os.WriteFile(filepath.Join(dir, file), flipped(at)(slices.Clone(whole)), 0o644))
				try(t, dir, file, at)
				must(t, os.RemoveAll(dir))
			}
			return nil
		}))
	}
}

// quickCopy is copyDir for a directory of many copies: it is made below one temporary directory, to be removed by the caller.
func quickCopy(t *testing.T, from string) string {
	t.Helper()
	to, err := os.MkdirTemp("/dev/shm", "mft-flip-") // memory, where there is such a place: thousands of starts with all their fsyncs
	if err != nil {
		to, err = os.MkdirTemp("", "mft-flip-")
	}
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(to)) })
	must(t, os.CopyFS(to, os.DirFS(from)))
	return to
}

// readSomehow reads a log as a consumer does, checking checksums, and compares it with what was written. The base offset and the leader epoch of a
// batch are outside its checksum: where they were damaged, in a segment, they may be wrong, and nothing else.
func readSomehow(l *Log, want []protocol.Batch, inLog bool) error {
	for next := l.StartOffset(); next < l.HighWatermark(); {
		r, err := l.Read(next, 1<<20, true)
		if isCorruption(err) {
			return nil
		} else if err != nil {
			return err
		}
		data := make([]byte, r.Len())
		_, err = r.ReadAt(data, 0)
		if rerr := r.Release(); rerr != nil {
			return rerr
		}
		if err != nil && err != io.EOF {
			return err
		}
		if len(data) == 0 {
			return errors.New("an empty read below the high watermark")
		}
		for len(data) > 0 {
			b, rest, err := protocol.NextBatch(data)
			if err != nil || b.CheckCRC() != nil {
				return nil // the consumer says so
			}
			i := slices.IndexFunc(want, func(w protocol.Batch) bool {
				return bytes.Equal(w[protocol.BatchHeaderLen:], b[protocol.BatchHeaderLen:]) && w.CRC() == b.CRC()
			})
			if i < 0 {
				return errors.New("a batch that was never written")
			}
			if w := want[i]; !bytes.Equal(w, b) && !inLog {
				return errors.New("a batch with another header")
			}
			if b.LastOffset() < next {
				return nil // the consumer sees offsets that it has had
			}
			next, data = b.LastOffset()+1, rest
		}
	}
	return nil
}
