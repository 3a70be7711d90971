package consumer

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"mft/protocol"
)

// receiptsOf reads all receipts of a topic there are.
func (s *sender) receiptsOf(t testing.TB) (list []protocol.Receipt) {
	t.Helper()
	topic := s.topic + protocol.ReceiptsSuffix
	ends, err := kadm.NewClient(s.client).ListEndOffsets(t.Context(), topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	end, _ := ends.Lookup(topic, 0)
	client, err := kgo.NewClient(kgo.SeedBrokers(s.brokers...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(0)}}))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for int64(len(list)) < end.Offset {
		client.PollFetches(t.Context()).EachRecord(func(r *kgo.Record) {
			receipt, err := protocol.ParseReceipt(r.Key, r.Value, r.Headers)
			if err != nil {
				t.Error(err)
			}
			list = append(list, receipt)
		})
		if t.Context().Err() != nil {
			t.Fatal("receipts are missing")
		}
	}
	return list
}

func TestReceipts(t *testing.T) { onBoth(t, testReceipts) }

func testReceipts(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "receipts", 1)
	good, dir, bad, evil := newUpload("d/good", randomBytes(5000)), newDir("d", 0o755), newUpload("bad", randomBytes(100)), newUpload("../evil", []byte("x"))
	good.manifest.Digest = protocol.DigestSHA256
	s.send(0, good.records(700)...)
	s.send(0, dir.begin(), dir.end())
	s.send(0, bad.begin(), bad.chunk(0, 100), bad.endAs(protocol.End{Size: 100, Digest: "00"}))
	s.send(0, evil.records(10)...)
	target := t.TempDir()
	before := time.Now().Add(-time.Millisecond)
	receive(t, s.config(target))
	list := s.receiptsOf(t)
	if len(list) != 4 {
		t.Fatalf("%d receipts: %+v", len(list), list)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	want := map[protocol.TransferID]protocol.Receipt{
		good.id: {State: protocol.StateDelivered, Type: "file", Name: "d/good", Path: filepath.Join(target, "d", "good"), Size: 5000, DigestKind: "sha256"},
		dir.id:  {State: protocol.StateDelivered, Type: "dir", Name: "d", Path: filepath.Join(target, "d"), Size: protocol.SizeUnknown},
		bad.id:  {State: protocol.StateFailed, Type: "file", Name: "bad", Size: 100, Reason: "does not match its digest"},
		evil.id: {State: protocol.StateFailed, Type: "file", Name: "../evil", Size: 1, Reason: "refused: "},
	}
	for _, got := range list {
		w := want[got.Transfer]
		if !strings.Contains(got.Reason, w.Reason) || w.Reason == "" && got.Reason != "" {
			t.Errorf("%s: reason %q", got.Name, got.Reason)
		}
		if got.Host != host || got.Client != "mft-consume" || !strings.HasPrefix(got.Group, "mft-"+host) || got.Time.Before(before) || got.Time.After(time.Now()) {
			t.Errorf("%s: by %s %s %s at %s", got.Name, got.Group, got.Host, got.Client, got.Time)
		}
		if w.DigestKind != "" && len(got.Digest) != 64 {
			t.Errorf("%s: digest %q", got.Name, got.Digest)
		}
		w.Transfer, w.Reason, w.Host, w.Client, w.Group, w.Time, w.Digest = got.Transfer, got.Reason, got.Host, got.Client, got.Group, got.Time, got.Digest
		if fmt.Sprint(got) != fmt.Sprint(w) {
			t.Errorf("got  %+v\nwant %+v", got, w)
		}
	}
	configs, err := kadm.NewClient(s.client).DescribeTopicConfigs(t.Context(), "receipts.receipts")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range configs[0].Configs {
		if c.Key == "retention.ms" && *c.Value != fmt.Sprint(receiptRetention.Milliseconds()) {
			t.Errorf("retention.ms=%s", *c.Value)
		}
	}
}

// TestOncePerGroup repeats whole transfers: in the same run, after a restart,
// in another partition, when the group's offset is gone, and to another member of
// the group in another directory. Each file is placed once.
func TestOncePerGroup(t *testing.T) { onBoth(t, testOncePerGroup) }

func testOncePerGroup(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "once", 2)
	var all []*upload
	repeat := func(partition int32) {
		for _, u := range all {
			s.send(partition, u.records(400)...)
		}
	}
	for i := range 20 {
		all = append(all, newUpload(fmt.Sprintf("f%d", i), randomBytes(i*100)))
	}
	repeat(0)
	repeat(0)
	repeat(1)
	cfg := s.config(t.TempDir())
	cfg.Group = "g"
	// Renaming shows what is placed twice, if its content has changed meanwhile.
	cfg.OnConflict = ConflictRename
	if sum := receive(t, cfg); sum.Files != 20 || sum.Partly() {
		t.Fatalf("first run: %+v", sum)
	}
	taken := func(dir string) { // what was received is taken away, and not to come back
		for i := range 20 {
			if err := os.Remove(filepath.Join(dir, fmt.Sprintf("f%d", i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	taken(cfg.Dir)
	repeat(1)
	if sum := receive(t, cfg); sum.Files != 0 || sum.Repeated != 20 {
		t.Errorf("after a restart: %+v", sum)
	}
	repeat(0)
	other := cfg
	other.Dir = t.TempDir()
	if sum := receive(t, other); sum.Files != 0 || sum.Repeated != 20 {
		t.Errorf("another member: %+v", sum)
	}
	if _, err := kadm.NewClient(s.client).DeleteGroup(t.Context(), "g"); err != nil {
		t.Fatal(err)
	}
	if sum := receive(t, other); sum.Files != 0 || sum.Repeated == 0 {
		t.Errorf("without offsets: %+v", sum)
	}
	equalTrees(t, cfg.Dir, nil)
	equalTrees(t, other.Dir, nil)
	// Another group has not got them yet.
	other.Group = "h"
	if sum := receive(t, other); sum.Files != 20 {
		t.Errorf("another group: %+v", sum)
	}
	delivered := map[string]int{}
	for _, r := range s.receiptsOf(t) {
		delivered[r.Group+string(r.Transfer)+string(r.State)]++
	}
	if len(delivered) != 40 {
		t.Errorf("%d receipts that differ, want one for each file and group", len(delivered))
	}
	for r, n := range delivered {
		if n != 1 {
			t.Errorf("%s: %d receipts", r, n)
		}
	}
}

// TestNoReceiptsTopic: where receipts cannot be written, receiving goes on.
func TestNoReceiptsTopic(t *testing.T) {
	s := newSender(t, startBroker(t, t.TempDir(), "127.0.0.1:0").addrs, strings.Repeat("n", 245), 1) // no room for the suffix
	u := newUpload("f", randomBytes(100))
	s.send(0, u.records(50)...)
	var log strings.Builder
	cfg := s.config(t.TempDir())
	cfg.Logger = cfg.Logger.Output(&log)
	if sum := receive(t, cfg); sum.Files != 1 || sum.Partly() {
		t.Errorf("%+v", sum)
	}
	if n := strings.Count(log.String(), "receipts cannot be written"); n != 1 {
		t.Errorf("it is told %d times: %s", n, log.String())
	}
	equalTrees(t, cfg.Dir, map[string]string{"f": string(u.content)}) // nothing is left of the intents
	s.send(0, u.records(50)...)
	if sum := receive(t, s.config(cfg.Dir)); sum.Partly() {
		t.Errorf("%+v", sum)
	}
}

// TestIntentsAfterAKill: a file was placed if its temporary file is gone, and
// nothing else that a kill leaves behind says so.
func TestIntentsAfterAKill(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(t *testing.T, work string, in *intent)
		want bool // it counts as placed
	}{
		{"before the rename", func(t *testing.T, work string, in *intent) {}, false},
		{"after the rename", func(t *testing.T, work string, in *intent) {
			if err := os.Rename(filepath.Join(work, in.Temp), filepath.Join(work, "..", "f")); err != nil {
				t.Fatal(err)
			}
		}, true},
		{"torn", func(t *testing.T, work string, in *intent) {
			path := filepath.Join(work, placedFile)
			text, err := os.ReadFile(path)
			if err == nil {
				err = errors.Join(os.Remove(filepath.Join(work, in.Temp)), os.WriteFile(path, text[:len(text)-2], 0o600))
			}
			if err != nil {
				t.Fatal(err)
			}
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			target, err := openTarget(dir)
			if err != nil {
				t.Fatal(err)
			}
			in := &intent{Transfer: protocol.NewTransferID(), Temp: "temp", Topic: "t", Group: "g", Receipt: []byte("{}")}
			if err := target.work.root.WriteFile("temp", []byte("content"), 0o600); err != nil {
				t.Fatal(err)
			}
			gone := &intent{Transfer: protocol.NewTransferID(), Temp: "other", Topic: "t", Group: "g", Receipt: []byte("{}")}
			if err := errors.Join(target.work.intents.write([]*intent{gone}), target.work.intents.void(gone.Transfer), target.work.intents.write([]*intent{in})); err != nil {
				t.Fatal(err)
			}
			// Killed: the lock goes, nothing else is done.
			if err := errors.Join(target.work.lock.Unlock(), target.work.root.Close(), target.root.Close()); err != nil {
				t.Fatal(err)
			}
			test.do(t, target.work.path, in)
			if target, err = openTarget(dir); err != nil {
				t.Fatal(err)
			}
			got := target.work.intents.recovered
			if placed := len(got) == 1 && got[0].Transfer == in.Transfer; placed != test.want || len(got) > 1 {
				t.Errorf("recovered %+v", got)
			}
			if err := target.close(); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(filepath.Join(dir, workDir)); (err == nil) != test.want {
				t.Errorf("what is not settled stays, what is settled goes: %v", err)
			}
		})
	}
}

// FuzzIntents: whatever is cut off or garbled, what is read is a prefix of what
// was written.
func FuzzIntents(f *testing.F) {
	f.Add(uint64(1), uint(10), []byte("garbage\n"))
	f.Fuzz(func(t *testing.T, seed uint64, cut uint, garbage []byte) {
		random := rand.New(rand.NewPCG(seed, 1))
		var text []byte
		var want []protocol.TransferID
		for range 1 + random.IntN(10) {
			in := &intent{Transfer: protocol.NewTransferID(), Temp: "t", Receipt: []byte("{}")}
			text, _ = appendLine(text, in)
			want = append(want, in.Transfer)
		}
		kept := int(cut % uint(len(text)+1))
		whole := strings.Count(string(text[:kept]), "\n")
		got := parseIntents(append(text[:kept:kept], garbage...))
		for i, in := range got[:min(len(got), whole)] {
			if in.Transfer != want[i] {
				t.Errorf("intent %d is %s, was %s", i, in.Transfer, want[i])
			}
		}
		if len(got) < whole && !strings.Contains(string(garbage), `"transfer"`) {
			t.Errorf("%d of %d intents are read", len(got), whole)
		}
	})
}

func TestPlacedIDs(t *testing.T) {
	p := newPlacedIDs(10)
	var ids []protocol.TransferID
	for range 25 {
		id := protocol.NewTransferID()
		ids = append(ids, id)
		p.add(id)
		p.add(id)
	}
	for i, id := range ids {
		if i >= 20 && !p.has(id) {
			t.Errorf("%d is forgotten", i)
		}
		if i < 15 && p.has(id) {
			t.Errorf("%d is remembered", i)
		}
	}
	if len(p.young)+len(p.old) > 10 {
		t.Errorf("%d are remembered", len(p.young)+len(p.old))
	}
}
