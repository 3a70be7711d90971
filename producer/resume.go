package producer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"mft/protocol"
)

const (
	resumeState    = "resume"            // kind of state
	maxCheckpoints = 10_000              // of files that were never sent to their end
	checkpointAge  = 30 * 24 * time.Hour // after which they are removed

	// resumeWithin is how long after it was interrupted a transfer may go on.
	// Receivers give one up a day after its last record.
	resumeWithin = 20 * time.Hour
)

// resumption lets the files of one job go on where an earlier run stopped.
type resumption struct {
	p     *Producer
	dir   string          // of the checkpoints
	there map[string]bool // keys of the checkpoints that were there at the start

	mu   sync.Mutex
	open map[*checkpoint]bool

	ask  sync.Once
	ends map[int32]offsetRange // of the topic's partitions; nil: not to be had
}

// offsetRange is [start, end).
type offsetRange struct{ start, end int64 }

// newResumption returns nil when nothing is to be resumed. Resuming needs acks
// that mean something.
func (p *Producer) newResumption() *resumption {
	if p.cfg.StateDir == "" || p.cfg.NoResume || p.cfg.Acks != "" && p.cfg.Acks != AcksAll {
		return nil
	}
	s := state{p.cfg.StateDir}
	r := &resumption{p: p, open: make(map[*checkpoint]bool)}
	var err error
	if r.there, err = s.pruned(resumeState, checkpointAge, maxCheckpoints, removeUnlocked); err == nil {
		r.dir, err = s.dir(resumeState)
	}
	if err != nil {
		p.log.Warn().Err(err).Msg("an interrupted file will be sent anew from its beginning: see --state")
		return nil
	}
	return r
}

// goesOn tells whether earlier runs have left anything to go on with.
func (r *resumption) goesOn() bool { return r != nil && len(r.there) > 0 }

// key names the checkpoint of a file: whatever its path holds, this is safe.
func (r *resumption) key(path, name string) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{path, name, r.p.cfg.Topic, r.p.topic.cluster}, "\x00")))
	return hex.EncodeToString(sum[:16])
}

// resumed is a file with its checkpoint.
type resumed struct {
	*checkpoint
	goesOn bool      // an earlier run has begun it
	from   int64     // bytes that need not be sent
	digest hash.Hash // of those bytes
	key    *protocol.Key
}

// claim takes the checkpoint of a file that is about to be sent: m is its
// manifest, file is read up to where it is to go on. It returns nil when there
// is none: the file is small, or another process sends it.
func (j *fileJob) claim(f source, m protocol.Manifest, file *os.File) (*resumed, error) {
	r := j.run.resume
	if r == nil {
		return nil, nil
	}
	small := m.Size <= int64(j.chunk)
	if small && len(r.there) == 0 {
		return nil, nil
	}
	path, err := filepath.Abs(f.path)
	if err != nil {
		return nil, fmt.Errorf("absolute path: %w", err)
	}
	key := r.key(path, m.Name)
	if small && !r.there[key] {
		return nil, nil
	}
	checkpointFile, err := openCheckpoint(filepath.Join(r.dir, key))
	if err != nil {
		r.p.log.Warn().Str("file", path).Err(err).Msg("how far it is sent cannot be written down: see --state")
		return nil, nil
	}
	if checkpointFile == nil {
		r.p.log.Debug().Str("file", path).Msg("another process sends it, too: this one does not write down how far it is")
		return nil, nil
	}
	c := &resumed{checkpoint: &checkpoint{log: r.p.log, file: checkpointFile}}
	r.mu.Lock()
	r.open[c.checkpoint] = true
	r.mu.Unlock()

	anew, err := j.goOn(c, m, file)
	if err != nil {
		return nil, err
	}
	if anew != "" {
		j.startAnew(c.head, anew)
	}
	if small && !c.goesOn {
		r.drop(c)
		return nil, nil
	}
	if !c.goesOn {
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		c.head = checkpointHead{Path: path, Topic: r.p.cfg.Topic, TopicID: r.p.topic.id, Transfer: protocol.NewTransferID(), Partition: r.p.anyPartition()}
		c.head.setManifest(m)
		if c.key = r.p.cfg.Key; c.key != nil {
			c.head.Key, c.head.KDF = c.key.ID(), c.key.KDF()
		}
		if err := c.begin(); err != nil {
			c.check(err)
		}
	}
	return c, nil
}

// goOn finds out how far an earlier run was. anew says why that is of no use,
// if there was one.
func (j *fileJob) goOn(c *resumed, m protocol.Manifest, file *os.File) (anew string, err error) {
	text, err := readCheckpoint(c.file)
	if err != nil || len(text) == 0 {
		if err != nil {
			c.log.Warn().Str("checkpoint", c.file.Name()).Err(err).Msg("how far an earlier run was cannot be read: sending from the beginning")
		}
		return "", nil
	}
	if err := c.parse(text); err != nil {
		c.log.Warn().Str("checkpoint", c.file.Name()).Err(err).Msg("how far an earlier run was cannot be read: sending from the beginning")
		return "", nil
	}
	info, err := c.file.Stat()
	if err != nil {
		return "", err
	}
	if anew := j.differs(c, m, time.Since(info.ModTime())); anew != "" {
		return anew, nil
	}
	if anew := j.run.resume.lost(j.run.ctx, c.head.Partition, c.now); anew != "" {
		return anew, nil
	}
	digest, err := protocol.NewDigest(c.head.Digest)
	if err != nil {
		return "", err
	}
	if anew, err := j.readPrefix(file, digest, c.now); anew != "" || err != nil {
		return anew, err
	}
	c.goesOn, c.from, c.digest = true, c.now.Acked, digest
	return "", nil
}

// readPrefix puts what was sent already into the digest. anew says that it is
// not what was sent.
func (j *fileJob) readPrefix(file *os.File, digest hash.Hash, at position) (anew string, err error) {
	b := j.run.p.buffers.get(maxChunk)
	defer j.run.p.buffers.put(b)
	for left := at.Acked; left > 0; {
		if j.run.ctx.Err() != nil {
			return "", errInterrupted
		}
		n, err := io.ReadFull(file, b.data[:min(left, int64(len(b.data)))])
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return "it has become shorter", nil
		}
		if err != nil {
			return "", err
		}
		if _, err := digest.Write(b.data[:n]); err != nil {
			return "", err
		}
		left -= int64(n)
	}
	if at.Acked > 0 && hex.EncodeToString(digest.Sum(nil)) != at.Sum {
		return "its content has changed", nil
	}
	return "", nil
}

// differs says what keeps the file from going on as the transfer that c.head
// describes, "" for nothing. It finds the key of that.
func (j *fileJob) differs(c *resumed, m protocol.Manifest, age time.Duration) string {
	p, h := j.run.p, &c.head
	var now checkpointHead
	now.setManifest(m)
	switch pinned := p.cfg.Partition; {
	case !bytes.Equal(h.TopicID, p.topic.id):
		return "the topic was deleted and made again"
	case h.Size != now.Size:
		return fmt.Sprintf("it had %d bytes and now has %d", h.Size, now.Size)
	case h.ModTimeSec != now.ModTimeSec || h.ModTimeNano != now.ModTimeNano:
		return "it was written to"
	case h.Mode != now.Mode:
		return fmt.Sprintf("its mode was %s and is now %s", h.Mode, now.Mode)
	case h.Digest != now.Digest:
		return fmt.Sprintf("its digest was to be %s and is now %s", h.Digest, now.Digest)
	case h.Partition >= p.topic.partitions || pinned != nil && *pinned != h.Partition:
		return "it is to go to another partition"
	case age > resumeWithin:
		return fmt.Sprintf("that was %s ago, and receivers may have given it up", age.Round(time.Hour))
	}
	var err error
	switch c.key, err = p.keyOf(h); {
	case err != nil:
		return fmt.Sprintf("its key cannot be made again: %v", err)
	case (c.key == nil) != (p.cfg.Key == nil) || c.key == nil && h.Key != "":
		return "it was encrypted with another key, or not at all"
	case h.Chunk != now.Chunk:
		return fmt.Sprintf("chunks had %d bytes and now have %d: what the topic takes has changed", h.Chunk, now.Chunk)
	case h.Compression != now.Compression:
		return "it is to be compressed in another way"
	}
	return ""
}

// keyOf is the key of a transfer of an earlier run: nil when it has none, or
// when it is not here.
func (p *Producer) keyOf(h *checkpointHead) (*protocol.Key, error) {
	switch key := p.cfg.Key; {
	case h.Key == "" || key == nil:
		return nil, nil
	case key.ID() == h.Key:
		return key, nil
	case h.KDF == nil || p.cfg.Rekey == nil:
		return nil, nil
	}
	key, err := p.cfg.Rekey(*h.KDF)
	if err != nil || key.ID() != h.Key {
		return nil, err
	}
	return key, nil
}

// lost says why the records that a checkpoint speaks of are not in the topic
// any more, "" when they are.
func (r *resumption) lost(ctx context.Context, partition int32, at position) string {
	r.ask.Do(func() {
		ctx, cancel := context.WithTimeout(ctx, configTimeout)
		defer cancel()
		admin := kadm.NewClient(r.p.client)
		starts, err := admin.ListStartOffsets(ctx, r.p.cfg.Topic)
		if err == nil {
			err = starts.Error()
		}
		var ends kadm.ListedOffsets
		if err == nil {
			ends, err = admin.ListEndOffsets(ctx, r.p.cfg.Topic)
		}
		if err == nil {
			err = ends.Error()
		}
		if err != nil {
			r.p.log.Debug().Err(err).Msg("where the topic begins and ends is not to be had")
			return
		}
		r.ends = make(map[int32]offsetRange)
		ends.Each(func(o kadm.ListedOffset) {
			start, _ := starts.Lookup(o.Topic, o.Partition)
			r.ends[o.Partition] = offsetRange{start.Offset, o.Offset}
		})
	})
	have, ok := r.ends[partition]
	switch {
	case !ok:
		return ""
	case at.Begin >= 0 && at.Begin < have.start:
		return "its beginning is not in the topic any more"
	case at.Last >= have.end:
		return "the broker has lost what it had acknowledged of it"
	}
	return ""
}

// startAnew tells that what was sent of a file is of no use, and receivers to
// forget it, where that can be said.
func (j *fileJob) startAnew(h checkpointHead, why string) {
	p := j.run.p
	j.run.tell(func(_ *Summary, events *Events) {
		if events.Retried != nil {
			events.Retried(string(h.Transfer), h.Name, fmt.Errorf("an earlier run sent a part of it: %s", why))
		}
	})
	t := &transfer{run: j.run, id: h.Transfer, name: h.Name, partition: h.Partition}
	if !bytes.Equal(h.TopicID, p.topic.id) || h.Partition >= p.topic.partitions {
		return // nobody has it
	}
	if h.Key != "" {
		key, err := p.keyOf(&h)
		if err == nil && key != nil {
			t.sealer, err = key.NewSealer(t.id, true)
		}
		if err != nil {
			p.log.Warn().Str("file", h.Name).Err(err).Msg("receivers cannot be told to forget what was sent of it, they will in time")
		}
		if t.sealer == nil {
			return // only who has its key can say so
		}
	}
	t.abort(errors.New(why))
}

// drop removes the checkpoint of a file, if it has one: there is nothing to go
// on with.
func (r *resumption) drop(c *resumed) {
	if c == nil {
		return
	}
	r.mu.Lock()
	delete(r.open, c.checkpoint)
	r.mu.Unlock()
	if err := c.remove(); err != nil {
		r.p.log.Warn().Str("file", c.head.Path).Err(err).Msg("removing the note of how far it was sent")
	}
}

// close leaves the checkpoints of what was not sent to its end to a later run,
// and returns how many files that are.
func (r *resumption) close() int {
	if r == nil {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.open {
		if err := c.close(); err != nil {
			r.p.log.Warn().Str("file", c.head.Path).Err(err).Msg("writing down how far it was sent")
		}
	}
	return len(r.open)
}
