package producer

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mft/internal/sparse"
	"mft/protocol"
)

// What a record takes of a batch besides its value, in bytes and rounded up:
// the batch's own header, lengths and deltas, a transfer id for a key, and the
// headers of a chunk, with some room for more of them.
const (
	recordOverhead = 256
	headerOverhead = 10 // lengths of a header's key and value
	pageBytes      = 4096
	maxChunk       = 1 << maxBufferBits
	maxBatchWanted = maxChunk + pageBytes // larger batches gain nothing
	minBatch       = 1024
)

// chunkSize is the size of the chunks of a file, in bytes: as much as fits a
// batch of maxBatch bytes, in whole pages where there is room for one. extra is
// what encryption adds to it.
func chunkSize(maxBatch int32, extra int) int {
	room := min(int(maxBatch)-recordOverhead, maxChunk) - extra
	if room >= pageBytes {
		room -= room % pageBytes
	}
	return room
}

var errInterrupted = errors.New("interrupted")

// changedError tells that a file changed while it was read.
type changedError struct{ what string }

func (e *changedError) Error() string { return "it changed while it was read: " + e.what }

// transfer is one sending of one file or directory: begin, chunks, end, or
// abort instead of an end, all in one partition and in this order.
//
// The order is that of the one stream which carries it, its home. A file of
// several chunks is spread over several streams, where there are: its begin is
// acknowledged before a chunk goes elsewhere, and all its chunks are before its
// end goes, so that a reader never finds the end of a file whose chunks are
// still to come over a slow way.
type transfer struct {
	run       *run
	id        protocol.TransferID
	name      string
	partition int32
	sealer    *protocol.Sealer    // nil: it is not encrypted
	key       *protocol.Key       // of sealer
	acked     atomic.Int64        // bytes of chunks
	whenAcked func(digest string) // called when the whole is acknowledged; nil: nobody cares
	live      bool                // the file grows, and its bytes count as they are acknowledged

	whenConfirmed func(error) // called when a receiver has told what became of it; nil: nobody cares

	choice *choice // of auto; nil: there is none

	home  int            // the stream of begin and end
	begun chan struct{}  // closed when the begin is acknowledged; nil: everything stays at home
	away  sync.WaitGroup // chunks on the way, when begun is not nil

	resumed *resumed // nil: how far it is sent is not written down
}

// begin opens a transfer, or goes on with one of an earlier run (c, which may be
// nil), and sends its begin record.
func (j *fileJob) begin(m protocol.Manifest, c *resumed) (*transfer, error) {
	t := &transfer{run: j.run, id: protocol.NewTransferID(), name: m.Name, home: j.run.p.streams.home(), partition: j.run.p.anyPartition(), resumed: c}
	if j.run.p.streams.several() && m.Size > int64(j.chunk) && j.run.p.cfg.Acks != AcksNone {
		t.begun = make(chan struct{})
	}
	key := j.run.p.cfg.Key
	if c != nil {
		t.id, t.partition, key = c.head.Transfer, c.head.Partition, c.key
		t.acked.Store(c.from)
	}
	t.key = key
	if key != nil {
		var err error
		if t.sealer, err = key.NewSealer(t.id, true); err != nil {
			return nil, err
		}
	}
	rec := t.record(protocol.FileRecord{Kind: protocol.KindBegin, Manifest: &m})
	if limit := int(j.run.p.topic.maxBatch) - recordOverhead; len(rec.Value) > limit {
		return nil, fmt.Errorf("its name and particulars take %d bytes and the topic takes records of %d (max.message.bytes)", len(rec.Value), limit)
	}
	t.run.tell(func(_ *Summary, events *Events) {
		if events.Begin != nil {
			events.Begin(string(t.id), t.name, m.Size, m.Type == protocol.TypeDir)
		}
		if c != nil && c.from > 0 && events.Resumed != nil {
			events.Resumed(string(t.id), t.name, c.from)
		}
	})
	t.run.produce(t.home, rec, func(rec *kgo.Record, err error) {
		t.run.settled(err)
		if err != nil {
			return
		}
		if c != nil {
			c.begun(rec.Offset)
		}
		if t.begun != nil {
			close(t.begun)
		}
	})
	return t, nil
}

// anyPartition is where a file may go.
func (p *Producer) anyPartition() int32 {
	if p.cfg.Partition != nil {
		return *p.cfg.Partition
	}
	return rand.Int32N(p.topic.partitions)
}

// record is what is sent of r, which is encrypted unless it is already.
func (t *transfer) record(r protocol.FileRecord) *kgo.Record {
	r.Transfer = t.id
	if t.sealer != nil && !r.IsSealed() {
		r = t.sealer.Seal(r)
	}
	key, value, headers := r.Encode()
	rec := &kgo.Record{Key: key, Value: value, Partition: t.partition, Headers: make([]kgo.RecordHeader, len(headers))}
	for i, h := range headers {
		rec.Headers[i] = kgo.RecordHeader{Key: h.Key, Value: h.Value}
	}
	return rec
}

// sendChunk sends the bytes at offset, the last ones or not, and gives the
// buffer back when they are acknowledged. chunk is the size of a full one.
func (t *transfer) sendChunk(offset int64, b *buffer, last bool, chunk int) {
	n := int64(len(b.data))
	r := protocol.FileRecord{Kind: protocol.KindChunk, Offset: offset, Data: b.data}
	if t.sealer != nil {
		r, b = t.sealChunk(protocol.Chunk{Offset: offset, Last: last}, b, chunk)
	}
	t.produceChunk(t.record(r), offset, func(rec *kgo.Record, err error) {
		t.run.p.buffers.put(b)
		t.run.settled(err)
		if err != nil {
			return
		}
		if t.resumed != nil {
			t.resumed.acked(offset, offset+n, rec.Offset)
		}
		t.acked.Add(n)
		t.run.tell(func(sum *Summary, events *Events) {
			if t.live {
				sum.Bytes += n
			}
			if events.Advance != nil {
				events.Advance(string(t.id), n)
			}
		})
	})
}

// produceChunk sends a chunk over the home stream or, of a file that is spread,
// over whichever is free.
func (t *transfer) produceChunk(rec *kgo.Record, offset int64, promise func(*kgo.Record, error)) {
	stream := t.home
	if t.begun == nil {
		t.run.produce(stream, rec, promise)
		return
	}
	if offset > 0 { // the first follows the begin without waiting for it
		select {
		case <-t.begun:
			stream = t.run.p.streams.free(t.run.ctx, int64(len(rec.Key)+len(rec.Value)))
		case <-t.run.ctx.Done(): // it is for nothing, and nowhere does it do harm
		}
	}
	t.away.Add(1)
	t.run.produce(stream, rec, func(rec *kgo.Record, err error) {
		defer t.away.Done()
		promise(rec, err)
	})
}

// sendEnd sends the end record; when it is acknowledged the file is sent: the
// records of a partition are acknowledged in order, and one that is refused
// ends the run.
func (t *transfer) sendEnd(end protocol.End, dir bool) {
	a := &awaited{name: t.name, size: -1, key: t.key, then: t.whenConfirmed}
	if !dir && end.Digest != "" { // a link has none
		a.size, a.kind, a.digest = end.Size, cmp.Or(t.run.p.cfg.Digest, protocol.DigestXXH3), end.Digest
	}
	t.run.confirm.expect(t.id, a)
	t.away.Wait() // a record is acknowledged or given up in time, whatever happens
	rec := t.record(protocol.FileRecord{Kind: protocol.KindEnd, End: &end})
	t.run.produce(t.home, rec, func(_ *kgo.Record, err error) {
		t.run.p.choices.forget(t.id)
		t.run.settled(err)
		if err != nil || t.acked.Load() != end.Size {
			return
		}
		t.run.resume.drop(t.resumed)
		t.run.tell(func(sum *Summary, events *Events) {
			if dir {
				sum.Dirs++
			} else if !t.live {
				sum.Files++
				sum.Bytes += end.Size
			}
			if events.Done != nil {
				events.Done(string(t.id), end.Digest)
			}
		})
		if t.whenAcked != nil {
			t.whenAcked(end.Digest)
		}
	})
}

// abort tells consumers to forget the transfer. Should that get lost, they
// forget it in time on their own.
func (t *transfer) abort(why error) {
	rec := t.record(protocol.FileRecord{Kind: protocol.KindAbort, Abort: &protocol.Abort{Reason: why.Error()}})
	t.run.produce(t.home, rec, func(_ *kgo.Record, err error) {
		t.run.p.choices.forget(t.id)
		t.run.settled(err)
	})
}

// sendFile sends one file. What goes wrong with the file is noted in the run.
func (j *fileJob) sendFile(f source) {
	var id string
	sent := false
	why := func() (err error) {
		file, err := openFile(f.path)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		before, err := file.Stat()
		if err != nil {
			return err
		}
		if reason := irregular(before.Mode()); reason != "" || before.IsDir() {
			return errors.New("it is no file any more")
		}
		if f.taken != nil && stampOf(before) != f.taken.look {
			return &changedError{"it was written to"}
		}
		m := j.manifest(f, before)
		if err := j.describe(&m, file, before); err != nil {
			return err
		}
		c, err := j.claim(f, m, file)
		if err != nil {
			return err
		}
		t, err := j.begin(m, c)
		if err != nil {
			j.run.resume.drop(c)
			return err
		}
		id = string(t.id)
		t.whenAcked = func(digest string) { j.sent(f, t, digest) }
		digest, err := j.sendContent(t, file, before)
		if err != nil && c != nil && j.run.ctx.Err() != nil {
			return err // a later run goes on with it
		}
		if err != nil {
			t.abort(err)
			j.run.resume.drop(c)
			return err
		}
		sent = true
		end := protocol.End{Size: before.Size(), Digest: hex.EncodeToString(digest.Sum(nil))}
		if f.taken != nil && j.run.confirm != nil { // it counts as sent once it is confirmed
			t.whenConfirmed = func(why error) {
				if why != nil {
					f.taken.failed(id, why)
				} else {
					f.taken.acked(end.Digest)
				}
			}
		}
		t.sendEnd(end, false)
		return nil
	}()
	switch {
	case sent && why != nil: // closing it failed, which does not change what was read
		j.run.p.log.Warn().Err(why).Str("file", f.path).Msg("close after reading")
	case why != nil:
		j.notSent(f, id, why)
	}
}

// sent is told when all of a file is acknowledged.
func (j *fileJob) sent(f source, t *transfer, digest string) {
	j.run.forget(f)
	if f.taken != nil && t.whenConfirmed == nil {
		f.taken.acked(digest)
	}
}

// notSent decides what becomes of a file that was not sent; id is "" when it
// was not begun.
func (j *fileJob) notSent(f source, id string, why error) {
	switch {
	case j.run.ctx.Err() != nil: // of an interrupted run only its summary tells
	case f.taken != nil:
		f.taken.failed(id, why)
	case worthRetrying(why) && j.retry(f):
		j.run.tell(func(_ *Summary, events *Events) {
			if events.Retried != nil && id != "" {
				events.Retried(id, f.name, why)
			}
		})
		if id == "" {
			j.run.p.log.Warn().Err(why).Str("file", f.path).Msg("the file cannot be read, trying again")
		}
	default:
		j.run.gaveUp(id, f, f.tries+1, why)
	}
}

func (j *fileJob) manifest(f source, info fs.FileInfo) protocol.Manifest {
	m := protocol.Manifest{
		Name: f.name, Type: protocol.TypeFile, Size: info.Size(), Mode: protocol.ModeOf(info.Mode()),
		ModTime: info.ModTime(), Chunk: int64(j.chunk), Digest: j.run.p.cfg.Digest, Compression: j.run.p.sealing.compression(),
	}
	if f.dir {
		m.Type, m.Size, m.Chunk, m.Digest, m.Compression = protocol.TypeDir, 0, 0, "", ""
		return m
	}
	if m.Digest == "" {
		m.Digest = protocol.DigestXXH3
	}
	if sparse.Has(info) {
		m.Chunk = 0 // they end where holes begin
	}
	return m
}

// sendContent sends the chunks of a file and returns its digest. The file has
// to be at the end as it was before.
func (j *fileJob) sendContent(t *transfer, file *os.File, before fs.FileInfo) (hash.Hash, error) {
	digest, err := protocol.NewDigest(j.run.p.cfg.Digest)
	if err != nil {
		return nil, err
	}
	if before.Size() > int64(j.chunk) {
		t.choice = j.run.p.choices.open(t.id)
	}
	size, offset, synced := before.Size(), int64(0), time.Now()
	if t.resumed != nil && t.resumed.goesOn {
		digest, offset = t.resumed.digest, t.resumed.from
	}
	holes := holes{file: file, size: size, sparse: sparse.Has(before)}
	for offset < size {
		if j.run.ctx.Err() != nil {
			return nil, errInterrupted
		}
		hole, data, err := holes.next(offset, int64(j.chunk))
		if err != nil {
			return nil, err
		}
		if hole > 0 {
			if err := sparse.Zeros(digest, hole); err != nil {
				return nil, err
			}
			if t.resumed != nil {
				t.resumed.sending(offset+hole, digest.Sum(nil))
			}
			t.sendHole(offset, hole, offset+hole == size)
			offset += hole
			continue
		}
		b := j.run.p.buffers.get(int(data))
		n, err := io.ReadFull(io.NewSectionReader(file, offset, data), b.data)
		if err != nil {
			j.run.p.buffers.put(b)
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil, &changedError{fmt.Sprintf("it had %d bytes and now ends at %d", size, offset+int64(n))}
			}
			return nil, err
		}
		if _, err := digest.Write(b.data); err != nil {
			return nil, err
		}
		if offset == 0 {
			t.choice.begins(b.data)
		}
		if t.resumed != nil {
			t.resumed.sync(&synced)
			t.resumed.sending(offset+int64(n), digest.Sum(nil))
		}
		t.sendChunk(offset, b, offset+int64(n) == size, j.chunk)
		offset += int64(n)
	}
	after, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if after.Size() != size {
		return nil, &changedError{fmt.Sprintf("it had %d bytes and now has %d", size, after.Size())}
	}
	if !after.ModTime().Equal(before.ModTime()) {
		return nil, &changedError{"it was written to"}
	}
	return digest, nil
}

// sendDir sends a directory itself: its name, mode and modification time.
func (j *fileJob) sendDir(d source) {
	info, err := lstat(d.path)
	if err == nil && !info.IsDir() {
		err = errors.New("it is no directory any more")
	}
	var t *transfer
	if err == nil {
		m := j.manifest(d, info)
		if err = j.describeDir(&m, d.path, info); err == nil {
			t, err = j.begin(m, nil)
		}
	}
	if err != nil {
		j.run.failed("", d.name, err)
		return
	}
	t.sendEnd(protocol.End{}, true)
}
