package producer

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"
)

func TestStatePrunes(t *testing.T) {
	s := state{filepath.Join(t.TempDir(), "a", "state")}
	if kept, err := s.pruned("resume", time.Hour, 3, os.Remove); len(kept) > 0 || err != nil {
		t.Fatalf("of nothing: %v, %v", kept, err)
	}
	dir, err := s.dir("resume")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(s.path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o700 {
		t.Errorf("the state directory: %v, %v", info, err)
	}
	now := time.Now()
	for name, age := range map[string]time.Duration{"old": 2 * time.Hour, "newest": 0, "newer": time.Minute, "third": 2 * time.Minute, "fourth": 3 * time.Minute} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, now, now.Add(-age))); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "a directory"), 0o700); err != nil {
		t.Fatal(err)
	}
	var removed []string
	kept, err := s.pruned("resume", time.Hour, 3, func(path string) error {
		removed = append(removed, filepath.Base(path))
		return os.Remove(path)
	})
	if err != nil || len(kept) != 3 || !kept["newest"] || !kept["newer"] || !kept["third"] {
		t.Errorf("kept %v, %v", kept, err)
	}
	if !slices.Equal(removed, []string{"fourth", "old"}) {
		t.Errorf("removed %q", removed)
	}
}

func TestLockFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	open := func() *os.File {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	first, second := open(), open()
	if ok, err := lockFile(first); !ok || err != nil {
		t.Fatalf("the first: %t, %v", ok, err)
	}
	if ok, err := lockFile(second); ok || err != nil {
		t.Fatalf("the second: %t, %v", ok, err)
	}
	if _, err := first.WriteAt([]byte("x"), 0); err != nil {
		t.Errorf("writing under the lock: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if err := removeLocked(first); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after its removal: %v", err)
	}
	third := open()
	defer third.Close()
	if ok, err := lockFile(third); !ok || err != nil {
		t.Errorf("a new file of that name: %t, %v", ok, err)
	}
}
