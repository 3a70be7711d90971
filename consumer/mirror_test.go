package consumer

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"mft/protocol"
)

// grows is a live transfer of content, which may be more than is sent yet.
func grows(name string, content string) *upload {
	u := newUpload(name, []byte(content))
	u.manifest.Size, u.manifest.Live = protocol.SizeUnknown, true
	return u
}

// beginAt is a repeated begin.
func (u *upload) beginAt(from int64) *kgo.Record {
	m := u.manifest
	m.From = from
	return record(protocol.FileRecord{Transfer: u.id, Kind: protocol.KindBegin, Manifest: &m})
}

// mirrorTest sends live transfers and receives them in short runs.
type mirrorTest struct {
	*sender
	dir    string
	group  string
	failed []string
}

func newMirrorTest(t *testing.T, brokers []string) *mirrorTest {
	return &mirrorTest{sender: newSender(t, brokers, "mirror", 1), dir: t.TempDir(), group: "mirrors"}
}

// run receives what is there in a run of its own.
func (m *mirrorTest) run() Summary {
	m.t.Helper()
	cfg := m.config(m.dir)
	cfg.Group = m.group
	log := newOutcomeLog()
	cfg.Events = log.events()
	sum := receive(m.t, cfg)
	m.failed = append(log.failed, log.dropped...)
	return sum
}

// files are those of the directory, without the work directory.
func (m *mirrorTest) files() map[string]string {
	m.t.Helper()
	all := tree(m.t, m.dir)
	for name := range all {
		if strings.HasPrefix(name, workDir) {
			delete(all, name)
		}
	}
	return all
}

func (m *mirrorTest) expect(want map[string]string) {
	m.t.Helper()
	got := m.files()
	for name, content := range want {
		if have, ok := got[name]; !ok || have != content {
			m.t.Errorf("%s: %q, want %q", name, have, content)
		}
		delete(got, name)
	}
	for name := range got {
		m.t.Errorf("%s is there and should not be", name)
	}
}

// behind is how many records the group has not committed.
func (m *mirrorTest) behind() int64 {
	m.t.Helper()
	admin := kadm.NewClient(m.client)
	ctx, cancel := context.WithTimeout(m.t.Context(), 30*time.Second)
	defer cancel()
	lag, err := admin.Lag(ctx, m.group)
	if err != nil {
		m.t.Fatal(err)
	}
	return lag[m.group].Lag.Total()
}

// A mirror is visible while it grows, over any number of runs; the commit is
// at the end all the while, and files beside it are placed once.
func TestMirrorGrows(t *testing.T) {
	onBoth(t, func(t *testing.T, brokers []string) {
		m := newMirrorTest(t, brokers)
		u := grows("logs/app.log", "first second third ")
		m.send(0, u.begin())
		m.send(0, newUpload("other", []byte("1")).records(10)...)
		m.run()
		m.expect(map[string]string{"logs/": "", "logs/app.log": "", "other": "1"})
		at := 0
		for i, word := range []string{"first ", "second ", "third "} {
			m.send(0, u.chunk(at, at+len(word)))
			m.send(0, newUpload("other", []byte(word)).records(10)...)
			at += len(word)
			if sum := m.run(); sum.Files != 1 || sum.Partly() {
				t.Errorf("run %d: %+v", i, sum)
			}
			m.expect(map[string]string{"logs/": "", "logs/app.log": string(u.content[:at]), "other": word})
			if n := m.behind(); n != 0 {
				t.Errorf("the group is %d records behind", n)
			}
		}
		m.send(0, u.chunk(0, 6), u.endAs(protocol.End{Size: int64(at), Digest: digestOf(u), ModTime: testTime}))
		if sum := m.run(); sum.Files != 1 || sum.Bytes != int64(at) {
			t.Errorf("the last run: %+v", sum)
		}
		info, err := os.Stat(filepath.Join(m.dir, "logs/app.log"))
		if err != nil || !info.ModTime().Equal(testTime) || info.Mode().Perm() != 0o640 {
			t.Errorf("%v, %v", info, err)
		}
		if _, err := os.Stat(filepath.Join(m.dir, workDir)); !os.IsNotExist(err) {
			left, _ := os.ReadDir(filepath.Join(m.dir, workDir))
			t.Errorf("the work directory is left: %v, %v", err, left)
		}
		m.send(0, u.records(5)...) // all of it repeated
		if m.run(); len(m.failed) > 0 {
			t.Error(m.failed)
		}
	})
}

func digestOf(u *upload) string {
	rec, err := protocol.ParseFileRecord(u.end().Key, u.end().Value, u.end().Headers)
	if err != nil {
		panic(err)
	}
	return rec.End.Digest
}

// Another member of the group, which has nothing of the file, reads it again
// from its beginning, and nothing else.
func TestMirrorMovesToAnotherDirectory(t *testing.T) {
	onBoth(t, func(t *testing.T, brokers []string) {
		m := newMirrorTest(t, brokers)
		u, second := grows("app.log", "first second "), grows("b.log", "bytes")
		m.send(0, newUpload("old", []byte("1")).records(10)...)
		m.send(0, u.begin(), u.chunk(0, 6))
		m.send(0, newUpload("between", []byte("1")).records(10)...)
		m.send(0, second.begin(), second.chunk(0, 5))
		m.run()
		m.expect(map[string]string{"old": "1", "between": "1", "app.log": "first ", "b.log": "bytes"})
		former := m.dir
		m.dir = t.TempDir()
		m.send(0, u.chunk(6, 13))
		m.run()
		m.expect(map[string]string{"app.log": "first second ", "b.log": "bytes"})
		if n := m.behind(); n != 0 || len(m.failed) > 0 {
			t.Errorf("%d behind, %v", n, m.failed)
		}
		m.dir = former // and back
		m.send(0, u.end(), second.end())
		if sum := m.run(); sum.Files != 2 || sum.Partly() {
			t.Errorf("%+v", sum)
		}
		m.expect(map[string]string{"old": "1", "between": "1", "app.log": "first second ", "b.log": "bytes"})
	})
}

// The file that is gone where it is received is made anew.
func TestMirrorRemovedHere(t *testing.T) {
	m := newMirrorTest(t, startBroker(t, t.TempDir(), "127.0.0.1:0").addrs)
	u := grows("app.log", "first second ")
	m.send(0, u.begin(), u.chunk(0, 6))
	for _, harm := range []func(string) error{os.Remove, func(name string) error { return os.Truncate(name, 2) }} {
		m.run()
		if err := harm(filepath.Join(m.dir, "app.log")); err != nil {
			t.Fatal(err)
		}
	}
	m.send(0, u.chunk(6, 13))
	m.run()
	m.expect(map[string]string{"app.log": "first second "})
}

// What a killed run has written beyond what it noted is taken when it is what
// comes, and replaced when it is not.
func TestMirrorBeyondItsNote(t *testing.T) {
	for name, extra := range map[string]string{
		"the same": "second", "more than comes": "second and what nobody sent", "zeros": "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"other": "sec-nd", "longer and other": "sec-nd third fourth",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMirrorTest(t, startBroker(t, t.TempDir(), "127.0.0.1:0").addrs)
			u := grows("app.log", "first second third ")
			m.send(0, u.begin(), u.chunk(0, 6))
			m.run()
			path := filepath.Join(m.dir, "app.log")
			if err := os.WriteFile(path, []byte("first "+extra), 0o640); err != nil {
				t.Fatal(err)
			}
			m.send(0, u.chunk(6, 13))
			m.run()
			if got := m.files()["app.log"]; !strings.HasPrefix(got, "first second ") && got != "first second" {
				t.Errorf("%q", got)
			}
			m.send(0, u.chunk(13, 19), u.end())
			if sum := m.run(); sum.Files != 1 || len(m.failed) > 0 {
				t.Errorf("%+v, %v", sum, m.failed)
			}
			m.expect(map[string]string{"app.log": "first second third "})
		})
	}
}

// A sender that goes on earlier replaces what it had sent beyond.
func TestMirrorSenderGoesOn(t *testing.T) {
	m := newMirrorTest(t, startBroker(t, t.TempDir(), "127.0.0.1:0").addrs)
	u := grows("app.log", "first second ")
	m.send(0, u.begin(), u.chunk(0, 13), u.beginAt(6), u.chunk(6, 9))
	m.run()
	m.expect(map[string]string{"app.log": "first second "})
	other := *u
	other.content = []byte("first other, longer than it was ")
	m.send(0, other.beginAt(6))
	m.run() // a run that ends between
	m.send(0, other.chunk(6, 20), other.chunk(20, 32), other.end())
	if sum := m.run(); sum.Files != 1 || len(m.failed) > 0 {
		t.Errorf("%+v, %v", sum, m.failed)
	}
	m.expect(map[string]string{"app.log": string(other.content)})
}

// No byte is made up for one that is missing.
func TestMirrorGap(t *testing.T) {
	m := newMirrorTest(t, startBroker(t, t.TempDir(), "127.0.0.1:0").addrs)
	u := grows("app.log", "first second third ")
	m.send(0, u.begin(), u.chunk(0, 6), u.chunk(13, 19))
	if sum := m.run(); sum.Failed != 1 || !strings.Contains(m.failed[0], "6 to 13 have not arrived") {
		t.Errorf("%+v, %v", sum, m.failed)
	}
	m.expect(map[string]string{"app.log": "first "})
	m.send(0, u.beginAt(13))
	m.run()
	m.expect(map[string]string{"app.log": "first "})
	m.send(0, u.beginAt(2), u.chunk(2, 19), u.end())
	if sum := m.run(); sum.Files != 1 {
		t.Errorf("%+v, %v", sum, m.failed)
	}
	m.expect(map[string]string{"app.log": "first second third "})
}

// A mirror that is there does not need what the topic has dropped; one that is
// not cannot be made.
func TestMirrorRetention(t *testing.T) {
	m := newMirrorTest(t, startBroker(t, t.TempDir(), "127.0.0.1:0").addrs)
	u := grows("app.log", "first second third ")
	m.send(0, u.begin(), u.chunk(0, 6))
	m.run()
	m.send(0, u.chunk(6, 13))
	var all kadm.Offsets
	all.Add(kadm.Offset{Topic: m.topic, Partition: 0, At: 2})
	if _, err := kadm.NewClient(m.client).DeleteRecords(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	m.run()
	m.expect(map[string]string{"app.log": "first second "})
	here, group := m.dir, m.group

	m.dir = t.TempDir() // another member
	if sum := m.run(); sum.Failed != 1 || !strings.Contains(m.failed[0], "not in the topic any more") {
		t.Errorf("%+v, %v", sum, m.failed)
	}
	m.group = "others" // and somebody who comes new
	m.send(0, u.beginAt(13), u.chunk(13, 19), u.end())
	if sum := m.run(); sum.Failed != 1 || !strings.Contains(m.failed[0], "its first 13 bytes are not in the topic") {
		t.Errorf("%+v, %v", sum, m.failed)
	}
	m.expect(map[string]string{})
	m.dir, m.group = here, group
	if sum := m.run(); sum.Files != 1 {
		t.Errorf("%+v, %v", sum, m.failed)
	}
	m.expect(map[string]string{"app.log": "first second third "})
}

// What has the name when a generation begins is kept, cut or replaced, by what
// the sender says; and the same again when it is all received again.
func TestMirrorPrevious(t *testing.T) {
	m := newMirrorTest(t, startBroker(t, t.TempDir(), "127.0.0.1:0").addrs)
	path := filepath.Join(m.dir, "app.log")
	if err := os.WriteFile(path, []byte("foreign"), 0o644); err != nil {
		t.Fatal(err)
	}
	var sent []*kgo.Record
	for i, previous := range []string{"", protocol.PreviousKeep, protocol.PreviousCut, protocol.PreviousKeep} {
		u := grows("app.log", "generation "+string(rune('a'+i)))
		u.manifest.Previous = previous
		records := u.records(5)
		for _, r := range records {
			r.Timestamp = testTime.Add(time.Duration(i) * time.Second)
		}
		sent = append(sent, records...)
	}
	m.send(0, sent...)
	want := map[string]string{
		"app.log":                      "generation d",
		"app.log.20240229T123457.789Z": "generation a",
		"app.log.20240229T123459.789Z": "generation c",
	}
	for _, group := range []string{"first", "again"} {
		m.group = group
		if sum := m.run(); sum.Files != 4 || len(m.failed) > 0 {
			t.Errorf("%+v, %v", sum, m.failed)
		}
		m.expect(want)
	}
}

// A mirror whose sender begins the file anew without an end is left as it is.
func TestMirrorBegunAnew(t *testing.T) {
	m := newMirrorTest(t, startBroker(t, t.TempDir(), "127.0.0.1:0").addrs)
	u, next := grows("app.log", "first"), grows("app.log", "second")
	next.manifest.Previous = protocol.PreviousKeep
	begin := next.begin()
	begin.Timestamp = testTime
	m.send(0, u.begin(), u.chunk(0, 5))
	m.run()
	m.send(0, begin, next.chunk(0, 6), u.chunk(0, 5), u.abort(), next.end())
	m.run()
	m.expect(map[string]string{"app.log": "second", "app.log.20240229T123456.789Z": "first"})
}

func TestMirrorRefused(t *testing.T) {
	m := newMirrorTest(t, startBroker(t, t.TempDir(), "127.0.0.1:0").addrs)
	if err := os.Mkdir(filepath.Join(m.dir, "dir"), 0o777); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"../out", "/abs", workDir + "/state", "dir"} {
		u := grows(name, "bytes")
		m.send(0, u.records(5)...)
	}
	damaged := grows("damaged", "bytes")
	m.send(0, damaged.begin(), damaged.chunk(0, 5), damaged.endAs(protocol.End{Size: 5, Digest: "00"}))
	if sum := m.run(); sum.Refused != 4 || sum.Failed != 1 || sum.Files != 0 {
		t.Errorf("%+v, %v", sum, m.failed)
	}
	m.expect(map[string]string{"dir/": "", "damaged": "bytes"})
	if n := m.behind(); n != 0 {
		t.Errorf("%d behind", n)
	}
}

// The ledger holds the commit at what is not durable, and notes the rest.
func TestLedgerMirrors(t *testing.T) {
	l := newLedger(-1)
	at := func(want int64, mirrors ...mirrorPoint) {
		t.Helper()
		offset, _, n := l.point()
		if offset != want || !slices.Equal(n.mirrors, mirrors) {
			t.Errorf("commit %d %v, want %d %v", offset, n.mirrors, want, mirrors)
		}
		text := n.encode(offset)
		if back, err := parseNote(text, offset); err != nil || !slices.Equal(back.mirrors, mirrors) {
			t.Errorf("%s: %v, %v", text, back, err)
		}
	}
	l.openMirror(mirrorPoint{3, 4})
	l.passed(10, 0)
	at(10, mirrorPoint{3, 4})
	l.hold(3, 7, 0)
	l.hold(3, 8, 0)
	at(7, mirrorPoint{3, 4})
	l.begin(8, 0)
	l.finish(8)
	if _, _, n := l.point(); !slices.Equal(n.done, []int64{8}) {
		t.Errorf("done beyond the commit is forgotten: %v", n.done)
	}
	l.openMirror(mirrorPoint{9, 10})
	l.release(3, 10, noneHeld, -1)
	at(10, mirrorPoint{9, 10}, mirrorPoint{3, 10})
	l.closeMirror(9)
	at(10, mirrorPoint{3, 10})
	l.floor = 20
	at(20, mirrorPoint{3, 10})
}
