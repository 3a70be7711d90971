package producer

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

func reopen(t *testing.T, l *watchLedger, stateDir string) *watchLedger {
	t.Helper()
	if l != nil {
		if err := l.close(); err != nil {
			t.Fatal(err)
		}
	}
	l, err := openLedger(stateDir, "/dir", "topic")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func entryOf(i int) ledgerEntry {
	return ledgerEntry{stamp: stamp{size: int64(i), mtime: int64(i) << 30, ctime: 7, inode: uint64(i), dev: 1}, digest: keyOf(fmt.Sprint(i)), marker: int64(i % 3)}
}

// What was noted is there after a restart, also when the last line was torn.
func TestLedgerRemembers(t *testing.T) {
	dir := t.TempDir()
	l := reopen(t, nil, dir)
	names := []string{"a", "sub/ünï", "not\xffutf8", "with\nnewline", strings.Repeat("long/", 700)}
	for i, name := range names {
		if err := l.sent(name, entryOf(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(l.sent("gone", entryOf(1)), l.forget("gone"), l.sent("a", entryOf(10))); err != nil {
		t.Fatal(err)
	}
	if _, err := openLedger(dir, "/dir", "topic"); err == nil {
		t.Fatal("two have one ledger")
	} else if _, ok := errors.AsType[*WatchedError](err); !ok {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		for i, name := range names {
			want := entryOf(i)
			if i == 0 {
				want = entryOf(10)
			}
			got, ok := l.look(name)
			got.round = 0
			if !ok || got != want {
				t.Errorf("%q: %v, %t, want %v", name, got, ok, want)
			}
		}
		if _, ok := l.look("gone"); ok {
			t.Error("what was forgotten is there")
		}
	}
	l = reopen(t, l, dir)
	check()
	path := l.path
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	for _, torn := range []string{`{"name":"b","si`, "\x00\x00\x00\x00", "{\"na\x00\x00\n"} {
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(before, torn...), 0o600); err != nil {
			t.Fatal(err)
		}
		l = reopen(t, nil, dir)
		check()
		if err := errors.Join(l.sent("b", entryOf(3)), l.forget("b")); err != nil { // it can be written behind
			t.Fatal(err)
		}
		l = reopen(t, l, dir)
		check()
		if err := l.close(); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for what, bad := range map[string]string{"damage": strings.Replace(string(text), `"size"`, `"si"e"`, 1), "another version": strings.Replace(string(text), `"version":1`, `"version":9`, 1)} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if l, err := openLedger(dir, "/dir", "topic"); err == nil {
			t.Errorf("%s is taken, with %d entries", what, len(l.entries))
		}
	}
}

// The file stays in proportion to what there is, and so does memory, however
// many files come and go; a directory that goes away takes nothing with it.
func TestLedgerStaysSmall(t *testing.T) {
	const files = 100_000
	dir := t.TempDir()
	l := reopen(t, nil, dir)
	now := time.Now()
	root := stamp{inode: 1, dev: 1}
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	if err := l.begin(root, now); err != nil {
		t.Fatal(err)
	}
	for i := range files {
		if err := l.sent(fmt.Sprintf("some/directory/and/a/file-%d", i), entryOf(i)); err != nil {
			t.Fatal(err)
		}
	}
	used := heap() - before
	t.Logf("%d entries take %d bytes of memory each", files, used/files)
	if used/files > 300 {
		t.Errorf("%d entries take %d bytes", files, used)
	}
	size := func() int64 {
		info, err := os.Stat(l.path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	full := size()
	for range 2 { // sent again and again
		for i := range files {
			if i%2 == 0 {
				if err := l.sent(fmt.Sprintf("some/directory/and/a/file-%d", i), entryOf(i+1)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := errors.Join(l.begin(root, now), roundOf(l, files, func(int) bool { return true }), l.end(now)); err != nil {
			t.Fatal(err)
		}
		if size() > 3*full {
			t.Fatalf("the file has %d bytes, with each entry once it had %d", size(), full)
		}
	}

	// The directory is another one, and empty: nothing is forgotten for a day.
	other := stamp{inode: 2, dev: 1}
	if err := errors.Join(l.begin(other, now), l.end(now), l.begin(other, now), l.end(now.Add(ledgerGrace/2))); err != nil {
		t.Fatal(err)
	}
	if len(l.entries) != files {
		t.Errorf("%d entries are left of %d", len(l.entries), files)
	}
	// It is back, and most files are gone.
	if err := l.begin(root, now); err != nil {
		t.Fatal(err)
	}
	later := now.Add(2 * ledgerGrace)
	if err := errors.Join(roundOf(l, files, func(i int) bool { return i%10 == 0 }), l.end(later)); err != nil {
		t.Fatal(err)
	}
	if got := len(l.entries); got != files/10+ledgerGone {
		t.Errorf("%d entries are left", got)
	}
	if size() > full {
		t.Errorf("the file has %d bytes", size())
	}
	kept := l.entries
	l = reopen(t, l, dir)
	if len(l.entries) != len(kept) {
		t.Errorf("%d entries after a restart, %d before", len(l.entries), len(kept))
	}
	for i := range files {
		if name := fmt.Sprintf("some/directory/and/a/file-%d", i); i%10 == 0 {
			if _, ok := l.look(name); !ok {
				t.Fatalf("%s is forgotten", name)
			}
		}
	}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
}

// roundOf sees the files that see says.
func roundOf(l *watchLedger, files int, see func(int) bool) error {
	for i := range files {
		if see(i) {
			l.look(fmt.Sprintf("some/directory/and/a/file-%d", i))
		}
	}
	return nil
}
