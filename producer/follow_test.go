package producer_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"mft/producer"
)

// follower runs Follow in the background.
type follower struct {
	*reader
	file   string
	cancel context.CancelFunc
	done   chan error
	sum    producer.Summary

	waiting chan struct{} // closed when it says that the file does not exist
}

func follow(t *testing.T, file string, o producer.FollowOptions) *follower {
	t.Helper()
	brokers := startBroker(t, 1)
	ctx, cancel := context.WithCancel(context.Background())
	f := &follower{
		reader: newReader(t, brokers), file: file, cancel: cancel,
		done: make(chan error, 1), waiting: make(chan struct{}),
	}
	p := newProducer(t, brokers, func(c *producer.Config) {
		c.Logger = c.Logger.Hook(zerolog.HookFunc(func(_ *zerolog.Event, _ zerolog.Level, msg string) {
			if strings.Contains(msg, "does not exist yet") {
				close(f.waiting)
			}
		}))
	})
	if o.Poll == 0 {
		o.Poll = time.Hour // events alone have to do
	}
	go func() {
		var err error
		f.sum, err = p.Follow(ctx, file, o)
		f.done <- err
	}()
	t.Cleanup(f.stop)
	return f
}

func (f *follower) stop() {
	f.cancel()
	if err, ok := <-f.done; ok {
		close(f.done)
		if err != nil {
			f.t.Error(err)
		}
	}
}

func (f *follower) append(text string) {
	f.t.Helper()
	file, err := os.OpenFile(f.file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := file.WriteString(text); err != nil {
		f.t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		f.t.Fatal(err)
	}
}

func (f *follower) expect(want ...string) {
	f.t.Helper()
	if got := f.values(len(want)); !slices.Equal(got, want) {
		f.t.Fatalf("got %q, want %q", got, want)
	}
}

func TestFollowGrowingFile(t *testing.T) {
	file := writeFile(t, filepath.Join(t.TempDir(), "log"), []byte("old 1\nold 2\nhal"))
	f := follow(t, file, producer.FollowOptions{})
	f.expect("old 1", "old 2")
	f.append("f\n")
	f.expect("half")
	f.append("a\nb\nc")
	f.expect("a", "b")
	f.append("\n\n")
	f.expect("c", "")
	f.append("left over")
	f.stop()
	if f.sum.Records != 7 {
		t.Errorf("%+v", f.sum)
	}
}

func TestFollowFileThatAppearsLater(t *testing.T) {
	f := follow(t, filepath.Join(t.TempDir(), "log"), producer.FollowOptions{FromEnd: true})
	select {
	case <-f.waiting:
	case <-time.After(timeout):
		t.Fatal("it does not say that it waits")
	}
	f.append("first\n")
	f.expect("first")
}

func TestFollowFromEnd(t *testing.T) {
	f := follow(t, writeFile(t, filepath.Join(t.TempDir(), "log"), []byte("old 1\nold 2\nhal")),
		producer.FollowOptions{FromEnd: true, Poll: 10 * time.Millisecond})
	// Whether the file was opened already cannot be seen from here: what is
	// certain is that after a line that came, the next ones do.
	f.append("f\n")
	for i := 0; ; i++ {
		f.append("new\n")
		select {
		case <-time.After(20 * time.Millisecond):
		case err := <-f.done:
			t.Fatal(err)
		}
		if f.polled() {
			break
		}
		if i > 500 {
			t.Fatal("nothing arrived")
		}
	}
	if got := string(f.next().Value); got != "half" && got != "new" {
		t.Errorf("got %q", got)
	}
}

// polled reports whether a record is there.
func (f *follower) polled() bool {
	if len(f.pending) == 0 {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		f.pending = f.client.PollFetches(ctx).Records()
	}
	return len(f.pending) > 0
}

func TestFollowRotation(t *testing.T) {
	file := writeFile(t, filepath.Join(t.TempDir(), "log"), []byte("1\n"))
	f := follow(t, file, producer.FollowOptions{})
	f.expect("1")
	old, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	for i := range 3 { // rename, and the writer goes on for a while
		if err := os.Rename(file, file+"."+string(rune('a'+i))); err != nil {
			t.Fatal(err)
		}
		if _, err := old.WriteString("2\n3 without newline"); err != nil {
			t.Fatal(err)
		}
		f.append("4\n")
		f.expect("2", "3 without newline", "4")
		if err := old.Close(); err != nil {
			t.Fatal(err)
		}
		if old, err = os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFollowTruncation(t *testing.T) {
	file := writeFile(t, filepath.Join(t.TempDir(), "log"), []byte("1\n2\nhalf"))
	f := follow(t, file, producer.FollowOptions{})
	f.expect("1", "2")
	if err := os.Truncate(file, 0); err != nil { // as copytruncate does
		t.Fatal(err)
	}
	f.expect("half")
	f.append("3\n")
	f.expect("3")
	// Cut and at once longer than before: only the content tells.
	writeFile(t, file, []byte("other\nlines than before\n"))
	f.expect("other", "lines than before")
}

func TestFollowReplacedByRename(t *testing.T) {
	dir := t.TempDir()
	file := writeFile(t, filepath.Join(dir, "log"), []byte("1\n"))
	f := follow(t, file, producer.FollowOptions{})
	f.expect("1")
	if err := os.Rename(writeFile(t, filepath.Join(dir, "new"), []byte("1\n2\n")), file); err != nil {
		t.Fatal(err)
	}
	f.expect("1", "2")
}

func TestFollowThroughLink(t *testing.T) {
	dir := t.TempDir()
	file := writeFile(t, filepath.Join(dir, "there", "log"), []byte("1\n"))
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Skip("no symbolic links here: ", err)
	}
	f := follow(t, link, producer.FollowOptions{})
	f.expect("1")
	f.append("2\n")
	f.expect("2")
}

func TestFollowDirectoryIsRefused(t *testing.T) {
	brokers := startBroker(t, 1)
	p := newProducer(t, brokers, nil)
	if _, err := p.Follow(t.Context(), t.TempDir(), producer.FollowOptions{}); err == nil {
		t.Error("a directory was followed")
	}
}
