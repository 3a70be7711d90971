package consumer

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"mft/protocol"
)

func TestNumberedNames(t *testing.T) {
	long := strings.Repeat("x", 255)
	for _, c := range []struct {
		name string
		n    int
		want string
	}{
		{"a.txt", 0, "a.txt"},
		{"d/a.txt", 1, "d/a (1).txt"},
		{"a.tar.gz", 2, "a (2).tar.gz"},
		{".tar.gz", 2, ".tar (2).gz"},
		{"d.x/none", 10, "d.x/none (10)"},
		{".profile", 1, ".profile (1)"},
		{long, 1, long[:251] + " (1)"},
		{long[:251] + ".txt", 12, long[:246] + " (12).txt"},
		{strings.Repeat("é", 127), 1, strings.Repeat("é", 125) + " (1)"},
		{"a." + long[:253], 1, "a." + long[:249] + " (1)"},
	} {
		got := numbered(c.name, c.n)
		if got != c.want {
			t.Errorf("%q, %d: %q, want %q", c.name, c.n, got, c.want)
		}
		if err := protocol.CheckName(got); err != nil {
			t.Error(err)
		}
	}
}

func FuzzNumberedNames(f *testing.F) {
	f.Add("dir/a.tar.gz", uint16(3))
	f.Add(strings.Repeat("é", 127), uint16(9999))
	f.Fuzz(func(t *testing.T, name string, n uint16) {
		if protocol.CheckName(name) != nil || !utf8.ValidString(name) {
			t.Skip()
		}
		got := numbered(name, int(n)+1)
		if err := protocol.CheckName(got); err != nil && len(name) < 4000 {
			t.Errorf("%q became %q: %v", name, got, err)
		}
		if other := numbered(name, int(n)+2); other == got || got == name {
			t.Errorf("%q: numbers %d and %d are both %q", name, n+1, n+2, got)
		}
	})
}

// A name cannot lead out of the directory, whatever a route makes of it.
func FuzzRoute(f *testing.F) {
	f.Add("{topic}/{date}/{name}", "dir/a.txt")
	f.Add("x{ext}/{base}", "..a/.b.")
	f.Add("{dir}.{base}./{file}", "a/.b")
	f.Add(".{ext}/{transfer}", "a.")
	f.Fuzz(func(t *testing.T, template, name string) {
		r, err := ParseRoute(template)
		if err != nil || protocol.CheckName(name) != nil {
			t.Skip()
		}
		id := protocol.NewTransferID()
		placed, err := r.name(&protocol.Manifest{Name: name}, "topic", id, time.Unix(0, 0))
		if err != nil {
			return
		}
		if !filepath.IsLocal(filepath.FromSlash(placed)) || protocol.CheckName(placed) != nil {
			t.Errorf("%q by %q goes to %q", name, template, placed)
		}
		if again, _ := r.name(&protocol.Manifest{Name: name}, "topic", id, time.Unix(0, 0)); again != placed {
			t.Errorf("%q by %q goes to %q, then to %q", name, template, placed, again)
		}
	})
}

func TestSplitCommand(t *testing.T) {
	for _, c := range []struct {
		line    string
		windows bool
		want    []string
	}{
		{"a b  c\t'd e' \"f g\"", false, []string{"a", "b", "c", "d e", "f g"}},
		{`a '' "" b`, false, []string{"a", "", "", "b"}},
		{`a\ b c\\d "e\"f\g" 'h\i'`, false, []string{"a b", `c\d`, `e"f\g`, `h\i`}},
		{`C:\bin\x.exe "C:\a b\" {}`, true, nil},
		{`C:\bin\x.exe "C:\a b" {}`, true, []string{`C:\bin\x.exe`, `C:\a b`, "{}"}},
		{`\\host\share\x {}`, true, []string{`\\host\share\x`, "{}"}},
		{`sh -c "it's; 'so'"`, false, []string{"sh", "-c", "it's; 'so'"}},
		{"a'b", false, nil},
		{" \t", false, nil},
	} {
		got, err := splitCommand(c.line, c.windows)
		if (err != nil) != (c.want == nil) || !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, %v", c.line, got, err)
		}
	}
}

// A receiver that is stopped while hooks wait or run ends at once, and leaves
// their files to the next run, which runs them.
func TestStopWhileHooksRun(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the hooks of this test are shell scripts")
	}
	t.Parallel()
	s := newSender(t, startBroker(t, t.TempDir(), "127.0.0.1:0").addrs, "hooks", 2)
	for i := range 5 {
		u := newUpload(fmt.Sprintf("f%d", i), []byte("content"))
		s.send(int32(i%2), u.records(4)...)
	}
	dir, out := t.TempDir(), t.TempDir()
	cfg := s.config(dir)
	cfg.Group = "g"
	cfg.Once = false
	// The first fails and waits for its next try, one runs, the others wait for it.
	cfg.Hook = &Hook{Parallel: 1, Command: []string{"sh", "-c", `
		touch "$0/began.$MFT_FILE_NAME"
		if [ "$(ls "$0" | wc -l)" = 1 ]; then exit 1; fi
		while [ ! -e "$0/go" ]; do sleep 0.02; done
		touch "$0/ran.$MFT_FILE_NAME"`, out}}
	stop := start(t, cfg)
	await(t, func() bool { began, _ := filepath.Glob(out + "/began.*"); return len(began) == 2 })
	ended := make(chan Summary)
	go func() { ended <- stop() }()
	if err := os.WriteFile(out+"/go", nil, 0o600); err != nil { // the one that runs may end
		t.Fatal(err)
	}
	select {
	case sum := <-ended:
		if sum.Files != 5 || sum.Hooks != 0 {
			t.Errorf("first run: %+v", sum)
		}
	case <-time.After(40 * time.Second):
		t.Fatal("it does not stop")
	}
	if ran, _ := filepath.Glob(out + "/ran.*"); len(ran) != 1 {
		t.Errorf("ran to its end in the first run: %q", ran)
	}
	cfg.Once = true
	if sum := receive(t, cfg); sum.Files != 0 || sum.Repeated != 4 || sum.Hooks != 0 { // they were in place already
		t.Errorf("second run: %+v", sum)
	}
	if ran, _ := filepath.Glob(out + "/ran.*"); len(ran) != 5 {
		t.Errorf("ran: %q", ran)
	}
	if sum := receive(t, cfg); sum.Files != 0 {
		t.Errorf("third run: %+v", sum)
	}
}

// Transfers of one name that are placed together still meet the rule.
func TestConflictsWithinAGroup(t *testing.T) {
	t.Parallel()
	s := newSender(t, startBroker(t, t.TempDir(), "127.0.0.1:0").addrs, "conflicts", 1)
	want := map[string]string{}
	for i := range 20 {
		u := newUpload("f.txt", fmt.Appendf(nil, "content %d", i/2)) // each content twice
		s.send(0, u.records(100)...)
		want[numbered("f.txt", i/2)] = string(u.content)
		other := newUpload(fmt.Sprintf("g%d (1)", i), []byte("x")) // a number that came with the name
		s.send(0, other.records(100)...)
		want[other.manifest.Name] = "x"
	}
	for _, name := range []string{"g0", "g0"} {
		u := newUpload(name, []byte(name+fmt.Sprint(len(want))))
		s.send(0, u.records(100)...)
		want[map[bool]string{true: "g0", false: "g0 (2)"}[want["g0"] == ""]] = string(u.content)
	}
	cfg := s.config(t.TempDir())
	cfg.OnConflict = ConflictRename
	renamed := map[string]string{}
	cfg.Events.Renamed = func(_, name, as string) { renamed[as] = name }
	sum := receive(t, cfg)
	equalTrees(t, cfg.Dir, want)
	if sum.Files != 42 || sum.Partly() || renamed["f (9).txt"] != "f.txt" {
		t.Errorf("%+v, renamed %v", sum, renamed)
	}
}

// An open transfer whose name a later one has taken is dropped only where it
// would be overwritten, too.
func TestLaterNamesakeWithRename(t *testing.T) {
	t.Parallel()
	s := newSender(t, startBroker(t, t.TempDir(), "127.0.0.1:0").addrs, "later", 1)
	first, second := newUpload("f", []byte("first")), newUpload("f", []byte("second"))
	s.send(0, first.begin())
	s.send(0, second.records(100)...)
	cfg := s.config(t.TempDir())
	cfg.OnConflict = ConflictRename
	if sum := receive(t, cfg); sum.Files != 1 || sum.Unfinished != 1 {
		t.Errorf("%+v", sum)
	}
	s.send(0, first.chunk(0, 5), first.end())
	receive(t, cfg)
	equalTrees(t, cfg.Dir, map[string]string{"f": "second", "f (1)": "first"})
}

func await(t testing.TB, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(40 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come about")
		}
	}
}
