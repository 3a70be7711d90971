package producer

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"

	"github.com/twmb/franz-go/pkg/kgo"

	"mft/protocol"
)

const (
	headLimit = 1024    // of a generation's beginning that are compared at every look
	tailLimit = 256     // and of what was sent last
	hashBlock = 1 << 20 // bytes read at once to compare all
)

// generation is a growing file from its beginning to its end, and the live
// transfer that sends it.
//
// Invariant: [0, sent) of the file was handed to the client under this
// transfer's id, and digest is over [0, hashed), hashed >= sent.
type generation struct {
	*transfer
	sent   int64 // bytes; the acknowledged ones are transfer.acked
	hashed int64 // bytes; beyond sent after a restart, which sends the last part again
	digest hash.Hash
	head   []byte // first bytes of the file, up to headLimit
	tail   []byte // the last bytes before sent, up to tailLimit
}

// open begins a live transfer, or takes one up: id is that of a former one, or
// "". What the transfer sends begins at from.
func (m *mirror) openTransfer(man protocol.Manifest, id protocol.TransferID, partition int32, from int64) (*transfer, error) {
	t := &transfer{run: m.job.run, id: id, name: man.Name, partition: partition, home: m.home, live: true}
	if t.id == "" {
		t.id = protocol.NewTransferID()
	}
	t.acked.Store(from)
	if s := t.run.p.sealing; s != nil {
		var err error
		if t.sealer, err = s.key.NewSealer(t.id, true); err != nil {
			return nil, err
		}
	}
	man.From = from
	rec := t.record(protocol.FileRecord{Kind: protocol.KindBegin, Manifest: &man})
	if limit := int(t.run.p.topic.maxBatch) - recordOverhead; len(rec.Value) > limit {
		return nil, fmt.Errorf("its name and particulars take %d bytes and the topic takes records of %d (max.message.bytes)", len(rec.Value), limit)
	}
	t.run.tell(func(_ *Summary, events *Events) {
		if events.Begin != nil {
			events.Begin(string(t.id), t.name, protocol.SizeUnknown, false)
		}
	})
	t.run.produce(t.home, rec, func(_ *kgo.Record, err error) { t.run.settled(err) })
	return t, nil
}

// manifest describes a live file.
func (j *mirrorJob) manifest(name string, info fs.FileInfo, previous string) protocol.Manifest {
	digest := j.run.p.cfg.Digest
	if digest == "" {
		digest = protocol.DigestXXH3
	}
	return protocol.Manifest{
		Name: name, Type: protocol.TypeFile, Size: protocol.SizeUnknown, Mode: protocol.ModeOf(info.Mode()), ModTime: info.ModTime(),
		Digest: digest, Compression: j.run.p.sealing.compression(), Live: true, Previous: previous,
	}
}

// take enters the bytes that follow those that were sent, before they are.
func (g *generation) take(data []byte) error {
	end := g.sent + int64(len(data))
	if fresh := end - g.hashed; fresh > 0 {
		if _, err := g.digest.Write(data[int64(len(data))-fresh:]); err != nil {
			return err
		}
		g.hashed = end
	}
	return nil
}

// sendTaken sends the bytes in b, which were taken.
func (g *generation) sendTaken(b *buffer, chunk int) {
	data := b.data
	if want := headLimit - len(g.head); want > 0 && int64(len(g.head)) == g.sent {
		g.head = append(g.head, data[:min(len(data), want)]...)
	}
	g.tail = append(g.tail, data[max(0, len(data)-tailLimit):]...)
	g.tail = append(g.tail[:0], g.tail[max(0, len(g.tail)-tailLimit):]...)
	offset := g.sent
	g.sent += int64(len(data))
	g.sendChunk(offset, b, false, chunk)
}

// sum is the digest of [0, hashed), in hex.
func (g *generation) sum() string { return hex.EncodeToString(g.digest.Sum(nil)) }

// finish ends the transfer: the file ends where it was sent to.
func (g *generation) finish(info fs.FileInfo, chunk int) {
	if g.hashed != g.sent {
		g.abort(errors.New("it was cut before all was sent again that a former run had sent"))
		return
	}
	if g.sealer != nil { // which chunk is the last one was not known when it was sent
		g.sendChunk(g.sent, g.run.p.buffers.get(0), true, chunk)
	}
	end := protocol.End{Size: g.sent, Digest: g.sum()}
	if info != nil {
		end.ModTime = info.ModTime()
	}
	g.sendEnd(end, false)
}

// differs looks whether the file is certainly not the one any more of which
// sent bytes were sent: it is shorter, or its beginning or the last bytes
// before sent are others.
func (g *generation) differs(file *os.File, size int64) (bool, error) {
	if size < g.hashed {
		return true, nil
	}
	buf := make([]byte, max(len(g.head), len(g.tail)))
	for at, want := range map[int64][]byte{0: g.head, g.sent - int64(len(g.tail)): g.tail} {
		n, err := file.ReadAt(buf[:len(want)], at)
		if err != nil && err != io.EOF {
			return false, err
		}
		if !bytes.Equal(buf[:n], want) {
			return true, nil
		}
	}
	return false, nil
}

// sameStart tells whether the file begins with all that was sent.
func (g *generation) sameStart(file *os.File, size int64) (bool, error) {
	if differs, err := g.differs(file, size); differs || err != nil {
		return false, err
	}
	digest, err := protocol.NewDigest(g.run.p.cfg.Digest)
	if err != nil {
		return false, err
	}
	n, err := hashFile(digest, file, g.hashed)
	return n == g.hashed && bytes.Equal(digest.Sum(nil), g.digest.Sum(nil)), err
}

// hashFile adds the first n bytes of a file to a digest, or as many as there are.
func hashFile(digest hash.Hash, file *os.File, n int64) (int64, error) {
	return io.CopyBuffer(digest, struct{ io.Reader }{io.NewSectionReader(file, 0, n)}, make([]byte, hashBlock))
}

// noteEnds fills head and tail from a file that begins with all that was sent.
func (g *generation) noteEnds(file *os.File) error {
	g.head = make([]byte, min(g.sent, headLimit))
	g.tail = make([]byte, min(g.sent, tailLimit))
	if _, err := file.ReadAt(g.head, 0); err != nil {
		return err
	}
	_, err := file.ReadAt(g.tail, g.sent-int64(len(g.tail)))
	return err
}
