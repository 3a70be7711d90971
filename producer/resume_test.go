package producer_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"mft/producer"
	"mft/protocol"
)

// longFile is the chunks of a file that is not sent to its end when it is
// interrupted at once: more than twice what is on the way at a time.
const longFile = 80

// window is how much may be on its way, and so sent again, in bytes.
const window = 32 << 20

// content is that of a file of so many chunks and a byte more, each chunk with
// another beginning.
func content(chunks int) []byte {
	data := bytes.Repeat(pattern(4096), chunks*defaultChunk/4096+1)[:chunks*defaultChunk+1]
	for i := range chunks {
		binary.BigEndian.PutUint64(data[i*defaultChunk:], uint64(i))
	}
	return data
}

// resuming is a file whose sending is interrupted, and sent again.
type resuming struct {
	t       *testing.T
	brokers []string
	file    string
	state   string
	told    []string
	ids     []string // of transfers, in the order of their begins
}

func newResuming(t *testing.T, brokers []string, chunks int) *resuming {
	dir := t.TempDir()
	return &resuming{t: t, brokers: brokers, state: filepath.Join(dir, "state"), file: writeFile(t, filepath.Join(dir, "file"), content(chunks))}
}

func (r *resuming) producer(change func(*producer.Config)) *producer.Producer {
	r.t.Helper()
	return newProducer(r.t, r.brokers, func(c *producer.Config) {
		c.StateDir, c.Compression = r.state, producer.CompressNone
		c.Events.Begin = func(id, _ string, _ int64, _ bool) { r.ids = append(r.ids, id) }
		c.Events.Resumed = func(id, name string, bytes int64) {
			r.told = append(r.told, fmt.Sprintf("resumed %s from %d", name, bytes))
		}
		c.Events.Retried = func(id, name string, why error) {
			r.told = append(r.told, fmt.Sprintf("anew %s: %v", name, why))
		}
		if change != nil {
			change(c)
		}
	})
}

// interrupt sends the file until so many bytes are acknowledged.
func (r *resuming) interrupt(after int64, change func(*producer.Config)) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	defer cancel()
	p := r.producer(func(c *producer.Config) {
		var acked int64
		c.Events.Advance = func(_ string, n int64) {
			if acked += n; acked >= after {
				cancel()
			}
		}
		if change != nil {
			change(c)
		}
	})
	sum, err := p.SendFiles(ctx, []string{r.file}, producer.FileOptions{})
	if !errors.Is(err, context.Canceled) || sum.Files != 0 || sum.Unended != 1 {
		r.t.Fatalf("interrupted: %+v, %v", sum, err)
	}
}

// send sends the file to its end.
func (r *resuming) send(change func(*producer.Config)) {
	r.t.Helper()
	sum, err := r.producer(change).SendFiles(r.t.Context(), []string{r.file}, producer.FileOptions{})
	if err != nil || sum.Files != 1 || sum.Unended != 0 {
		r.t.Fatalf("%+v, %v", sum, err)
	}
	if left, err := os.ReadDir(filepath.Join(r.state, "resume")); err != nil && !errors.Is(err, os.ErrNotExist) || len(left) > 0 {
		r.t.Errorf("checkpoints are left: %v, %v", left, err)
	}
}

// topicTransfer is what a topic holds of one transfer.
type topicTransfer struct {
	begins, ends, aborts int
	data                 []byte
	twice                int64 // bytes that came more than once
}

// transfers reads the topic to its present end.
func (r *resuming) transfers() map[string]*topicTransfer {
	r.t.Helper()
	in := newReader(r.t, r.brokers)
	ends, err := kadm.NewClient(in.client).ListEndOffsets(r.t.Context(), topic)
	if err != nil {
		r.t.Fatal(err)
	}
	left := int64(0)
	ends.Each(func(o kadm.ListedOffset) { left += o.Offset })
	got := make(map[string]*topicTransfer)
	for ; left > 0; left-- {
		rec := in.next()
		f, err := protocol.ParseFileRecord(rec.Key, rec.Value, rec.Headers)
		if err != nil {
			r.t.Fatal(err)
		}
		x := got[string(f.Transfer)]
		if x == nil {
			x = &topicTransfer{}
			got[string(f.Transfer)] = x
		}
		switch f.Kind {
		case protocol.KindBegin:
			x.begins++
		case protocol.KindEnd:
			x.ends++
		case protocol.KindAbort:
			x.aborts++
		case protocol.KindChunk:
			if f.Offset > int64(len(x.data)) {
				r.t.Fatalf("a chunk at %d after %d bytes", f.Offset, len(x.data))
			}
			again := min(int64(len(x.data))-f.Offset, int64(len(f.Data)))
			x.twice += again
			x.data = append(x.data, f.Data[again:]...)
		}
	}
	return got
}

// An interrupted file goes on where it stopped, by the same transfer id, and
// what was acknowledged is not sent again.
func TestResume(t *testing.T) {
	onEachKafka(t, 3, func(t *testing.T, brokers []string) {
		r := newResuming(t, brokers, longFile)
		r.interrupt(5*defaultChunk, nil)
		r.interrupt(defaultChunk, nil)
		r.send(nil)
		if len(r.told) != 2 || !strings.HasPrefix(r.told[0], "resumed file from ") || r.ids[0] != r.ids[1] || r.ids[1] != r.ids[2] {
			t.Errorf("told %q, ids %q", r.told, r.ids)
		}
		got := r.transfers()
		x := got[r.ids[0]]
		// On a slow machine an interrupted run does not wait for all that is on its way.
		if len(got) != 1 || x.begins != 3 || x.ends != 1 || x.aborts != 0 || x.twice > 2*window || string(x.data) != string(content(longFile)) {
			t.Errorf("%d transfers; %d begins, %d ends, %d aborts, %d bytes of %d came, %d twice", len(got), x.begins, x.ends, x.aborts, len(x.data), longFile*defaultChunk+1, x.twice)
		}
		// Once it is sent, the same command sends it again.
		r.send(nil)
		if len(r.transfers()) != 2 {
			t.Error("it was not sent once more")
		}
	})
}

// Over several streams chunks are acknowledged in any order: what is before the
// first gap is not sent again.
func TestResumeStreams(t *testing.T) {
	r := newResuming(t, startBroker(t, 1), longFile)
	several := func(c *producer.Config) { c.Streams = 4 }
	r.interrupt(10*defaultChunk, several)
	r.send(several)
	if len(r.told) != 1 || r.ids[0] != r.ids[1] {
		t.Errorf("told %q, ids %q", r.told, r.ids)
	}
}

// What makes the rest of a file no continuation of what was sent makes it start
// anew, says so, and tells readers to forget the first try.
func TestResumeStartsAnew(t *testing.T) {
	keys := []*protocol.Key{protocol.NewKey(), protocol.NewKey()}
	changed := content(longFile)
	changed[0]++
	for _, test := range []struct {
		name   string
		first  func(*producer.Config)
		then   func(t *testing.T, r *resuming)
		second func(*producer.Config)
		why    string // "": it goes on
		quiet  bool   // nobody is told to forget it
	}{
		{name: "longer", then: func(t *testing.T, r *resuming) { check(t, appendTo(r.file, "x")) }, why: "bytes and now has "},
		{name: "shorter", then: func(t *testing.T, r *resuming) { check(t, os.Truncate(r.file, 5)) }, why: "and now has 5"},
		{name: "touched", then: func(t *testing.T, r *resuming) {
			check(t, os.Chtimes(r.file, time.Time{}, time.Now().Add(time.Hour)))
		}, why: "it was written to"},
		{name: "changed behind its back", then: func(t *testing.T, r *resuming) {
			info, err := os.Stat(r.file)
			check(t, err)
			check(t, os.WriteFile(r.file, changed, 0o644))
			check(t, os.Chtimes(r.file, time.Time{}, info.ModTime()))
		}, why: "its content has changed"},
		{name: "another digest", second: func(c *producer.Config) { c.Digest = protocol.DigestSHA256 }, why: "its digest was to be xxh3-128 and is now sha256"},
		{name: "another partition", second: func(c *producer.Config) { c.Partition = new(int32(1)) }, first: func(c *producer.Config) { c.Partition = new(int32(0)) }, why: "another partition"},
		{name: "the same key", first: func(c *producer.Config) { c.Key = keys[0] }, second: func(c *producer.Config) { c.Key = keys[0] }},
		{name: "another key", first: func(c *producer.Config) { c.Key = keys[0] }, second: func(c *producer.Config) { c.Key = keys[1] }, why: "another key", quiet: true},
		{name: "encrypted now", second: func(c *producer.Config) { c.Key = keys[1] }, why: "or not at all"},
		{name: "other compression of chunks", first: func(c *producer.Config) { c.Key = keys[0] }, second: func(c *producer.Config) {
			c.Key, c.Compression = keys[0], producer.CompressZstd
		}, why: "compressed in another way"},
		{name: "too late", then: func(t *testing.T, r *resuming) {
			list, err := filepath.Glob(filepath.Join(r.state, "resume", "*"))
			check(t, err)
			check(t, os.Chtimes(list[0], time.Time{}, time.Now().Add(-21*time.Hour)))
		}, why: "21h0m0s ago, and receivers may have given it up"},
		{name: "the topic made anew", then: func(t *testing.T, r *resuming) {
			admin(t, r.brokers, func(c *kadm.Client) error {
				if _, err := c.DeleteTopic(t.Context(), topic); err != nil {
					return err
				}
				_, err := c.CreateTopic(t.Context(), 2, 1, nil, topic)
				return err
			})
		}, why: "the topic was deleted and made again", quiet: true},
		{name: "its beginning deleted", then: func(t *testing.T, r *resuming) {
			admin(t, r.brokers, func(c *kadm.Client) error {
				offsets := kadm.Offsets{}
				for p := range int32(2) {
					offsets.Add(kadm.Offset{Topic: topic, Partition: p, At: -1}) // all there is
				}
				_, err := c.DeleteRecords(t.Context(), offsets)
				return err
			})
		}, why: "its beginning is not in the topic any more"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newResuming(t, startBroker(t, 2), longFile)
			r.interrupt(4*defaultChunk, test.first)
			if test.then != nil {
				test.then(t, r)
			}
			r.send(test.second)
			if test.why == "" {
				if len(r.told) != 1 || !strings.HasPrefix(r.told[0], "resumed") || r.ids[0] != r.ids[1] {
					t.Errorf("told %q, ids %q", r.told, r.ids)
				}
				return
			}
			if len(r.told) != 1 || !strings.HasPrefix(r.told[0], "anew file: an earlier run sent a part of it: ") || !strings.Contains(r.told[0], test.why) || r.ids[0] == r.ids[1] {
				t.Fatalf("told %q, ids %q", r.told, r.ids)
			}
			if test.quiet {
				return
			}
			aborts := 0
			in := newReader(t, r.brokers)
			for ended := false; !ended || aborts == 0; {
				rec := in.next()
				kind := string(rec.Headers[0].Value)
				if string(rec.Key) == r.ids[0] && kind == string(protocol.KindAbort) {
					aborts++
				}
				ended = ended || string(rec.Key) == r.ids[1] && kind == string(protocol.KindEnd)
			}
		})
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func admin(t *testing.T, brokers []string, do func(*kadm.Client) error) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.DisableClientMetrics())
	check(t, err)
	defer client.Close()
	check(t, do(kadm.NewClient(client)))
}

// A file encrypted with a passphrase goes on with the key of the first run,
// which is made of the passphrase again.
func TestResumePassphrase(t *testing.T) {
	t.Parallel()
	r := newResuming(t, startBroker(t, 1), longFile)
	made := 0
	passphrase := func(c *producer.Config) {
		var err error
		c.Key, err = protocol.PassphraseKey([]byte("correct horse"), protocol.NewKDF())
		check(t, err)
		c.Rekey = func(k protocol.KDF) (*protocol.Key, error) {
			made++
			return protocol.PassphraseKey([]byte("correct horse"), k)
		}
	}
	r.interrupt(4*defaultChunk, passphrase)
	r.send(passphrase)
	if len(r.told) != 1 || !strings.HasPrefix(r.told[0], "resumed") || made != 1 {
		t.Errorf("told %q, %d keys made", r.told, made)
	}
}

// Without a state, without acks from stable storage, and when told so, nothing
// is written down, and nothing is gone on with.
func TestNoResume(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*producer.Config){
		"no state": func(c *producer.Config) { c.StateDir = "" },
		"acks 1":   func(c *producer.Config) { c.Acks = producer.AcksOne },
		"told so":  func(c *producer.Config) { c.NoResume = true },
	} {
		t.Run(name, func(t *testing.T) {
			r := newResuming(t, startBroker(t, 1), longFile)
			ctx, cancel := context.WithCancel(t.Context())
			p := r.producer(func(c *producer.Config) {
				change(c)
				c.Events.Advance = func(string, int64) { cancel() }
			})
			if sum, err := p.SendFiles(ctx, []string{r.file}, producer.FileOptions{}); err == nil || sum.Unended != 0 {
				t.Fatalf("%+v, %v", sum, err)
			}
			if _, err := os.Stat(r.state); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("state: %v", err)
			}
			r.send(change)
			if len(r.told) > 0 || len(r.ids) != 2 || r.ids[0] == r.ids[1] {
				t.Errorf("told %q, ids %q", r.told, r.ids)
			}
		})
	}
}

// Two runs that send the same file at the same time are two transfers; small
// files leave no trace.
func TestResumeTwiceAtATime(t *testing.T) {
	t.Parallel()
	r := newResuming(t, startBroker(t, 1), 10)
	small := writeFile(t, filepath.Join(t.TempDir(), "small"), pattern(defaultChunk))
	inside, goOn := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	first := newProducer(t, r.brokers, func(c *producer.Config) {
		c.StateDir = r.state
		begun := false
		c.Events.Begin = func(string, string, int64, bool) {
			if !begun {
				begun = true
				close(inside)
				<-goOn
			}
		}
	})
	go func() {
		_, err := first.SendFiles(t.Context(), []string{r.file}, producer.FileOptions{})
		done <- err
	}()
	<-inside
	second := newProducer(t, r.brokers, func(c *producer.Config) { c.StateDir, c.Compression = r.state, producer.CompressNone })
	if sum, err := second.SendFiles(t.Context(), []string{r.file, small}, producer.FileOptions{}); err != nil || sum.Files != 2 {
		t.Errorf("%+v, %v", sum, err)
	}
	left, err := os.ReadDir(filepath.Join(r.state, "resume"))
	if err != nil || len(left) != 1 {
		t.Errorf("checkpoints while it is sent: %v, %v", left, err)
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	var sizes []int
	for _, x := range r.transfers() {
		if x.ends != 1 || x.aborts != 0 {
			t.Errorf("%+v", x)
		}
		sizes = append(sizes, len(x.data))
	}
	slices.Sort(sizes)
	if !slices.Equal(sizes, []int{defaultChunk, 10*defaultChunk + 1, 10*defaultChunk + 1}) {
		t.Errorf("sizes %v", sizes)
	}
}
