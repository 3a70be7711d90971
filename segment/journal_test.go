package segment

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tidwall/wal"
)

// newJournal makes a journal with one group per payload.
func newJournal(t testing.TB, payloads ...string) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), journalName)
	j, _, err := openJournal(dir, 1, nil)
	must(t, err)
	for _, p := range payloads {
		must(t, j.write([]record{{recordMetadata, []byte(p)}}))
	}
	must(t, j.sync())
	must(t, j.close())
	return dir
}

// readJournal opens a journal and returns what is in it.
func readJournal(t testing.TB, dir string) (payloads []string, cut int64, err error) {
	t.Helper()
	j, cut, err := openJournal(dir, 1, func(r record) error {
		payloads = append(payloads, string(r.payload))
		return nil
	})
	if err != nil {
		return nil, cut, err
	}
	return payloads, cut, j.close()
}

// Every weakness of tidwall/wal that concerns small entries, shown on the wal itself where that is simple, and absorbed.
func TestJournalTornTail(t *testing.T) {
	for _, tc := range []struct {
		name    string
		corrupt func([]byte) []byte
		want    int // groups left
		fatal   bool
	}{
		{"whole", cutBy(0), 3, false},
		{"one byte missing", cutBy(1), 2, false},
		{"only the length left", cutBy(groupHeaderLen + 2 + 5), 2, false},
		{"trailing garbage", with('x', 'y', 'z'), 3, false},
		{"trailing zeros", with(make([]byte, 4096)...), 3, false},
		{"a huge length", with(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f), 3, false},
		{"a length that never ends", with(bytes.Repeat([]byte{0xff}, 20)...), 3, false},
		{"last data bit flipped", flipped(-1), 2, false},
		{"first length flipped", flipped(0), 0, true},
		{"first data bit flipped", flipped(1 + groupHeaderLen + 2), 0, true},
		{"first magic flipped", flipped(2), 0, true},
		{"everything gone", func([]byte) []byte { return nil }, 0, false},
		{"a group twice", func(b []byte) []byte { return append(b, b[len(b)/3*2:]...) }, 3, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := newJournal(t, "three", "equal", "parts")
			edit(t, generationFile(dir, 1), tc.corrupt)
			got, cut, err := readJournal(t, dir)
			if tc.fatal {
				if !isCorruption(err) {
					t.Fatalf("%q, %v", got, err)
				}
				return
			}
			must(t, err)
			want := []string{"three", "equal", "parts"}[:tc.want]
			if !slices.Equal(got, want) {
				t.Errorf("%q, want %q", got, want)
			}
			// It goes on from there.
			j, again, err := openJournal(dir, 1, nil)
			must(t, err)
			if again != 0 {
				t.Errorf("%d bytes cut, and %d more the next time", cut, again)
			}
			must(t, j.write([]record{{recordMetadata, []byte("more")}}))
			must(t, j.sync())
			must(t, j.close())
			if got, _, err = readJournal(t, dir); err != nil || !slices.Equal(got, append(want, "more")) {
				t.Errorf("after going on: %q, %v", got, err)
			}
		})
	}
}

// A group belongs to its generation and its place: bytes of another do not pass for it.
func TestGroupIsBoundToItsPlace(t *testing.T) {
	group := appendGroup(nil, 7, 3, []record{{recordMetadata, []byte("x")}, {recordEpoch, nil}})
	if index, body, ok := parseGroup(group, 7); !ok || index != 3 || len(body) != 5 {
		t.Errorf("index %d, %d bytes, %v", index, len(body), ok)
	}
	if _, _, ok := parseGroup(group, 8); ok {
		t.Error("passes in another generation")
	}
	for i := range group {
		if _, _, ok := parseGroup(flipped(i)(slices.Clone(group)), 7); ok {
			t.Errorf("passes with byte %d changed", i)
		}
		if _, _, ok := parseGroup(group[:i], 7); ok {
			t.Errorf("passes with %d bytes", i)
		}
	}
}

// The wal, after a failed write, reports success for a retry that it did not write. The journal does not.
func TestJournalFailedWrite(t *testing.T) {
	if !inChild(t) {
		return
	}
	t.Run("the wal alone", func(t *testing.T) {
		log, err := wal.Open(t.TempDir(), &wal.Options{NoSync: true})
		must(t, err)
		must(t, log.Write(1, []byte("one")))
		err = withFileLimit(t, 8, func() error { return log.Write(2, []byte("two, which is too long")) })
		if err == nil {
			t.Fatal("no error")
		}
		must(t, log.Write(2, []byte("too")))
		if data, err := log.Read(2); err != nil || string(data) == "too" {
			t.Skipf("the wal has learned to retry: %q, %v", data, err)
		}
		must(t, log.Close())
	})
	dir := newJournal(t, "one")
	j, _, err := openJournal(dir, 1, nil)
	must(t, err)
	err = withFileLimit(t, uint64(j.size)+10, func() error { return j.write([]record{{recordMetadata, []byte("two, which is too long")}}) })
	var storage *StorageError
	if !errors.As(err, &storage) {
		t.Fatalf("failed write: %v", err)
	}
	must(t, j.write([]record{{recordMetadata, []byte("two")}}))
	must(t, j.write([]record{{recordMetadata, []byte("three")}}))
	must(t, j.sync())
	must(t, j.close())
	if got, cut, err := readJournal(t, dir); err != nil || cut != 0 || !slices.Equal(got, []string{"one", "two", "three"}) {
		t.Errorf("%q, %d bytes cut, %v", got, cut, err)
	}
}

// The wal rolls at its segment size; a generation stays one file however much goes in.
func TestJournalNeverRolls(t *testing.T) {
	dir := newJournal(t)
	j, _, err := openJournal(dir, 1, nil)
	must(t, err)
	big := bytes.Repeat([]byte("x"), 4<<20)
	for range 8 { // the wal's default is 20 MB
		must(t, j.write([]record{{recordMetadata, big}}))
	}
	must(t, j.close())
	entries, err := os.ReadDir(filepath.Join(dir, "1"))
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	if got, _, err := readJournal(t, dir); err != nil || len(got) != 8 {
		t.Errorf("%d groups, %v", len(got), err)
	}
}

// The wal takes a tail of zeros for empty entries. Here it is room that was reserved: it counts as nothing, in the last generation and in one before,
// and a generation of nothing else as one that was never begun.
func TestJournalReserved(t *testing.T) {
	dir := newJournal(t, "first")
	want := []string{"first"}
	for g := uint64(2); g < 4; g++ {
		j, _, err := openJournal(dir, g, nil)
		must(t, err)
		must(t, j.reserve(1<<20))
		for i := range 5 {
			p := fmt.Sprint(g, i)
			must(t, j.write([]record{{recordMetadata, []byte(p)}}))
			want = append(want, p)
		}
		must(t, j.sync())
		must(t, j.close())
		if info, err := os.Stat(generationFile(dir, g)); err != nil || info.Size() != 1<<20 {
			t.Fatalf("%v, %v: the groups are not in the reserved room", info, err)
		}
	}
	j, _, err := openJournal(dir, 4, nil)
	must(t, err)
	must(t, j.reserve(1<<20))
	must(t, j.close())
	must(t, os.MkdirAll(filepath.Join(dir, "5"), 0o755)) // its making was cut short
	for range 2 {
		var m ledger
		s := &Store{dir: filepath.Dir(dir), o: m.options(), redone: map[string]*redo{}}
		j, err := s.replay(dir, 1)
		must(t, err)
		if !slices.Equal(m.entries, want) || j.generation != 3 {
			t.Errorf("%q in the %d generations, want %q", m.entries, j.generation, want)
		}
		must(t, j.write([]record{{recordMetadata, []byte("more")}}))
		must(t, j.close())
		want = append(want, "more")
	}
}

// However much is appended, with checkpoints that keep up the journal stays within some generations.
func TestJournalStaysBounded(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{journalFrom: 1, JournalBytes: 64 << 10})
	l := openLog(t, s, testTopic, LogConfig{})
	b := batchOf(t, 1, 8000, 0, nil)
	for range 500 {
		appendBatch(t, l, b)
		waitDurable(t, l)
		found, err := generations(filepath.Join(s.Dir(), journalName))
		must(t, err)
		if len(found) > 4 {
			t.Fatalf("generations %v", found)
		}
	}
	found, err := generations(filepath.Join(s.Dir(), journalName))
	if err != nil || found[len(found)-1] < 4 {
		t.Errorf("generations %v, %v: there was no checkpoint", found, err)
	}
}

// FuzzJournalTail: whatever follows whole groups, those survive, or it is called damage because a later group is in it; and the journal goes on.
func FuzzJournalTail(f *testing.F) {
	f.Add(uint8(3), []byte{})
	f.Add(uint8(3), make([]byte, 100))
	f.Add(uint8(0), []byte("\x05mftG"))
	f.Add(uint8(2), appendGroup([]byte{23}, 1, 3, []record{{recordMetadata, []byte("x")}}))
	f.Add(uint8(2), appendGroup([]byte{23}, 1, 4, []record{{recordMetadata, []byte("x")}}))
	f.Add(uint8(2), appendGroup([]byte{99}, 1, 4, []record{{9, []byte("x")}}))
	f.Fuzz(func(t *testing.T, n uint8, tail []byte) {
		var front []byte
		var want []string
		for i := range int(n % 8) {
			p := fmt.Sprint("payload ", i)
			group := appendGroup(nil, 1, uint64(i)+1, []record{{recordMetadata, []byte(p)}})
			front = append(append(front, byte(len(group))), group...)
			want = append(want, p)
		}
		dir := filepath.Join(t.TempDir(), journalName)
		must(t, os.MkdirAll(filepath.Join(dir, "1"), 0o755))
		must(t, os.WriteFile(generationFile(dir, 1), append(front, tail...), 0o644))
		got, _, err := readJournal(t, dir)
		if isCorruption(err) {
			if findGroup(tail, 1, uint64(len(want))+1) < 0 {
				t.Fatal(err)
			}
			return
		}
		must(t, err)
		if len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
			t.Fatalf("%q does not begin with %q", got, want)
		}
	})
}
