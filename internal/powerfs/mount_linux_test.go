package powerfs

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// machine is a disk, mounted, and what is needed to cut its power.
type machine struct {
	t     *testing.T
	disk  *Disk
	mount *Mount
	dir   string
	seed  uint64
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t, disk: NewDisk(0, 1), dir: t.TempDir(), seed: 1}
	m.start()
	t.Cleanup(func() {
		if err := m.mount.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func (m *machine) start() {
	m.t.Helper()
	var err error
	if m.mount, err = m.disk.Mount(m.dir); errors.As(err, new(*UnavailableError)) {
		m.t.Skip(err)
	} else if err != nil {
		m.t.Fatal(err)
	}
}

// cut cuts the power and starts again.
func (m *machine) cut(loss Loss) Survey {
	m.t.Helper()
	m.seed++
	s := m.mount.Cut(loss, rand.New(rand.NewPCG(m.seed, 0)))
	if err := m.mount.Unmount(); err != nil {
		m.t.Fatal(err)
	}
	m.start()
	return s
}

func (m *machine) path(name string) string { return filepath.Join(m.dir, name) }

func (m *machine) check(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// write writes to a file from the offset on, and fsyncs it or not.
func (m *machine) write(name string, offset int64, data []byte, sync bool) {
	m.t.Helper()
	f, err := os.OpenFile(m.path(name), os.O_RDWR|os.O_CREATE, 0o644)
	m.check(err)
	_, err = f.WriteAt(data, offset)
	m.check(err)
	if sync {
		m.check(f.Sync())
	}
	m.check(f.Close())
}

func (m *machine) syncDir(name string) {
	m.t.Helper()
	d, err := os.Open(m.path(name))
	m.check(err)
	m.check(d.Sync())
	m.check(d.Close())
}

// want checks a file's content; nil: that it is not there.
func (m *machine) want(name string, data []byte) {
	m.t.Helper()
	got, err := os.ReadFile(m.path(name))
	switch {
	case data == nil && !errors.Is(err, os.ErrNotExist):
		m.t.Errorf("%s is there, with %d bytes (%v)", name, len(got), err)
	case data != nil && err != nil:
		m.t.Error(err)
	case !bytes.Equal(got, data):
		m.t.Errorf("%s has %d bytes, want %d, or others", name, len(got), len(data))
	}
}

func (m *machine) wantNames(dir string, want ...string) {
	m.t.Helper()
	entries, err := os.ReadDir(m.path(dir))
	m.check(err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		m.t.Errorf("%q holds %q, want %q", dir, got, want)
	}
}

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = seed + byte(i>>9)*7 | 1 // never zero, and other bytes in every sector
	}
	return b
}

// TestWhatSurvives loses all that is not durable, after each of the little programs.
func TestWhatSurvives(t *testing.T) {
	old, young := pattern(10_000, 10), pattern(20_000, 90)
	for _, test := range []struct {
		name    string
		program func(m *machine)
		want    func(m *machine)
	}{
		{"before the cut all is there", func(m *machine) { m.write("f", 0, old, false); m.want("f", old) }, func(m *machine) { m.want("f", nil) }},
		{"file and name synced", func(m *machine) { m.write("f", 0, old, true); m.syncDir("") }, func(m *machine) { m.want("f", old) }},
		{"file synced, name not", func(m *machine) { m.write("f", 0, old, true) }, func(m *machine) { m.want("f", nil) }},
		{"name synced, file not", func(m *machine) { m.write("f", 0, old, false); m.syncDir("") }, func(m *machine) { m.want("f", []byte{}) }},
		{"appended and not synced", func(m *machine) {
			m.write("f", 0, old, true)
			m.syncDir("")
			m.write("f", int64(len(old)), young, false)
		}, func(m *machine) { m.want("f", old) }},
		{"overwritten and not synced", func(m *machine) {
			m.write("f", 0, old, true)
			m.syncDir("")
			m.write("f", 5000, young[:2000], false)
		}, func(m *machine) { m.want("f", old) }},
		{"synced by another handle", func(m *machine) {
			m.write("f", 0, old, false)
			m.write("f", 0, nil, true)
			m.syncDir("")
		}, func(m *machine) { m.want("f", old) }},
		{"truncated and not synced", func(m *machine) {
			m.write("f", 0, old, true)
			m.syncDir("")
			m.check(os.Truncate(m.path("f"), 100))
			m.want("f", old[:100])
		}, func(m *machine) { m.want("f", old) }},
		{"truncated and synced", func(m *machine) {
			m.write("f", 0, old, true)
			m.syncDir("")
			m.check(os.Truncate(m.path("f"), 100))
			m.write("f", 0, nil, true)
		}, func(m *machine) { m.want("f", old[:100]) }},
		{"truncated, grown again and synced: zeros between", func(m *machine) {
			m.write("f", 0, old, true)
			m.syncDir("")
			m.check(os.Truncate(m.path("f"), 100))
			m.check(os.Truncate(m.path("f"), 9000))
			m.write("f", 9000, []byte("x"), true)
		}, func(m *machine) { m.want("f", slices.Concat(old[:100], make([]byte, 8900), []byte("x"))) }},
		{"renamed, directory not synced", func(m *machine) {
			m.write("f", 0, old, true)
			m.syncDir("")
			m.check(os.Rename(m.path("f"), m.path("g")))
			m.wantNames("", "g")
		}, func(m *machine) { m.wantNames("", "f"); m.want("f", old) }},
		{"renamed onto another, directory not synced", func(m *machine) {
			m.write("f", 0, old, true)
			m.write("f.new", 0, young, true)
			m.syncDir("")
			m.check(os.Rename(m.path("f.new"), m.path("f")))
			m.want("f", young)
		}, func(m *machine) { m.want("f", old); m.want("f.new", young) }},
		{"replaced as it should be", func(m *machine) {
			m.write("f", 0, old, true)
			m.syncDir("")
			m.write("f.new", 0, young, true)
			m.check(os.Rename(m.path("f.new"), m.path("f")))
			m.syncDir("")
		}, func(m *machine) { m.wantNames("", "f"); m.want("f", young) }},
		{"replaced without fsync of the file", func(m *machine) {
			m.write("f", 0, old, true)
			m.syncDir("")
			m.write("f.new", 0, young, false)
			m.check(os.Rename(m.path("f.new"), m.path("f")))
			m.syncDir("")
		}, func(m *machine) { m.want("f", []byte{}) }},
		{"removed, directory not synced", func(m *machine) {
			m.write("f", 0, old, true)
			m.syncDir("")
			m.check(os.Remove(m.path("f")))
			m.want("f", nil)
		}, func(m *machine) { m.want("f", old) }},
		{"removed and synced", func(m *machine) {
			m.write("f", 0, old, true)
			m.syncDir("")
			m.check(os.Remove(m.path("f")))
			m.syncDir("")
		}, func(m *machine) { m.want("f", nil) }},
		{"directory synced, not its own name", func(m *machine) {
			m.check(os.Mkdir(m.path("d"), 0o755))
			m.write("d/f", 0, old, true)
			m.syncDir("d")
		}, func(m *machine) { m.wantNames("") }},
		{"directory's name synced, not its content", func(m *machine) {
			m.check(os.Mkdir(m.path("d"), 0o755))
			m.write("d/f", 0, old, true)
			m.syncDir("")
		}, func(m *machine) { m.wantNames("", "d"); m.wantNames("d") }},
		{"directory and its name synced", func(m *machine) {
			m.check(os.MkdirAll(m.path("d/e"), 0o755))
			m.write("d/e/f", 0, old, true)
			m.syncDir("d/e")
			m.syncDir("d")
			m.syncDir("")
		}, func(m *machine) { m.want("d/e/f", old) }},
		{"tree removed, not synced", func(m *machine) {
			m.check(os.MkdirAll(m.path("d"), 0o755))
			m.write("d/f", 0, old, true)
			m.syncDir("d")
			m.syncDir("")
			m.check(os.RemoveAll(m.path("d")))
			m.wantNames("")
		}, func(m *machine) { m.want("d/f", old) }},
		{"moved to another directory, only that one synced", func(m *machine) {
			m.check(os.Mkdir(m.path("d"), 0o755))
			m.write("f", 0, old, true)
			m.syncDir("")
			m.check(os.Rename(m.path("f"), m.path("d/f")))
			m.syncDir("d")
		}, func(m *machine) { m.want("d/f", old); m.want("f", old) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMachine(t)
			test.program(m)
			m.cut(Loss{})
			test.want(m)
			if s := m.cut(Loss{}); s != (Survey{}) {
				t.Errorf("what was left after the cut is not durable: %v", s)
			}
			test.want(m) // and is the same after the next
			m.write("after", 0, young, true)
			m.syncDir("")
			m.cut(Loss{})
			m.want("after", young)
		})
	}
}

// TestAfterTheCut checks that nothing works any more, on files that were open too.
func TestAfterTheCut(t *testing.T) {
	m := newMachine(t)
	f, err := os.Create(m.path("f"))
	m.check(err)
	_, err = f.Write(pattern(9000, 1))
	m.check(err)
	m.mount.Cut(Loss{}, rand.New(rand.NewPCG(1, 1)))
	for what, err := range map[string]error{
		"write": func() error { _, err := f.WriteAt([]byte("x"), 0); return err }(),
		"fsync": f.Sync(),
		"open":  func() error { _, err := os.Open(m.path("f")); return err }(),
		"mkdir": os.Mkdir(m.path("d"), 0o755),
	} {
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v, want EIO", what, err)
		}
	}
	if err := f.Close(); err != nil && !errors.Is(err, syscall.EIO) {
		t.Error(err)
	}
	m.check(m.mount.Unmount())
	m.start()
	m.wantNames("")
}

// TestRandomLoss appends to a synced file and cuts the power, many times: what was synced is there, what was not is there, or is as it was
// before, sector by sector; and every outcome is seen.
func TestRandomLoss(t *testing.T) {
	m := newMachine(t)
	const synced = 10_000
	old, young := pattern(synced, 10), pattern(40_000, 120)
	var kept, lost, torn, zeros, shorter, total int
	for range 60 {
		m.write("f", 0, old, true)
		m.check(os.Truncate(m.path("f"), synced))
		m.write("f", 0, nil, true)
		m.syncDir("")
		m.write("f", synced, young, false)
		m.cut(Loss{Pages: 0.4, Torn: 0.5, Sizes: 0.8, Names: 0.5})
		got, err := os.ReadFile(m.path("f"))
		m.check(err)
		if len(got) < synced || !bytes.Equal(got[:synced], old) {
			t.Fatalf("what was durable is lost or damaged: %d bytes", len(got))
		}
		if len(got) < synced+len(young) {
			shorter++
		}
		want := append(slices.Clone(old), young...)
		var states []bool
		for at := synced; at < len(got); {
			end := min(at-at%sectorSize+sectorSize, len(got))
			switch {
			case bytes.Equal(got[at:end], want[at:end]):
				states = append(states, true)
				kept++
			case bytes.Equal(got[at:end], make([]byte, end-at)):
				states = append(states, false)
				lost++
				zeros++
			default:
				t.Fatalf("bytes %d to %d are neither new nor old", at, end)
			}
			if end%pageSize == 0 || end == len(got) {
				if slices.Contains(states, true) && slices.Contains(states, false) {
					torn++
				}
				states = nil
			}
			at = end
		}
		total++
	}
	if kept == 0 || lost == 0 || torn == 0 || zeros == 0 || shorter == 0 || shorter == total {
		t.Errorf("not every outcome was seen: %d sectors kept, %d lost, %d pages torn, %d of %d files shorter", kept, lost, torn, shorter, total)
	}
}

// TestRandomNames makes changes in a directory and cuts the power, many times: names come and go one by one, but a rename as one.
func TestRandomNames(t *testing.T) {
	m := newMachine(t)
	seen := map[string]int{}
	for range 60 {
		m.check(os.Mkdir(m.path("d"), 0o755))
		m.write("d/a", 0, []byte("a"), true)
		m.write("d/b", 0, []byte("b"), true)
		m.syncDir("d")
		m.syncDir("")
		m.check(os.Rename(m.path("d/a"), m.path("d/c")))
		m.check(os.Remove(m.path("d/b")))
		m.write("d/e", 0, []byte("e"), true)
		m.cut(Loss{Names: 0.5})
		_, errA := os.Stat(m.path("d/a"))
		_, errC := os.Stat(m.path("d/c"))
		if (errA == nil) == (errC == nil) {
			t.Fatalf("the rename was done by half: %v, %v", errA, errC)
		}
		entries, err := os.ReadDir(m.path("d"))
		m.check(err)
		names := ""
		for _, e := range entries {
			names += e.Name()
		}
		seen[names]++
		m.check(os.RemoveAll(m.path("d")))
		m.syncDir("")
	}
	if len(seen) != 8 {
		t.Errorf("seen were %v, want all 8 combinations", seen)
	}
}

// TestSeedReproduces checks that the same seed loses the same.
func TestSeedReproduces(t *testing.T) {
	outcome := func() []byte {
		m := newMachine(t)
		m.syncDir("")
		for i := range 20 {
			m.write(string(rune('a'+i)), 0, pattern(9000, byte(i)), i%2 == 0)
		}
		m.cut(Loss{Pages: 0.5, Torn: 0.5, Sizes: 0.5, Names: 0.5})
		var all []byte
		for i := range 20 {
			name := string(rune('a' + i))
			content, err := os.ReadFile(m.path(name))
			if err == nil {
				all = append(append(all, name...), content...)
			}
		}
		return all
	}
	if !bytes.Equal(outcome(), outcome()) {
		t.Error("two runs with one seed differ")
	}
}

// TestLyingDisk checks that a disk that lies loses what was synced.
func TestLyingDisk(t *testing.T) {
	m := newMachine(t)
	data := pattern(5000, 3)
	m.write("f", 0, data, true)
	m.syncDir("")
	m.disk.Lie(Lies{Files: true})
	m.write("f", 5000, data, true)
	m.cut(Loss{})
	m.want("f", data)
	m.disk.Lie(Lies{Dirs: true})
	m.write("g", 0, data, true)
	m.syncDir("")
	m.cut(Loss{})
	m.want("g", nil)
}

// TestLikeAnyFileSystem goes through what a program may expect without a power cut.
func TestLikeAnyFileSystem(t *testing.T) {
	m := newMachine(t)
	big := pattern(3<<20+17, 5)
	m.write("big", 0, big, false)
	m.want("big", big)
	m.write("big", 1<<20-3, []byte("across a page"), false)
	copy(big[1<<20-3:], "across a page")
	m.want("big", big)

	f, err := os.Open(m.path("big"))
	m.check(err)
	m.check(os.Remove(m.path("big"))) // open files outlive their name
	got, err := io.ReadAll(f)
	m.check(err)
	m.check(f.Close())
	if !bytes.Equal(got, big) {
		t.Error("a removed file that is open reads differently")
	}
	f, err = os.OpenFile(m.path("x"), os.O_CREATE|os.O_EXCL, 0o600)
	m.check(err)
	m.check(f.Close())
	if _, err := os.OpenFile(m.path("x"), os.O_CREATE|os.O_EXCL, 0o600); !errors.Is(err, os.ErrExist) {
		t.Errorf("created twice: %v", err)
	}
	m.write("x", 0, []byte("long enough"), false)
	m.check(os.WriteFile(m.path("x"), []byte("short"), 0o644)) // O_TRUNC
	m.want("x", []byte("short"))
	m.check(os.Mkdir(m.path("d"), 0o755))
	if err := os.Mkdir(m.path("d"), 0o755); !errors.Is(err, os.ErrExist) {
		t.Errorf("mkdir twice: %v", err)
	}
	m.write("d/f", 0, []byte("f"), false)
	if err := os.Remove(m.path("d")); !errors.Is(err, syscall.ENOTEMPTY) {
		t.Errorf("removing a directory that is not empty: %v", err)
	}
	var names []string
	for i := range 300 {
		name := "file-with-a-rather-long-name-" + string(rune('0'+i/100)) + string(rune('0'+i/10%10)) + string(rune('0'+i%10))
		m.write("d/"+name, 0, []byte(name), false)
		names = append(names, name)
	}
	m.wantNames("d", append([]string{"f"}, names...)...)
	m.check(os.RemoveAll(m.path("d")))
	m.wantNames("", "x")
}
