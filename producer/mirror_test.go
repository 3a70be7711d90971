package producer_test

import (
	"context"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mft/producer"
	"mft/protocol"
)

// mirroring runs Mirror in the background, again and again with one state.
type mirroring struct {
	*reader
	brokers []string
	paths   []string
	options producer.MirrorOptions
	change  func(*producer.Config)
	state   string

	cancel context.CancelFunc
	done   chan error
	sum    producer.Summary

	id      protocol.TransferID // of the generation that is read
	content []byte              // of it
}

func mirror(t *testing.T, paths ...string) *mirroring {
	t.Helper()
	brokers := startBroker(t, 3)
	m := &mirroring{reader: newReader(t, brokers), brokers: brokers, paths: paths, state: t.TempDir(), options: producer.MirrorOptions{Poll: 50 * time.Millisecond}}
	return m
}

func (m *mirroring) start() {
	m.t.Helper()
	p := newProducer(m.t, m.brokers, func(c *producer.Config) {
		c.StateDir = m.state
		if m.change != nil {
			m.change(c)
		}
	})
	m.t.Cleanup(m.stop) // before the producer is closed
	var ctx context.Context
	ctx, m.cancel = context.WithCancel(context.Background())
	m.done = make(chan error, 1)
	go func() {
		var err error
		m.sum, err = p.Mirror(ctx, m.paths, m.options)
		m.done <- err
	}()
}

func (m *mirroring) stop() {
	m.t.Helper()
	if m.done == nil {
		return
	}
	m.cancel()
	if err := <-m.done; err != nil {
		m.t.Error(err)
	}
	m.done = nil
}

func (m *mirroring) record() protocol.FileRecord {
	m.t.Helper()
	rec := m.next()
	f, err := protocol.ParseFileRecord(rec.Key, rec.Value, rec.Headers)
	if err != nil {
		m.t.Fatal(err)
	}
	return f
}

// begins expects a begin record.
func (m *mirroring) begins(name, previous string) {
	m.t.Helper()
	f := m.record()
	if f.Kind != protocol.KindBegin || !f.Manifest.Live || f.Manifest.Size != protocol.SizeUnknown || f.Manifest.Name != name ||
		f.Manifest.Previous != previous || f.Manifest.From != 0 || f.Transfer == m.id {
		m.t.Fatalf("%s %+v, want the begin of %s, previous %q", f.Kind, f.Manifest, name, previous)
	}
	m.id, m.content = f.Transfer, nil
}

// goesOn expects a repeated begin.
func (m *mirroring) goesOn() {
	m.t.Helper()
	f := m.record()
	if f.Kind != protocol.KindBegin || f.Transfer != m.id || f.Manifest.From > int64(len(m.content)) {
		m.t.Fatalf("%s of %s: %+v, want %s to go on at %d", f.Kind, f.Transfer, f.Manifest, m.id, len(m.content))
	}
	m.content = m.content[:f.Manifest.From]
}

// grows expects chunks, up to the whole content.
func (m *mirroring) grows(want string) {
	m.t.Helper()
	for len(m.content) < len(want) {
		f := m.record()
		if f.Kind != protocol.KindChunk || f.Transfer != m.id || f.Offset != int64(len(m.content)) {
			m.t.Fatalf("%s at %d of %s, want a chunk at %d", f.Kind, f.Offset, f.Transfer, len(m.content))
		}
		m.content = append(m.content, f.Data...)
	}
	if string(m.content) != want {
		m.t.Fatalf("%q, want %q", m.content, want)
	}
}

// ends expects the end of what has come.
func (m *mirroring) ends() {
	m.t.Helper()
	f := m.record()
	if f.Kind != protocol.KindEnd || f.Transfer != m.id || f.End.Size != int64(len(m.content)) {
		m.t.Fatalf("%s of %s: %+v, want the end at %d", f.Kind, f.Transfer, f.End, len(m.content))
	}
	digest, err := protocol.NewDigest("")
	if err != nil {
		m.t.Fatal(err)
	}
	digest.Write(m.content)
	if want := hex.EncodeToString(digest.Sum(nil)); f.End.Digest != want {
		m.t.Fatalf("digest %s, want %s", f.End.Digest, want)
	}
}

func (m *mirroring) append(path, text string) {
	m.t.Helper()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = file.WriteString(text)
	}
	if err = errors.Join(err, file.Close()); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mirroring) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func TestMirrorGrowsAndRotates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	m := mirror(t, path)
	m.start()
	m.append(path, "one ")
	m.begins("log", "")
	m.grows("one ")
	m.append(path, "two ")
	m.grows("one two ")
	m.must(os.Rename(path, path+".1"))
	m.append(path+".1", "three") // by a writer that has not noticed yet
	m.append(path, "next ")
	m.grows("one two three")
	m.ends()
	m.begins("log", protocol.PreviousKeep)
	m.grows("next ")
	m.must(os.Remove(path))
	m.ends()
	m.append(path, "back")
	m.begins("log", protocol.PreviousKeep)
	m.grows("back")
	m.stop()
	if m.sum.Mirrored != 1 || m.sum.Bytes != int64(len("one two three"+"next "+"back")) {
		t.Errorf("%+v", m.sum)
	}
}

// Every way in which a file is not the one any more that it was.
func TestMirrorCut(t *testing.T) {
	head := strings.Repeat("the same head ", 100)
	long := head + strings.Repeat("x", 1000) + "the same tail" + strings.Repeat("y", 300)
	for name, c := range map[string]struct{ before, after string }{
		"to nothing":                    {"one two", ""},
		"to its beginning":              {"one two", "one"},
		"to other bytes":                {"one two", "eno"},
		"to as many bytes":              {"one two", "eno owt"},
		"to more bytes":                 {"one two", "eno owt three"},
		"behind the same head":          {head + "one", head + "eno and more"},
		"between the same head and end": {long, strings.Replace(long, "xxx", "zzz", 1)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := writeFile(t, filepath.Join(t.TempDir(), "log"), []byte(c.before))
			m := mirror(t, path)
			m.start()
			m.begins("log", "")
			m.grows(c.before)
			// A clock tick later, as a rewrite in the same tick cannot be told.
			now := time.Now()
			m.must(os.WriteFile(path, []byte(c.after), 0o644))
			m.must(os.Chtimes(path, now, now.Add(time.Second)))
			m.ends()
			m.begins("log", protocol.PreviousCut)
			m.append(path, " and on")
			m.grows(c.after + " and on")
		})
	}
}

// A file that has all that was sent is the same one, whatever its inode; one
// that was touched is, too.
func TestMirrorOfTheSameContent(t *testing.T) {
	dir := t.TempDir()
	path := writeFile(t, filepath.Join(dir, "log"), []byte("one "))
	m := mirror(t, path)
	m.start()
	m.begins("log", "")
	m.grows("one ")
	m.must(os.Rename(writeFile(t, filepath.Join(dir, "new"), []byte("one two ")), path))
	m.grows("one two ")
	m.must(os.Chtimes(path, time.Now(), time.Now().Add(time.Hour)))
	m.append(path, "three ")
	m.grows("one two three ")
	// Of the same length, and another file.
	m.must(os.Rename(writeFile(t, filepath.Join(dir, "new"), []byte("eno owt eerht ")), path))
	m.ends()
	m.begins("log", protocol.PreviousKeep)
	m.grows("eno owt eerht ")
}

func TestMirrorGoesOn(t *testing.T) {
	dir := t.TempDir()
	path := writeFile(t, filepath.Join(dir, "log"), []byte("one "))
	m := mirror(t, path)
	m.start()
	m.begins("log", "")
	m.grows("one ")
	m.stop()

	m.append(path, "two ")
	m.start()
	m.goesOn()
	m.grows("one two ")
	m.stop()

	// Moved away meanwhile: sent to its end first.
	m.append(path, "three ")
	m.must(os.Rename(path, path+".1"))
	writeFile(t, filepath.Join(dir, "log.0"), []byte("one two and something else"))
	m.append(path, "next ")
	m.start()
	m.goesOn()
	m.grows("one two three ")
	m.ends()
	m.begins("log", protocol.PreviousKeep)
	m.grows("next ")
	m.stop()

	// Replaced meanwhile, and the old one is nowhere: given up.
	writeFile(t, path, []byte("txen and on"))
	m.start()
	m.goesOn()
	if f := m.record(); f.Kind != protocol.KindAbort || f.Transfer != m.id {
		t.Fatalf("%+v", f)
	}
	m.begins("log", protocol.PreviousKeep)
	m.grows("txen and on")
	m.stop()

	// With the state gone, or not wanted, all is sent anew.
	m.change = func(c *producer.Config) { c.NoResume = true }
	m.start()
	m.begins("log", "")
	m.grows("txen and on")
	m.stop()
	m.change = func(c *producer.Config) { c.StateDir = "" }
	m.start()
	m.begins("log", "")
	m.grows("txen and on")
	m.stop()
	m.ends() // nobody could go on with it
}

// What the state directory has lost by a power loss is sent again, and what it
// holds of a half written line is left out.
func TestMirrorOldState(t *testing.T) {
	path := writeFile(t, filepath.Join(t.TempDir(), "log"), []byte("one "))
	m := mirror(t, path)
	m.start()
	m.begins("log", "")
	m.grows("one ")
	m.stop()
	states, err := filepath.Glob(filepath.Join(m.state, "mirrors", "*"))
	m.must(err)
	var file string
	for _, s := range states {
		if !strings.HasSuffix(s, ".lock") {
			file = s
		}
	}
	old, err := os.ReadFile(file)
	m.must(err)
	m.append(path, "two ")
	m.start()
	m.goesOn()
	m.grows("one two ")
	m.stop()
	writeFile(t, path, []byte("one 2"))
	m.must(os.WriteFile(file, append(old, `{"sent":5,"su`...), 0o600))
	m.start()
	m.goesOn()
	m.grows("one 2")
}

func TestMirrorDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	writeFile(t, filepath.Join(dir, "a.log"), []byte("a"))
	writeFile(t, filepath.Join(dir, "a.log.1"), []byte("old"))
	m := mirror(t, dir)
	m.options.Exclude = []string{"*.[0-9]"}
	m.start()
	m.begins("logs/a.log", "")
	m.grows("a")
	later := writeFile(t, filepath.Join(dir, "sub", "b.log"), nil)
	m.begins("logs/sub/b.log", "")
	m.append(later, "b")
	m.grows("b")
	m.must(os.Remove(later))
	m.ends()
	m.append(later, "back")
	m.begins("logs/sub/b.log", protocol.PreviousKeep)
	m.grows("back")
}

func TestMirrorOneAtATime(t *testing.T) {
	path := writeFile(t, filepath.Join(t.TempDir(), "log"), []byte("one "))
	m := mirror(t, path)
	m.start()
	m.begins("log", "")
	second := newProducer(t, m.brokers, func(c *producer.Config) { c.StateDir = m.state })
	sum, err := second.Mirror(t.Context(), m.paths, m.options)
	if err != nil || sum.Failed != 1 || !strings.Contains(sum.Problems[0].Reason, "another mft-produce") {
		t.Errorf("%+v, %v", sum, err)
	}
}
