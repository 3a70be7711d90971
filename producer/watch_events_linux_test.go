package producer

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// next returns the next event, and fails when there is none.
func (w *dirWatcher) next(t *testing.T) dirEvent {
	t.Helper()
	select {
	case e := <-w.events:
		return e
	case <-time.After(30 * time.Second):
		t.Fatal("no event")
		return dirEvent{}
	}
}

func newTestWatcher(t *testing.T, dir string) *dirWatcher {
	t.Helper()
	w, err := newDirWatcher()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	})
	if err := w.add(dir); err != nil {
		t.Fatal(err)
	}
	return w
}

// What is renamed in is told from what is created, and a directory that was
// renamed goes by its new name once it is added again.
func TestDirWatcher(t *testing.T) {
	base := t.TempDir()
	dir, elsewhere := filepath.Join(base, "a"), filepath.Join(base, "elsewhere")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w := newTestWatcher(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "written"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 { // created, closed
		if e := w.next(t); e.path != filepath.Join(dir, "written") || e.moved || e.lost {
			t.Errorf("%+v", e)
		}
	}
	if err := os.WriteFile(elsewhere, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(elsewhere, filepath.Join(dir, "renamed")); err != nil {
		t.Fatal(err)
	}
	if e := w.next(t); e.path != filepath.Join(dir, "renamed") || !e.moved {
		t.Errorf("%+v", e)
	}
	moved := filepath.Join(base, "b")
	if err := os.Rename(dir, moved); err != nil {
		t.Fatal(err)
	}
	if err := w.add(moved); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(moved, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if e := w.next(t); e.path != filepath.Join(moved, "sub") {
		t.Errorf("%+v", e)
	}
	if err := w.add(filepath.Join(base, "none")); err == nil {
		t.Error("a directory that is not there is watched")
	}
}

// When the system's queue overflows, that is told, after which a scan finds
// what was not; and what comes later is told again.
func TestDirWatcherOverflow(t *testing.T) {
	dir := t.TempDir()
	w := newTestWatcher(t, dir)
	limit := 16384
	if text, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events"); err == nil {
		if _, err := fmt.Sscan(string(text), &limit); err != nil {
			t.Fatal(err)
		}
	}
	if limit > 1<<17 {
		t.Skipf("the system's queue takes %d events, which is more than this test makes", limit)
	}
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := os.WriteFile(a, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for range limit/2 + cap(w.events) + 8192 { // nobody takes the events; each pair of renamings makes two
		if err := os.Rename(a, b); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(b, a); err != nil {
			t.Fatal(err)
		}
	}
	for !w.next(t).lost {
	}
	last := filepath.Join(dir, "last")
	if err := os.WriteFile(last, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for w.next(t).path != last {
	}
	loop := &watcher{scanAt: time.Now().Add(time.Hour), p: &Producer{}}
	if loop.event(dirEvent{lost: true}); !loop.scanAt.IsZero() {
		t.Error("no scan after events were lost")
	}
}
