package consumer

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mft/protocol"
)

// sealedUpload is an upload that is encrypted as it is sent.
type sealedUpload struct {
	*upload
	sealer *protocol.Sealer
}

func (u *upload) seal(t testing.TB, key *protocol.Key) sealedUpload {
	t.Helper()
	sealer, err := key.NewSealer(u.id, true)
	if err != nil {
		t.Fatal(err)
	}
	return sealedUpload{u, sealer}
}

func (u sealedUpload) begin() *kgo.Record {
	m := u.manifest
	return record(u.sealer.Seal(protocol.FileRecord{Kind: protocol.KindBegin, Manifest: &m}))
}

func (u sealedUpload) chunk(from, to int, last bool) *kgo.Record {
	data := u.content[from:to]
	buf := make([]byte, u.sealer.SealedLen(len(data), len(data)))
	return record(u.sealer.SealChunk(buf, protocol.Chunk{Offset: int64(from), Size: len(data), Data: data, Last: last}))
}

func (u sealedUpload) chunks(size int) (list []*kgo.Record) {
	for from := 0; from < len(u.content); from += size {
		to := min(from+size, len(u.content))
		list = append(list, u.chunk(from, to, to == len(u.content)))
	}
	return list
}

func (u sealedUpload) end() *kgo.Record {
	plain := u.upload.end()
	rec, err := protocol.ParseFileRecord(plain.Key, plain.Value, plain.Headers)
	if err != nil {
		panic(err)
	}
	return record(u.sealer.Seal(rec))
}

func (u sealedUpload) abort() *kgo.Record {
	return record(u.sealer.Seal(protocol.FileRecord{Kind: protocol.KindAbort, Abort: &protocol.Abort{Reason: "changed"}}))
}

func (u sealedUpload) records(chunk int) []*kgo.Record {
	return slices.Concat([]*kgo.Record{u.begin()}, u.chunks(chunk), []*kgo.Record{u.end()})
}

func keyring(t testing.TB, keys ...*protocol.Key) *protocol.Keyring {
	t.Helper()
	r, err := protocol.NewKeyring(keys, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// as gives a record another's place: its key, and its headers.
func as(value, place *kgo.Record) *kgo.Record {
	return &kgo.Record{Key: bytes.Clone(place.Key), Value: bytes.Clone(value.Value), Headers: slices.Clone(place.Headers)}
}

func flipped(r *kgo.Record, at int) *kgo.Record {
	r = as(r, r)
	r.Value[at] ^= 1
	return r
}

// What is changed, cut, moved or mixed in is refused, and nothing of it is
// placed; what is repeated or in another order arrives, and so does the rest.
func TestEncrypted(t *testing.T) { onBoth(t, testEncrypted) }

func testEncrypted(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "sealed", 1)
	key := protocol.NewKey()
	want := make(map[string]string)
	failures := make(map[string]string) // by transfer id
	file := func(name string) sealedUpload {
		return newUpload(name, randomBytes(2500)).seal(t, key)
	}
	good := func(name string, order func([]*kgo.Record) []*kgo.Record) {
		u := file(name)
		want[name] = string(u.content)
		s.send(0, order(u.records(1000))...) // begin, three chunks, end
	}
	bad := func(name, why string, change func(sealedUpload, []*kgo.Record) []*kgo.Record) {
		u := file(name)
		failures[string(u.id)] = why
		s.send(0, change(u, u.records(1000))...)
	}
	good("in order", func(r []*kgo.Record) []*kgo.Record { return r })
	good("another order", func(r []*kgo.Record) []*kgo.Record { return []*kgo.Record{r[0], r[3], r[4], r[1], r[2]} })
	good("repeated", func(r []*kgo.Record) []*kgo.Record {
		return []*kgo.Record{r[0], as(r[0], r[0]), r[1], as(r[1], r[1]), r[3], r[2], as(r[3], r[3]), r[4], as(r[4], r[4])}
	})
	earlier := file("file").records(1000)
	bad("changed", "not as it was encrypted", func(_ sealedUpload, r []*kgo.Record) []*kgo.Record {
		return []*kgo.Record{r[0], r[1], flipped(r[2], 500), r[3], r[4]}
	})
	bad("begin changed", "begin record", func(_ sealedUpload, r []*kgo.Record) []*kgo.Record {
		i := bytes.Index(r[0].Value, []byte(`"sealed":"`)) + 50
		r[0] = as(r[0], r[0])
		if r[0].Value[i] == 'A' {
			r[0].Value[i] = 'B'
		} else {
			r[0].Value[i] = 'A'
		}
		return r
	})
	bad("end changed", "end record", func(_ sealedUpload, r []*kgo.Record) []*kgo.Record {
		r[4] = flipped(r[4], 60)
		return r
	})
	bad("a chunk of another", "not as it was encrypted", func(_ sealedUpload, r []*kgo.Record) []*kgo.Record {
		return []*kgo.Record{r[0], as(earlier[1], r[1]), r[2], r[3], r[4]}
	})
	bad("an end for a chunk", "not as it was encrypted", func(_ sealedUpload, r []*kgo.Record) []*kgo.Record {
		return []*kgo.Record{r[0], as(r[4], r[1]), r[2], r[3], r[4]}
	})
	bad("an abort that is an end", "not as it was encrypted", func(u sealedUpload, r []*kgo.Record) []*kgo.Record {
		return []*kgo.Record{r[0], r[1], r[2], r[3], as(r[4], u.abort())}
	})
	bad("a chunk in clear", "in clear, in an encrypted transfer", func(u sealedUpload, r []*kgo.Record) []*kgo.Record {
		return []*kgo.Record{r[0], u.upload.chunk(0, 1000), r[2], r[3], r[4]}
	})
	bad("an abort in clear", "in clear, in an encrypted transfer", func(u sealedUpload, r []*kgo.Record) []*kgo.Record {
		return []*kgo.Record{r[0], u.upload.abort(), r[2], r[3], r[4]}
	})
	bad("no last chunk", "its last chunk ends at 0", func(u sealedUpload, r []*kgo.Record) []*kgo.Record {
		return []*kgo.Record{r[0], r[1], r[2], u.chunk(2000, 2500, false), r[4]}
	})
	bad("two last chunks", "it ends the file at 2000, another one at 2500", func(u sealedUpload, r []*kgo.Record) []*kgo.Record {
		return []*kgo.Record{r[0], r[1], r[3], u.chunk(1000, 2000, true), r[4]}
	})
	// An aborted one is no failure.
	aborted := file("aborted")
	s.send(0, aborted.begin(), aborted.abort())
	good("after it all", func(r []*kgo.Record) []*kgo.Record { return r })

	dir := t.TempDir()
	cfg := s.config(dir)
	cfg.Keys = keyring(t, protocol.NewKey(), key)
	failed := make(map[string]string)
	cfg.Events.Failed = func(id, _ string, why error) { failed[id] += why.Error() }
	sum := receive(t, cfg)
	equalTrees(t, dir, want)
	if sum.Files != len(want) || sum.Failed != len(failures) || sum.Aborted != 1 || sum.Unfinished+sum.Refused != 0 {
		t.Errorf("%+v, want %d files, %d failures", sum, len(want), len(failures))
	}
	for id, why := range failures {
		if !strings.Contains(failed[id], why) {
			t.Errorf("transfer %s failed with %q, want %q", id, failed[id], why)
		}
	}
}

// A transfer that was cut is not placed and not passed, and the rest of it is
// taken up.
func TestEncryptedCut(t *testing.T) { onBoth(t, testEncryptedCut) }

func testEncryptedCut(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "cut", 1)
	key := protocol.NewKey()
	u := newUpload("file", randomBytes(2500)).seal(t, key)
	records := u.records(1000)
	s.send(0, records[:4]...) // all but the end
	dir := t.TempDir()
	cfg := s.config(dir)
	cfg.Keys = keyring(t, key)
	if sum := receive(t, cfg); sum.Unfinished != 1 || sum.Files != 0 {
		t.Errorf("%+v", sum)
	}
	if _, err := os.Stat(filepath.Join(dir, "file")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is there: %v", err)
	}
	// Sent again after a restart of the sender: the same id, other nonces.
	s.send(0, u.records(1000)...)
	if sum := receive(t, cfg); sum.Files != 1 || sum.Partly() {
		t.Errorf("%+v", sum)
	}
	equalTrees(t, dir, map[string]string{"file": string(u.content)})
}

// A missing key loses nothing: the group's offset does not pass the file.
func TestEncryptedWithoutItsKey(t *testing.T) { onBoth(t, testEncryptedWithoutItsKey) }

func testEncryptedWithoutItsKey(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "keys", 1)
	mine, theirs := protocol.NewKey(), protocol.NewKey()
	first := newUpload("first", randomBytes(10))
	locked := newUpload("locked", randomBytes(2500)).seal(t, theirs)
	after := newUpload("after", randomBytes(2500)).seal(t, mine)
	s.send(0, first.records(1000)...)
	s.send(0, locked.records(1000)...)
	s.send(0, after.records(1000)...)

	dir := t.TempDir()
	cfg := s.config(dir)
	cfg.Group = "g"
	cfg.AcceptPlain = true
	_, err := ReceiveFiles(t.Context(), cfg)
	if e, ok := errors.AsType[*protocol.KeyError](err); !ok || e.Key != theirs.ID() || e.Given != 0 {
		t.Fatalf("without a key: %v", err)
	}
	equalTrees(t, dir, map[string]string{"first": string(first.content)})

	cfg.Keys = keyring(t, mine)
	var told []string
	cfg.Events.Failed = func(_, _ string, why error) { told = append(told, why.Error()) }
	sum := receive(t, cfg)
	if sum.Files != 1 || sum.Failed != 1 || len(told) != 1 || !strings.Contains(told[0], string(theirs.ID())) {
		t.Errorf("with another key: %+v, %q", sum, told)
	}
	equalTrees(t, dir, map[string]string{"first": string(first.content), "after": string(after.content)})

	cfg.Keys = keyring(t, mine, theirs)
	if sum := receive(t, cfg); sum.Files != 1 || sum.Partly() {
		t.Errorf("with both: %+v", sum)
	}
	equalTrees(t, dir, map[string]string{"first": string(first.content), "after": string(after.content), "locked": string(locked.content)})
	if sum := receive(t, cfg); sum.Files != 0 || sum.Partly() {
		t.Errorf("once more: %+v", sum)
	}
}

// A file whose key never comes is passed after the time for abandoned files.
func TestEncryptedAbandoned(t *testing.T) {
	s := newSender(t, otherKafka(t), "abandoned", 1)
	locked := newUpload("locked", randomBytes(2500)).seal(t, protocol.NewKey())
	records := locked.records(1000)
	for _, r := range records {
		r.Timestamp = time.Now().Add(-2 * time.Hour)
	}
	s.send(0, records...)
	cfg := s.config(t.TempDir())
	cfg.Keys, cfg.AbandonAfter = keyring(t, protocol.NewKey()), time.Hour
	if sum := receive(t, cfg); sum.Failed != 1 || sum.Files+sum.Unfinished != 0 {
		t.Errorf("%+v", sum)
	}
	if sum := receive(t, cfg); sum.Partly() {
		t.Errorf("the next run found it again: %+v", sum)
	}
}
