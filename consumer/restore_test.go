package consumer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"mft/protocol"
)

// forget deletes what is in a partition: whoever needs it again is lost.
func (s *sender) forget(partition int32) {
	s.t.Helper()
	admin := kadm.NewClient(s.client)
	ends, err := admin.ListEndOffsets(s.t.Context(), s.topic)
	if err != nil {
		s.t.Fatal(err)
	}
	until := ends.Offsets()
	until.DeleteFunc(func(o kadm.Offset) bool { return o.Partition != partition })
	resp, err := admin.DeleteRecords(s.t.Context(), until)
	if err = errors.Join(err, resp.Error()); err != nil {
		s.t.Fatal(err)
	}
}

// resumedEvents counts what files begin with that had arrived already.
func resumedEvents(cfg *FilesConfig) *atomic.Int64 {
	var n atomic.Int64
	cfg.Events.Resumed = func(_, _ string, bytes int64) { n.Add(bytes) }
	return &n
}

// What has arrived of a file is not read again by the next run: it could not be.
func TestGoesOn(t *testing.T) { onBoth(t, testGoesOn) }

func testGoesOn(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "on", 1)
	key := protocol.NewKey()
	clear, sealed := newUpload("sub/clear", randomBytes(5000)), newUpload("sealed", randomBytes(2500)).seal(t, key)
	begun, small := newUpload("begun", randomBytes(1500)), newUpload("small", []byte("s"))
	secret := sealed.records(1000)
	s.send(0, clear.begin(), clear.chunk(2000, 3000), secret[0], secret[1], clear.chunk(0, 1000))
	s.send(0, small.records(1000)...)
	s.send(0, begun.begin())
	dir := t.TempDir()
	cfg := s.config(dir)
	cfg.Keys, cfg.AcceptPlain = keyring(t, key), true
	if sum := receive(t, cfg); sum.Unfinished != 3 || sum.Files != 1 {
		t.Errorf("first run: %+v", sum)
	}
	s.forget(0)
	s.send(0, begun.chunks(1000)...)
	s.send(0, clear.begin(), clear.chunk(1000, 2000), begun.end()) // its sender was interrupted, too
	resumed := resumedEvents(&cfg)
	if sum := receive(t, cfg); sum.Unfinished != 2 || sum.Files != 1 || sum.Failed != 0 {
		t.Errorf("second run: %+v", sum)
	}
	if resumed.Load() != 3000 {
		t.Errorf("began with %d bytes, want 2000 and 1000", resumed.Load())
	}
	s.forget(0)
	s.send(0, append(secret[2:], clear.chunk(3000, 5000), clear.end())...)
	if sum := receive(t, cfg); sum.Files != 2 || sum.Partly() {
		t.Errorf("third run: %+v", sum)
	}
	equalTrees(t, dir, map[string]string{"sub/clear": string(clear.content), "sealed": string(sealed.content), "begun": string(begun.content), "small": "s"})
}

// The same after kill -9: what the state says is true, and no older than a
// moment.
func TestGoesOnKilled(t *testing.T) { onBoth(t, testGoesOnKilled) }

func testGoesOnKilled(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "killed", 2)
	dir := t.TempDir()
	want := map[string]string{}
	var files []*upload
	for i := range 4 {
		u := newUpload(fmt.Sprintf("file %d", i), randomBytes(3<<19))
		files, want[u.manifest.Name] = append(files, u), string(u.content)
		s.send(int32(i%2), u.begin())
	}
	for at := 0; at < 3<<19; at += 1 << 19 {
		for i, u := range files {
			s.send(int32(i%2), u.chunk(at, at+1<<19))
		}
		cmd := childCommand(t, s, dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() }) // if the test fails here
		waitFor(t, func() bool {
			arrived := int64(0)
			for _, k := range keptIn(dir) {
				for _, t := range k.Open {
					arrived += t.size
				}
			}
			return arrived == int64(len(files)*(at+1<<19))
		})
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		s.forget(0)
		s.forget(1)
	}
	for i, u := range files {
		s.send(int32(i%2), u.end())
	}
	if sum := receive(t, s.config(dir)); sum.Files != len(files) || sum.Partly() {
		t.Errorf("last run: %+v", sum)
	}
	equalTrees(t, dir, want)
}

// keptIn is what is written down in a directory.
func keptIn(dir string) []keptPartition {
	text, err := os.ReadFile(filepath.Join(dir, workDir, stateFile))
	if err != nil {
		return nil
	}
	k, err := parseKept(text)
	if err != nil {
		return nil
	}
	return k.Partitions
}

func waitFor(t testing.TB, done func() bool) {
	t.Helper()
	for began := time.Now(); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > 40*time.Second {
			t.Fatal("it did not happen")
		}
	}
}

// Whatever happened to what was kept, or to the group, the right files come of
// it.
func TestKeptIsOfNoUse(t *testing.T) {
	change := func(f func(*kept)) func(t *testing.T, s *sender, dir string) {
		return func(t *testing.T, s *sender, dir string) {
			name := filepath.Join(dir, workDir, stateFile)
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			k, err := parseKept(text)
			if err != nil {
				t.Fatal(err)
			}
			f(k)
			if text, err = k.encode(); err == nil {
				err = os.WriteFile(name, text, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	temps := func(t *testing.T, dir string, f func(name string) error) {
		list, err := filepath.Glob(filepath.Join(dir, workDir, "*.*"))
		if err != nil || len(list) == 0 {
			t.Fatal(list, err)
		}
		for _, name := range list {
			if err := f(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, test := range []struct {
		name    string
		do      func(t *testing.T, s *sender, dir string)
		resumed int64 // bytes
		log     string
	}{
		{name: "it is of use", do: func(*testing.T, *sender, string) {}, resumed: 3000},
		{name: "no state", do: func(t *testing.T, _ *sender, dir string) {
			if err := os.Remove(filepath.Join(dir, workDir, stateFile)); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "damaged", do: func(t *testing.T, _ *sender, dir string) {
			name := filepath.Join(dir, workDir, stateFile)
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			text[len(text)/2] ^= 1
			if err := os.WriteFile(name, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}, log: "it is damaged"},
		{name: "another group", do: change(func(k *kept) { k.Group += "x" }), log: "another group"},
		{name: "another topic", do: change(func(k *kept) { k.TopicID[0]++ }), log: "another group"},
		{name: "the offset set back", do: change(func(k *kept) { k.Partitions[0].Committed = k.Partitions[0].Next })},
		{name: "records the broker does not have", do: change(func(k *kept) { k.Partitions[0].Next = 100 }), log: "the broker has lost"},
		{name: "no temporary file", do: func(t *testing.T, _ *sender, dir string) { temps(t, dir, os.Remove) }},
		{name: "a short one", do: func(t *testing.T, _ *sender, dir string) {
			temps(t, dir, func(name string) error { return os.Truncate(name, 10) })
		}},
		{name: "a changed one", do: func(t *testing.T, _ *sender, dir string) {
			temps(t, dir, func(name string) error { return os.WriteFile(name, make([]byte, 5000), 0o600) })
		}, resumed: 3000, log: "does not hold what had arrived"},
		{name: "its mode set", do: func(t *testing.T, _ *sender, dir string) {
			temps(t, dir, func(name string) error { return os.Chmod(name, 0o400) })
		}, resumed: 3000},
		{name: "a directory in its place", do: func(t *testing.T, _ *sender, dir string) {
			temps(t, dir, func(name string) error { return errors.Join(os.Remove(name), os.Mkdir(name, 0o700)) })
		}},
		{name: "names out of the directory", do: change(func(k *kept) {
			for i := range k.Partitions[0].Open {
				k.Partitions[0].Open[i].Temp = "../precious"
			}
		}), log: "is no temporary file"},
		{name: "a begin of another name", do: change(func(k *kept) {
			for i := range k.Partitions[0].Open {
				k.Partitions[0].Open[i].Begin.Value = []byte(`{"v":1,"name":"../x","type":"file","size":5000}`)
			}
		})},
		{name: "placed elsewhere", do: func(t *testing.T, s *sender, dir string) {
			other := t.TempDir()
			cfg := s.config(other)
			var err error
			if cfg.Group, err = DefaultGroup(dir, s.topic); err != nil {
				t.Fatal(err)
			}
			if sum := receive(t, cfg); sum.Files != 2 {
				t.Fatalf("elsewhere: %+v", sum)
			}
			for _, name := range []string{"a", "b"} { // where it is looked for
				if err := os.Rename(filepath.Join(other, name), filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newSender(t, startBroker(t, t.TempDir(), "127.0.0.1:0").addrs, "t", 1)
			a, b := newUpload("a", randomBytes(5000)), newUpload("b", randomBytes(5000))
			s.send(0, a.begin(), b.begin(), a.chunk(0, 1000), b.chunk(1000, 2000), a.chunk(4000, 5000))
			dir := filepath.Join(t.TempDir(), "in")
			precious := filepath.Join(dir, "precious")
			if sum := receive(t, s.config(dir)); sum.Unfinished != 2 {
				t.Fatalf("first run: %+v", sum)
			}
			if err := os.WriteFile(precious, []byte("p"), 0o600); err != nil {
				t.Fatal(err)
			}
			s.send(0, a.chunk(1000, 4000), b.chunk(0, 1000), b.chunk(2000, 5000), b.end(), a.end())
			test.do(t, s, dir)
			cfg := s.config(dir)
			resumed := resumedEvents(&cfg)
			log := new(bytes.Buffer)
			cfg.Logger = cfg.Logger.Output(zerolog.SyncWriter(log))
			if sum := receive(t, cfg); sum.Partly() || sum.Files != 2 && test.name != "placed elsewhere" {
				t.Errorf("%+v", sum)
			}
			if resumed.Load() != test.resumed || !strings.Contains(log.String(), test.log) {
				t.Errorf("began with %d bytes, want %d; log %s", resumed.Load(), test.resumed, log)
			}
			equalTrees(t, dir, map[string]string{"a": string(a.content), "b": string(b.content), "precious": "p"})
		})
	}
}

// A member that the group has taken for dead goes on with what it has, once its
// partitions are its own again.
func TestLostAndBack(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	s := newSender(t, cluster.ListenAddrs(), "lost", 1)
	u := newUpload("file", randomBytes(5000))
	s.send(0, u.begin(), u.chunk(0, 3000))
	dir := t.TempDir()
	cfg := s.config(dir)
	cfg.Once = false
	resumed := resumedEvents(&cfg)
	outcome := newOutcomeLog()
	cfg.Events.Begin, cfg.Events.Done = outcome.events().Begin, outcome.events().Done
	stop := start(t, cfg)
	waitFor(t, func() bool { return len(keptIn(dir)) == 1 })
	s.forget(0)
	cluster.ControlKey(int16(kmsg.Heartbeat), func(req kmsg.Request) (kmsg.Response, error, bool) {
		resp := req.ResponseKind().(*kmsg.HeartbeatResponse)
		resp.ErrorCode = kerr.UnknownMemberID.Code
		return resp, nil, true
	})
	waitFor(t, func() bool { return resumed.Load() == 3000 })
	s.send(0, u.chunk(3000, 5000), u.end())
	outcome.wait(t, 1)
	stop()
	equalTrees(t, dir, map[string]string{"file": string(u.content)})
}

// A sender that was interrupted begins its transfer once more. When the commit
// lies between the two, the second one is none of a new file.
func TestBegunTwice(t *testing.T) { onBoth(t, testBegunTwice) }

func testBegunTwice(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "twice", 1)
	first, open := newUpload("first", randomBytes(3000)), newUpload("open", randomBytes(3000))
	s.send(0, first.begin(), first.chunk(0, 1000), open.begin(), first.chunk(1000, 2000), first.begin(), first.chunk(2000, 3000), first.end(), first.begin(), first.end())
	dir := t.TempDir()
	if sum := receive(t, s.config(dir)); sum.Files != 1 || sum.Failed != 0 || sum.Unfinished != 1 {
		t.Errorf("first run: %+v", sum)
	}
	if err := os.RemoveAll(filepath.Join(dir, workDir)); err != nil { // the commit alone has to do
		t.Fatal(err)
	}
	s.send(0, append(open.chunks(1000), open.end())...)
	if sum := receive(t, s.config(dir)); sum.Files != 1 || sum.Partly() {
		t.Errorf("second run: %+v", sum)
	}
	equalTrees(t, dir, map[string]string{"first": string(first.content), "open": string(open.content)})
}

func testKept() *kept {
	id := protocol.NewTransferID()
	return &kept{Group: "g", Topic: "t", TopicID: bytes.Repeat([]byte{3}, 16), Partitions: []keptPartition{{
		ID: 2, Next: 100, Held: 90, Epoch: 4, Committed: 3, Done: []int64{9, 12}, Pending: []int64{20},
		Open: []keptTransfer{{
			Begin: keptRecord{Transfer: id, Offset: 5, Epoch: 1, Timestamp: 9, Value: []byte(`{}`)}, Again: []int64{30},
			Temp: string(id) + ".12", Have: [][2]int64{{0, 10}, {20, 30}}, End: &keptEnd{Size: 40}, Seen: 7,
		}},
	}}}
}

// FuzzKept: whatever is read, with a CRC that fits, is possible, and is read
// again as it is written.
func FuzzKept(f *testing.F) {
	text, err := json.Marshal(testKept())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	for _, change := range []func(*keptPartition){
		func(p *keptPartition) { p.Next = 4 },
		func(p *keptPartition) { p.Open[0].Have = [][2]int64{{0, 10}, {10, 20}} },
		func(p *keptPartition) { p.Open[0].Have = [][2]int64{{-1, 10}} },
		func(p *keptPartition) { p.Open = append(p.Open, p.Open[0]) },
		func(p *keptPartition) { p.Done = []int64{5} },
		func(p *keptPartition) { p.Open[0].Temp = "../../x" },
		func(p *keptPartition) { p.Open[0].Temp = stateFile },
	} {
		k := testKept()
		change(&k.Partitions[0])
		text, err := json.Marshal(k)
		if err != nil {
			f.Fatal(err)
		}
		if _, err := parseKept(withCRC(text)); err == nil {
			f.Errorf("taken: %s", text)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := parseKept(withCRC(text))
		if err != nil {
			return
		}
		for _, p := range k.Partitions {
			for _, o := range p.Open {
				if o.Temp != "" && (!fs.ValidPath(o.Temp) || strings.Contains(o.Temp, "/") || o.Temp == stateFile) {
					t.Fatalf("temporary file %q", o.Temp)
				}
				last := int64(-1)
				for _, r := range o.raw.ranges {
					if r.start <= last || r.start >= r.end {
						t.Fatalf("ranges %v", o.raw.ranges)
					}
					last = r.end
				}
			}
		}
		again, err := k.encode()
		if err != nil {
			t.Fatal(err)
		}
		k2, err := parseKept(again)
		if err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		if again2, err := k2.encode(); err != nil || !bytes.Equal(again, again2) {
			t.Fatalf("%s became %s, %v", again, again2, err)
		}
	})
}

func withCRC(text []byte) []byte {
	return append(fmt.Appendf(nil, "%s %08x\n", stateMagic, crc32.Checksum(text, castagnoli)), text...)
}

// A state that is cut or damaged anywhere is not taken.
func TestKeptDamage(t *testing.T) {
	text, err := testKept().encode()
	if err != nil {
		t.Fatal(err)
	}
	if k, err := parseKept(text); err != nil || !reflect.DeepEqual(k.Partitions[0].Done, testKept().Partitions[0].Done) {
		t.Fatal(k, err)
	}
	for i := range text {
		damaged := slices.Clone(text)
		damaged[i] ^= 4
		for _, bad := range [][]byte{text[:i], damaged, append(slices.Clone(text[:i]), make([]byte, len(text)-i)...)} {
			if _, err := parseKept(bad); err == nil {
				t.Fatalf("taken, changed at %d: %q", i, bad)
			}
		}
	}
}
