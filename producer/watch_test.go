package producer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mft/producer"
	"mft/protocol"
)

// watching is a Watch under way.
type watching struct {
	t      *testing.T
	cancel context.CancelFunc
	ended  chan struct{}
	sum    producer.Summary
	err    error

	mu    sync.Mutex
	begun map[string]string // name by transfer id
	sent  []string
	fails []string
	more  chan struct{} // capacity 1
}

// watch starts to watch directories; "settle" is short unless o says otherwise.
func watch(t *testing.T, brokers []string, stateDir string, o producer.WatchOptions, dirs ...string) *watching {
	t.Helper()
	w := &watching{t: t, ended: make(chan struct{}), begun: make(map[string]string), more: make(chan struct{}, 1)}
	if o.Settle == 0 {
		o.Settle = 50 * time.Millisecond
	}
	if o.ScanEvery == 0 {
		o.ScanEvery = 200 * time.Millisecond
	}
	p := newProducer(t, brokers, func(cfg *producer.Config) {
		cfg.StateDir = stateDir
		cfg.Events = producer.Events{
			Begin: func(id, name string, _ int64, _ bool) { w.note(func() { w.begun[id] = name }) },
			Done:  func(id, _ string) { w.note(func() { w.sent = append(w.sent, w.begun[id]) }) },
			Failed: func(_, name string, why error) {
				w.note(func() { w.fails = append(w.fails, name+": "+why.Error()) })
			},
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	w.cancel = cancel
	go func() {
		defer close(w.ended)
		w.sum, w.err = p.Watch(ctx, dirs, o)
	}()
	t.Cleanup(func() { w.cancel(); <-w.ended })
	return w
}

func (w *watching) note(f func()) {
	w.mu.Lock()
	f()
	w.mu.Unlock()
	select {
	case w.more <- struct{}{}:
	default:
	}
}

// await waits until exactly these names are sent, in any order, and returns
// when they are; the list is then empty again.
func (w *watching) await(names ...string) {
	w.t.Helper()
	slices.Sort(names)
	w.until(fmt.Sprintf("%q sent", names), func() bool { return len(w.sent) >= len(names) })
	w.mu.Lock()
	defer w.mu.Unlock()
	slices.Sort(w.sent)
	if !slices.Equal(w.sent, names) {
		w.t.Fatalf("sent %q, want %q", w.sent, names)
	}
	w.sent = nil
}

// until waits for a condition, which is looked at under the lock.
func (w *watching) until(what string, holds func() bool) {
	w.t.Helper()
	deadline := time.After(timeout)
	for {
		w.mu.Lock()
		ok := holds()
		w.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-w.more:
		case <-w.ended:
			w.t.Fatalf("Watch ended: %v", w.err)
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			w.mu.Lock()
			defer w.mu.Unlock()
			w.t.Fatalf("waiting for %s: sent %q, failed %q", what, w.sent, w.fails)
		}
	}
}

// stop ends the watching, which has to end well, and nothing that was not
// awaited may have been sent.
func (w *watching) stop() {
	w.t.Helper()
	w.cancel()
	<-w.ended
	if w.err != nil {
		w.t.Errorf("Watch: %v", w.err)
	}
	if len(w.sent) > 0 {
		w.t.Errorf("also sent: %q", w.sent)
	}
}

func put(t *testing.T, dir, name, text string) string {
	t.Helper()
	return writeFile(t, filepath.Join(dir, filepath.FromSlash(name)), []byte(text))
}

func TestWatchSendsWhatComes(t *testing.T) { onEachKafka(t, 2, testWatchSendsWhatComes) }

func testWatchSendsWhatComes(t *testing.T, brokers []string) {
	dir, state := t.TempDir(), t.TempDir()
	put(t, dir, "there", "1")
	put(t, dir, "sub/there", "2")
	put(t, dir, "left out.tmp", "3")
	put(t, dir, "not/looked/into", "4")
	o := producer.WatchOptions{FileOptions: producer.FileOptions{Exclude: []string{"*.tmp", "not"}}}
	w := watch(t, brokers, state, o, dir+"/")
	w.await("there", "sub/there")

	put(t, dir, "new", "5")
	put(t, dir, "new dir/below/it", "6")
	put(t, dir, "not/this", "7")
	w.await("new", "new dir/below/it")

	put(t, dir, "new", "other content") // replaced: sent again
	w.await("new")
	if err := os.Remove(filepath.Join(dir, "there")); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "empty", "")
	w.await("empty")
	w.stop()

	// A restart sends what has changed meanwhile and nothing else.
	if runtime.GOOS != "windows" {
		if err := os.Chmod(filepath.Join(dir, "empty"), 0o600); err != nil {
			t.Fatal(err)
		}
		copyTimes(t, filepath.Join(dir, "sub", "there"), filepath.Join(dir, "copy"))
		if err := os.Rename(filepath.Join(dir, "copy"), filepath.Join(dir, "sub", "there")); err != nil { // the same, with another inode
			t.Fatal(err)
		}
	}
	put(t, dir, "new", "third content")
	w = watch(t, brokers, state, o, dir+"/")
	w.await("new")
	// Same length, same time, other content: only inode and ctime tell.
	if runtime.GOOS != "windows" {
		path := filepath.Join(dir, "new")
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		twin := put(t, dir, "twin.tmp", "THIRD CONTENT")
		if err := errors.Join(os.Chtimes(twin, info.ModTime(), info.ModTime()), os.Rename(twin, path)); err != nil {
			t.Fatal(err)
		}
		w.await("new")
	}
	put(t, dir, "last", "8")
	w.await("last")
	w.stop()

	// Another topic's ledger is its own; without a name of its own it is sent as "dir/...".
	w = watch(t, brokers, t.TempDir(), o, dir)
	base := filepath.Base(dir)
	w.await(base+"/empty", base+"/last", base+"/new", base+"/new dir/below/it", base+"/sub/there")
	w.stop()
}

func copyTimes(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(to, data, 0o644), os.Chtimes(to, info.ModTime(), info.ModTime())); err != nil {
		t.Fatal(err)
	}
}

// A file that was renamed in is complete, however long others have to settle.
func TestWatchTakesRenamedAtOnce(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells that a file was renamed into a directory")
	}
	brokers, base := startBroker(t, 1), t.TempDir()
	dir := filepath.Join(base, "out")
	put(t, dir, "sub/written here", "is not complete yet")
	w := watch(t, brokers, t.TempDir(), producer.WatchOptions{Settle: time.Hour, FileOptions: producer.FileOptions{Exclude: []string{"*.part"}}}, dir+"/")
	// The first scan, and with it the watches, come before the first file is sent.
	for i := 0; ; i++ {
		part := put(t, base, "whole", "1")
		name := fmt.Sprintf("probe%d", i)
		if err := os.Rename(part, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		ok := false
		for end := time.Now().Add(time.Second); !ok && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			w.mu.Lock()
			ok = slices.Contains(w.sent, name)
			w.mu.Unlock()
		}
		if ok {
			break
		}
		if i > 30 {
			t.Fatal("no file that was renamed in was sent")
		}
	}
	w.mu.Lock()
	w.sent = nil
	w.mu.Unlock()
	part := put(t, dir, "sub/a.part", "1")
	if err := os.Rename(part, filepath.Join(dir, "sub", "a")); err != nil {
		t.Fatal(err)
	}
	w.await("sub/a")
	w.stop()
}

func TestWatchDoneMarker(t *testing.T) {
	brokers, dir, state := startBroker(t, 1), t.TempDir(), t.TempDir()
	o := producer.WatchOptions{DoneMarker: ".done", Settle: time.Millisecond}
	put(t, dir, "early", "1")
	put(t, dir, "early.done", "")
	put(t, dir, "unmarked", "2")
	w := watch(t, brokers, state, o, dir+"/")
	w.await("early")
	put(t, dir, "sub/late", "3")
	put(t, dir, "sub/late.done", "")
	w.await("sub/late")
	// What is written over a file that was sent needs a marker of its own.
	put(t, dir, "early", "11")
	put(t, dir, "another", "4")
	put(t, dir, "another.done", "")
	w.await("another")
	if err := os.Remove(filepath.Join(dir, "early.done")); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "early.done", "")
	w.await("early")
	w.stop()

	o.After = producer.After{Kind: producer.AfterDelete}
	put(t, dir, "unmarked.done", "")
	w = watch(t, brokers, state, o, dir+"/")
	w.await("unmarked")
	w.until("everything is gone", func() bool { return len(entries(t, dir)) == 0 })
	w.stop()
}

// entries are the files below a directory.
func entries(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			names = append(names, filepath.ToSlash(rel))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestWatchMoves(t *testing.T) {
	brokers, dir, state := startBroker(t, 1), t.TempDir(), t.TempDir()
	sent := filepath.Join(dir, "sent")
	o := producer.WatchOptions{After: producer.After{Kind: producer.AfterMove, Dir: sent}}
	put(t, dir, "a", "1")
	put(t, dir, "sub/b", "2")
	put(t, sent, "a", "was there")
	w := watch(t, brokers, state, o, dir+"/")
	w.await("a", "sub/b")
	w.until("the files are moved", func() bool { return len(entries(t, sent)) == 3 && len(entries(t, dir)) == 3 })
	for name, want := range map[string]string{"a": "was there", "a.1": "1", "sub/b": "2"} {
		if got, err := os.ReadFile(filepath.Join(sent, filepath.FromSlash(name))); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
	}
	put(t, dir, "a", "1") // the same again is another file
	w.await("a")
	w.until("it is moved", func() bool { return len(entries(t, sent)) == 4 && len(entries(t, dir)) == 4 })
	w.stop()

	// A run that was killed between acknowledgement and move leaves the file.
	keep := watch(t, brokers, state, producer.WatchOptions{FileOptions: producer.FileOptions{Exclude: []string{"sent"}}}, dir+"/")
	put(t, dir, "left", "3")
	keep.await("left")
	keep.stop()
	w = watch(t, brokers, state, o, dir+"/")
	w.until("it is moved", func() bool { return len(entries(t, dir)) == 5 && len(entries(t, sent)) == 5 })
	w.stop()
}

// Directories go away and come back; files vanish.
func TestWatchSurvivesRemoval(t *testing.T) {
	brokers, base := startBroker(t, 1), t.TempDir()
	dir := filepath.Join(base, "out")
	put(t, dir, "sub/a", "1")
	w := watch(t, brokers, t.TempDir(), producer.WatchOptions{Settle: 100 * time.Millisecond}, dir+"/")
	w.await("sub/a")
	if runtime.GOOS != "windows" {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		put(t, dir, "sub/b", "2")
		w.await("sub/b")
	}
	for i := range 50 { // gone before they are complete
		if err := os.Remove(put(t, dir, fmt.Sprint("brief", i), "x")); err != nil {
			t.Fatal(err)
		}
	}
	if runtime.GOOS != "windows" {
		if err := os.Rename(filepath.Join(dir, "sub"), filepath.Join(dir, "moved")); err != nil {
			t.Fatal(err)
		}
		w.await("moved/b")
		put(t, dir, "moved/c", "3")
		w.await("moved/c")
	}
	if len(w.fails) > 0 {
		t.Errorf("failed: %q", w.fails)
	}
	w.stop()
}

func TestWatchSymlinks(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("symbolic links need rights on Windows")
	}
	brokers, base := startBroker(t, 1), t.TempDir()
	put(t, base, "first/a", "1")
	put(t, base, "second/b", "2")
	put(t, base, "elsewhere/c", "3")
	link := filepath.Join(base, "link")
	if err := errors.Join(os.Symlink("first", link), os.Symlink("../elsewhere", filepath.Join(base, "first", "dir")), os.Symlink("loop", filepath.Join(base, "second", "loop"))); err != nil {
		t.Fatal(err)
	}
	w := watch(t, brokers, t.TempDir(), producer.WatchOptions{}, link+"/")
	w.await("a") // and nothing through the link inside
	if err := errors.Join(os.Remove(link), os.Symlink("second", link)); err != nil {
		t.Fatal(err)
	}
	w.await("b")
	put(t, base, "second/d", "4")
	w.await("d")
	w.stop()
	if w.sum.Skipped != 2 {
		t.Errorf("%d skipped, want the two links, once each", w.sum.Skipped)
	}
}

func TestWatchArguments(t *testing.T) {
	brokers, dir, state := startBroker(t, 1), t.TempDir(), t.TempDir()
	put(t, dir, "sub/a", "1")
	for name, c := range map[string]struct {
		dirs []string
		o    producer.WatchOptions
		want string
	}{
		"a file":            {[]string{filepath.Join(dir, "sub", "a")}, producer.WatchOptions{}, "only directories are watched"},
		"missing":           {[]string{filepath.Join(dir, "none")}, producer.WatchOptions{}, "none"},
		"one in another":    {[]string{dir, filepath.Join(dir, "sub")}, producer.WatchOptions{}, "one is in the other"},
		"moved to itself":   {[]string{dir}, producer.WatchOptions{After: producer.After{Kind: producer.AfterMove, Dir: dir}}, "where they are"},
		"moved into a file": {[]string{dir}, producer.WatchOptions{After: producer.After{Kind: producer.AfterMove, Dir: filepath.Join(dir, "sub", "a")}}, "moved to"},
	} {
		p := newProducer(t, brokers, func(cfg *producer.Config) { cfg.StateDir = state })
		if _, err := p.Watch(t.Context(), c.dirs, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	w := watch(t, brokers, state, producer.WatchOptions{}, dir+"/")
	w.await("sub/a")
	p := newProducer(t, brokers, func(cfg *producer.Config) { cfg.StateDir = state })
	_, err := p.Watch(t.Context(), []string{dir}, producer.WatchOptions{})
	if _, ok := errors.AsType[*producer.WatchedError](err); !ok {
		t.Errorf("a second one: %v", err)
	}
	w.stop()
}

// TestWatchNeverTakesHalf has writers make files in every way that writers do,
// slowly, and checks that each file which is sent is one that a writer finished.
func TestWatchNeverTakesHalf(t *testing.T) {
	const (
		settle  = 500 * time.Millisecond
		pause   = 80 * time.Millisecond // at most, between two writes
		writers = 12
		rounds  = 2
	)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	brokers, base := startBroker(t, 1), t.TempDir()
	dir := filepath.Join(base, "out")
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	o := producer.WatchOptions{Settle: settle, FileOptions: producer.FileOptions{Exclude: []string{"*.part"}}}
	w := watch(t, brokers, t.TempDir(), o, dir+"/")

	var (
		mu     sync.Mutex
		whole  = make(map[string][][]byte) // contents that a writer finished, by name
		latest = make(map[string][]byte)
		slow   bool // the machine made a writer pause for longer than it may
		group  sync.WaitGroup
	)
	for i := range writers {
		group.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			name := fmt.Sprintf("f%d", i)
			if i%3 == 1 {
				name = "sub/" + name
			}
			path := filepath.Join(dir, filepath.FromSlash(name))
			for round := range rounds {
				content := bytes.Repeat([]byte(fmt.Sprintf("%d.%d.%d ", i, round, rng.Int())), 1+rng.IntN(3000))
				mu.Lock()
				whole[name] = append(whole[name], content)
				latest[name] = content
				mu.Unlock()
				to := path
				if i%4 == 3 {
					to += ".part"
				}
				longest, err := writeSlowly(to, content, rng, pause)
				if err == nil && to != path {
					err = os.Rename(to, path)
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				slow = slow || longest > settle*2/3
				mu.Unlock()
				if round < rounds-1 && rng.IntN(2) == 0 { // sometimes the file is replaced before it has settled
					time.Sleep(time.Duration(rng.Int64N(int64(2 * settle))))
				}
			}
		})
	}
	group.Wait()
	read := newReader(t, brokers)
	got := make(map[string][]byte)
	open := make(map[protocol.TransferID]*received)
	finished := func() (n int) {
		for name, content := range latest {
			if bytes.Equal(got[name], content) {
				n++
			}
		}
		return n
	}
	for finished() < writers {
		rec := read.next()
		f, err := protocol.ParseFileRecord(rec.Key, rec.Value, rec.Headers)
		if err != nil {
			t.Fatal(err)
		}
		switch f.Kind {
		case protocol.KindBegin:
			open[f.Transfer] = &received{manifest: *f.Manifest}
		case protocol.KindChunk:
			open[f.Transfer].data = append(open[f.Transfer].data, f.Data...)
		case protocol.KindEnd:
			name, data := open[f.Transfer].manifest.Name, open[f.Transfer].data
			got[name] = data
			if !slices.ContainsFunc(whole[name], func(c []byte) bool { return bytes.Equal(c, data) }) {
				if slow {
					t.Skip("the machine was too slow for the pauses between two writes to be short")
				}
				t.Errorf("%s was sent with %d bytes, which no writer finished", name, len(data))
			}
		}
	}
	w.cancel()
	<-w.ended
	if w.err != nil {
		t.Error(w.err)
	}
}

// writeSlowly writes a file in pieces, with pauses, and returns the longest one.
func writeSlowly(path string, content []byte, rng *rand.Rand, pause time.Duration) (longest time.Duration, err error) {
	file, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	last := time.Now()
	for len(content) > 0 {
		n := min(1+rng.IntN(len(content)/4+2), len(content))
		if _, err := file.Write(content[:n]); err != nil {
			return longest, err
		}
		now := time.Now()
		longest, last = max(longest, now.Sub(last)), now
		content = content[n:]
		if rng.IntN(4) == 0 { // written by several openings
			name := file.Name()
			if err := file.Close(); err != nil {
				return longest, err
			}
			if file, err = os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0); err != nil {
				return longest, err
			}
		}
		if len(content) > 0 {
			time.Sleep(time.Duration(rng.Int64N(int64(pause))))
		}
	}
	return longest, nil
}
