package segment

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

func yield() { runtime.Gosched() }

func TestWait(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	l := openLog(t, s, testTopic, LogConfig{})
	must(t, l.Wait(context.Background(), 0))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.Wait(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	var wg sync.WaitGroup
	for i := range int64(50) {
		wg.Go(func() {
			if err := l.Wait(context.Background(), i); err != nil {
				t.Error(err)
			}
			if l.HighWatermark() < i {
				t.Errorf("returned at %d, before %d", l.HighWatermark(), i)
			}
		})
	}
	for range 50 {
		appendBatch(t, l, batchOf(t, 1, 10, 0, nil))
	}
	wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiters) != 0 {
		t.Errorf("%d waiters left", len(l.waiters))
	}
}

func TestWaitEndsWithTheLog(t *testing.T) {
	for _, end := range []struct {
		name string
		do   func(s *Store, l *Log) error
	}{
		{"delete", func(s *Store, l *Log) error { return s.DeleteLog(l.ID()) }},
		{"close", func(s *Store, _ *Log) error { return s.Close() }},
	} {
		t.Run(end.name, func(t *testing.T) {
			s := openStore(t, t.TempDir(), Options{})
			l := openLog(t, s, testTopic, LogConfig{})
			done := make(chan error)
			go func() { done <- l.Wait(context.Background(), 1) }()
			w := NewWaiter()
			l.Watch(w, 0)
			must(t, end.do(s, l))
			if err := <-done; !errors.Is(err, ErrClosed) {
				t.Errorf("Wait: %v", err)
			}
			<-w.C
			l.Watch(w, 0)
			<-w.C
			if _, err := l.Append(batchOf(t, 1, 1, 0, nil)); !errors.Is(err, ErrClosed) {
				t.Errorf("Append: %v", err)
			}
			if _, err := l.Read(0, 1, true); !errors.Is(err, ErrClosed) {
				t.Errorf("Read: %v", err)
			}
			if err := l.Wait(context.Background(), 1); !errors.Is(err, ErrClosed) {
				t.Errorf("Wait afterwards: %v", err)
			}
		})
	}
}

func TestWatchSeveralLogs(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	w := NewWaiter()
	var logs []*Log
	for i := range int32(3) {
		l := openLog(t, s, LogID{"watched", [16]byte{1}, i}, LogConfig{})
		l.Watch(w, 0)
		logs = append(logs, l)
	}
	for _, l := range logs {
		appendBatch(t, l, batchOf(t, 1, 10, 0, nil))
		<-w.C
		if l.HighWatermark() != 1 {
			t.Error("woken before the high watermark moved")
		}
		l.Unwatch(w)
	}
	appendBatch(t, logs[0], batchOf(t, 1, 10, 0, nil))
	waitDurable(t, logs[0])
	select {
	case <-w.C:
		t.Error("woken after Unwatch")
	default:
	}
}

// A failed fdatasync ends acks for good, and says so to everyone. Writing to the null device works, making it durable does not.
func TestFailedSync(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs a device that takes writes and refuses fdatasync: Linux's /dev/null")
	}
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	l := openLog(t, s, testTopic, LogConfig{})
	other := openLog(t, s, LogID{"other", [16]byte{1}, 0}, LogConfig{})
	fillLog(t, l, 3, 10)
	fillLog(t, other, 1, 10)
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	must(t, err)
	l.mu.Lock()
	old := l.active().h
	l.active().h = newHandle(null)
	l.mu.Unlock()
	must(t, old.release())

	a := appendBatch(t, l, batchOf(t, 1, 10, 0, nil))
	<-s.Failed()
	if err := l.Wait(context.Background(), a.LastOffset+1); err == nil || err != s.Err() {
		t.Errorf("Wait: %v", err)
	}
	if l.DurableOffset() != a.BaseOffset || l.HighWatermark() != a.BaseOffset {
		t.Errorf("durable %d, high watermark %d", l.DurableOffset(), l.HighWatermark())
	}
	if _, err := other.Append(batchOf(t, 1, 10, 0, nil)); err == nil || err != s.Err() {
		t.Errorf("Append: %v", err)
	}
	if err := s.Propose(context.Background(), []byte("x")); err == nil || err != s.Err() {
		t.Errorf("Propose: %v", err)
	}
	if err := s.Checkpoint(context.Background()); err == nil {
		t.Error("a checkpoint after the failure")
	}
	if n := len(readAll(t, other, 0, 1000)); n != 1 {
		t.Error("what is durable cannot be read")
	}
	if err := s.Close(); err == nil {
		t.Error("Close says nothing")
	}
	s = openStore(t, dir, Options{})
	if l = openLog(t, s, testTopic, LogConfig{}); l.EndOffset() != a.BaseOffset {
		t.Errorf("end %d after restart", l.EndOffset())
	}
}

func TestFailedJournalSync(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs a device that refuses fdatasync: Linux's /dev/null")
	}
	s := openStore(t, t.TempDir(), Options{})
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	must(t, err)
	j, _, err := openJournal(filepath.Join(t.TempDir(), journalName), 1, nil)
	must(t, err)
	must(t, j.file.Close())
	j.file = null
	p := &proposal{records: []record{{recordMetadata, []byte("x")}}, done: make(chan error, 1)}
	(&metadata{store: s, journal: j}).commit([]*proposal{p})
	if err := <-p.done; err == nil || err != s.Err() {
		t.Errorf("proposal: %v", err)
	}
	<-s.Failed()
	must(t, j.close())
}
