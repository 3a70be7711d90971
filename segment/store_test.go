package segment

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

func propose(t testing.TB, s *Store, entry string) {
	t.Helper()
	if err := s.Propose(context.Background(), []byte(entry)); err != nil {
		t.Fatal(err)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	_, err := Open(dir, Options{})
	var inUse *InUseError
	if !errors.As(err, &inUse) || inUse.PID != os.Getpid() || inUse.Dir != dir {
		t.Fatalf("second open: %v", err)
	}
	if !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("message %q does not name the holder", err)
	}
	closeStore(t, s)
	openStore(t, dir, Options{})
}

func TestEpochGrows(t *testing.T) {
	dir := t.TempDir()
	var copies []string
	for want := int32(1); want <= 4; want++ {
		s := openStore(t, dir, Options{})
		if s.Epoch() != want {
			t.Errorf("epoch %d, want %d", s.Epoch(), want)
		}
		copies = append(copies, copyDir(t, dir)) // as a crash leaves it
		closeStore(t, s)
	}
	for i, c := range copies {
		if s := openStore(t, c, Options{}); s.Epoch() != int32(i)+2 {
			t.Errorf("epoch after a crash in epoch %d: %d", i+1, s.Epoch())
		}
	}
}

func TestProposeAndReplay(t *testing.T) {
	dir := t.TempDir()
	var m ledger
	s := openStore(t, dir, m.options())
	propose(t, s, "a")
	if err := s.Propose(context.Background(), []byte("!b")); err == nil || err.Error() != "refused: !b" {
		t.Errorf("error of Apply: %v", err)
	}
	propose(t, s, "c")
	crashed := copyDir(t, dir)
	closeStore(t, s)
	if err := s.Propose(context.Background(), []byte("d")); !errors.Is(err, ErrClosed) {
		t.Errorf("propose after close: %v", err)
	}
	want := []string{"a", "!b", "c"}
	for name, at := range map[string]string{"closed": dir, "crashed": crashed} {
		var m ledger
		s := openStore(t, at, m.options())
		if !slices.Equal(m.entries, want) {
			t.Errorf("%s: %q, want %q", name, m.entries, want)
		}
		if restored := map[string]int{"closed": 1, "crashed": 0}[name]; m.restored != restored {
			t.Errorf("%s: Restore called %d times", name, m.restored)
		}
		propose(t, s, "e")
	}
}

func TestProposeConcurrently(t *testing.T) {
	dir := t.TempDir()
	var m ledger
	o := m.options()
	o.JournalBytes = 4 << 10 // many checkpoints meanwhile
	s := openStore(t, dir, o)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 50 {
				if err := s.Propose(context.Background(), fmt.Appendf(nil, "%d/%d %s", g, i, strings.Repeat("x", 100))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	crashed := copyDir(t, dir)
	want := slices.Clone(m.entries)
	if len(want) != 400 {
		t.Fatalf("%d entries", len(want))
	}
	closeStore(t, s)
	for _, at := range []string{dir, crashed} {
		var m ledger
		openStore(t, at, m.options())
		if !slices.Equal(m.entries, want) {
			t.Errorf("%d entries after restart, or in another order", len(m.entries))
		}
	}
	if found, err := generations(filepath.Join(dir, journalName)); err != nil || len(found) != 1 || found[0] < 3 {
		t.Errorf("generations %v, %v", found, err)
	}
}

// A crash between any two steps of a checkpoint leaves a directory that opens with everything in it.
func TestCheckpointCrash(t *testing.T) {
	dir := t.TempDir()
	var m ledger
	s := openStore(t, dir, m.options())
	propose(t, s, "a")
	before := copyDir(t, dir)
	if err := s.Checkpoint(context.Background()); err != nil {
		t.Fatal(err)
	}
	propose(t, s, "b")
	after := copyDir(t, dir)

	both := copyDir(t, before) // the next generation exists, the snapshot is the old one
	data, err := os.ReadFile(generationFile(filepath.Join(after, journalName), 2))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(both, journalName, "2"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(generationFile(filepath.Join(both, journalName), 2), data, 0o644); err != nil {
		t.Fatal(err)
	}
	notDeleted := copyDir(t, after) // the snapshot is the new one, the old generation is still there
	old, err := os.ReadFile(generationFile(filepath.Join(before, journalName), 1))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(notDeleted, journalName, "1"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(generationFile(filepath.Join(notDeleted, journalName), 1), old, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]string{"after": after, "both": both, "not deleted": notDeleted} {
		var m ledger
		s := openStore(t, at, m.options())
		if !slices.Equal(m.entries, []string{"a", "b"}) || s.Epoch() != 2 {
			t.Errorf("%s: %q, epoch %d", name, m.entries, s.Epoch())
		}
	}
}

func TestRefusesDamagedDirectory(t *testing.T) {
	dir := t.TempDir()
	var m ledger
	s := openStore(t, dir, m.options())
	propose(t, s, "a")
	if err := s.Checkpoint(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, e := range []string{"b", "c", "d"} {
		propose(t, s, e)
	}
	l := openLog(t, s, testTopic, LogConfig{})
	fillLog(t, l, 3, 10)
	whole := copyDir(t, dir)
	closeStore(t, s)
	snap, err := os.ReadFile(filepath.Join(whole, snapshotName))
	if err != nil {
		t.Fatal(err)
	}
	for i := range snap {
		if _, err := decodeSnapshot("x/meta.snapshot", flipped(i)(slices.Clone(snap))); !isCorruption(err) {
			t.Fatalf("snapshot with byte %d changed: %v", i, err)
		}
		if _, err := decodeSnapshot("x/meta.snapshot", snap[:i]); !isCorruption(err) {
			t.Fatalf("snapshot of %d bytes: %v", i, err)
		}
	}
	for _, tc := range []struct {
		name    string
		corrupt func(dir string)
		want    any
	}{
		{"no snapshot", func(d string) { must(t, os.Remove(filepath.Join(d, snapshotName))) }, new(*CorruptionError)},
		{"no snapshot and no journal", func(d string) {
			must(t, os.Remove(filepath.Join(d, snapshotName)))
			must(t, os.RemoveAll(filepath.Join(d, journalName)))
		}, new(*CorruptionError)},
		{"no journal", func(d string) { must(t, os.RemoveAll(filepath.Join(d, journalName))) }, new(*CorruptionError)},
		{"a missing generation", func(d string) {
			must(t, os.Rename(filepath.Join(d, journalName, "2"), filepath.Join(d, journalName, "3")))
		}, new(*CorruptionError)},
		{"damage in the middle of the journal", func(d string) {
			edit(t, generationFile(filepath.Join(d, journalName), 2), flipped(30))
		}, new(*CorruptionError)},
		{"a torn generation that is not the last", func(d string) {
			edit(t, generationFile(filepath.Join(d, journalName), 2), cutBy(1))
			must(t, os.Mkdir(filepath.Join(d, journalName, "3"), 0o755))
			must(t, os.WriteFile(generationFile(filepath.Join(d, journalName), 3), []byte("the beginning of a group"), 0o644))
		}, new(*CorruptionError)},
		{"a newer format", func(d string) {
			edit(t, filepath.Join(d, snapshotName), func(b []byte) []byte {
				binary.BigEndian.PutUint32(b[len(snapshotMagic):], snapshotVersion+1)
				body := b[:len(b)-4]
				binary.BigEndian.PutUint32(b[len(body):], crc32.Checksum(body, castagnoli))
				return b
			})
		}, new(*FormatError)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := copyDir(t, whole)
			tc.corrupt(d)
			var m ledger
			s, err := Open(d, m.options())
			if err == nil {
				t.Fatal("opened", s.Close())
			}
			if !errors.As(err, tc.want) {
				t.Errorf("error %v is not a %T", err, tc.want)
			}
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestInterruptedCreation(t *testing.T) {
	dir := t.TempDir()
	j, _, err := openJournal(filepath.Join(dir, journalName), 1, nil)
	must(t, err)
	must(t, j.close())
	s := openStore(t, dir, Options{})
	if s.Epoch() != 1 {
		t.Errorf("epoch %d", s.Epoch())
	}
}

func TestCheckpointCarriesUnopenedLogs(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	fillLog(t, openLog(t, s, testTopic, LogConfig{}), 10, 100)
	closeStore(t, s)
	for range 2 { // opened, but not its log
		s = openStore(t, dir, Options{})
		must(t, s.Checkpoint(context.Background()))
		closeStore(t, s)
	}
	s = openStore(t, dir, Options{})
	l := openLog(t, s, testTopic, LogConfig{})
	if l.Recovery() != (Recovery{}) || l.EndOffset() != 19 {
		t.Errorf("recovery %+v, end %d", l.Recovery(), l.EndOffset())
	}
}
