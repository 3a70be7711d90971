package consumer

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"runtime"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mft/internal/sparse"
	"mft/protocol"
)

// heldBytes is how large a file may be to be kept in memory instead of in a
// temporary file, if it comes as one chunk and its end follows closely. Small
// files are then written by the placer, several at a time.
const heldBytes = 1 << 20

// transfer is one file, or directory, on its way into the target. It belongs
// to the goroutine of its partition until it is submitted to the placer.
type transfer struct {
	id        protocol.TransferID
	part      *partition
	beginsAt  int64   // offset of its begin record
	again     []int64 // offsets of more begin records: its sender was stopped and went on
	begin     keptRecord
	name      string // of the file, relative to the target
	wanted    string // that name, if this system took every name
	sentName  string // as it was sent; wanted differs where there is a route
	dir       bool
	link      string // where a link leads; "" for what is none
	size      int64  // bytes, -1 until known
	attrs     attributes
	algorithm string // of the digest

	have     extents
	sparse   bool      // it has holes
	digest   hash.Hash // over [0, hashed); nil once a chunk came out of order
	hashed   int64
	held     []byte   // the content, of a small file; file is nil then
	file     *os.File // open temporary file; nil when held, empty, or closed for a while
	temp     string   // name of the temporary file in the work directory; "" when there is none
	unsynced bool     // prepare leaves it to the placer to make the file durable
	end      *protocol.End
	sum      string // the digest of what is in the temporary file, once that is checked

	locked bool             // it is encrypted, and its key is not here
	opener *protocol.Opener // nil: it is not encrypted
	last   int64            // where the chunk that says it is the last one ends; 0: it has not come

	restored   bool      // its temporary file is of an earlier session or run
	recordTime time.Time // of the last record
	seen       time.Time // when that arrived here
}

// newTransfer checks what a begin record says; opener is nil when it came in
// clear. The error says why it is not to be received.
func newTransfer(part *partition, id protocol.TransferID, m *protocol.Manifest, opener *protocol.Opener, begin *kgo.Record) (*transfer, error) {
	t := &transfer{id: id, part: part, beginsAt: begin.Offset, name: m.Name, wanted: m.Name, sentName: m.Name, size: m.Size, algorithm: m.Digest, opener: opener}
	if err := protocol.CheckName(m.Name); err != nil {
		return t, refused(m.Name, err)
	}
	if route := part.route; route != nil {
		if m.Type == protocol.TypeDir && !route.dirs {
			return t, errNoPlace
		}
		name, err := route.name(m, part.topic, id, begin.Timestamp)
		if err != nil {
			return t, refused(m.Name, err)
		}
		t.name, t.wanted = name, name
	}
	t.name = protocol.LocalName(t.wanted, runtime.GOOS)
	if err := checkReserved(t.name); err != nil {
		return t, refused(m.Name, err)
	}
	if m.Encryption != "" && m.Encryption != "none" {
		return t, t.errorf("it is encrypted (%s), which this version cannot decrypt: use a newer mft-consume", m.Encryption)
	}
	if m.Compression != "" && m.Compression != "none" && opener == nil { // the opener undoes it
		return t, t.errorf("its chunks are compressed (%s), which this version cannot undo: use a newer mft-consume", m.Compression)
	}
	switch m.Type {
	case protocol.TypeDir:
		t.dir, t.size = true, 0
	case protocol.TypeSymlink:
		t.link, t.size = m.Target, 0
		if !part.target.keep.UnsafeLinks {
			if err := checkLink(t.name, t.link); err != nil {
				return t, refused(m.Name, err)
			}
		}
	}
	t.attrs = part.target.keep.attributes(m)
	var err error
	if t.digest, err = protocol.NewDigest(m.Digest); err != nil {
		return t, t.errorf("%v", err)
	}
	return t, nil
}

func (t *transfer) errorf(format string, args ...any) error {
	return &TransferError{Name: t.name, ID: string(t.id), Reason: fmt.Sprintf(format, args...)}
}

// chunk takes data for [offset, offset+len(data)) and returns how many of the
// bytes are new. The error is a *TransferError, or one of the file system;
// after the latter the same chunk can be given again.
func (t *transfer) chunk(offset int64, data []byte) (fresh int64, err error) {
	end := offset + int64(len(data))
	if new, err := t.fits(offset, end); !new {
		return 0, err
	}
	if t.held == nil && t.file == nil && t.temp == "" && offset == 0 && end == t.size && end <= heldBytes {
		t.held = data
	} else {
		if err := t.write(offset, data); err != nil {
			return 0, err
		}
	}
	fresh, err = t.have.add(offset, end)
	if err != nil {
		return 0, t.errorf("%v", err)
	}
	switch {
	case t.digest == nil:
	case offset == t.hashed && fresh == int64(len(data)):
		if t.held == nil { // what is held is hashed by the placer, on another core
			t.digest.Write(data)
			t.hashed = end
		}
	default: // the placer reads the file once more
		t.digest = nil
	}
	return fresh, nil
}

// take takes a chunk, or a hole.
func (t *transfer) take(rec protocol.FileRecord) (fresh int64, err error) {
	if rec.Hole > 0 {
		return t.hole(rec.Offset, rec.Hole)
	}
	return t.chunk(rec.Offset, rec.Data)
}

// hole is chunk for bytes that are all zero and are left out of the file.
func (t *transfer) hole(offset, size int64) (fresh int64, err error) {
	end := offset + size
	if new, err := t.fits(offset, end); !new {
		return 0, err
	}
	if err := t.stretch(end); err != nil {
		return 0, err
	}
	if fresh, err = t.have.add(offset, end); err != nil {
		return 0, t.errorf("%v", err)
	}
	t.sparse = true
	if t.digest == nil || offset != t.hashed || fresh != size || size > maxHashedHole {
		t.digest = nil
	} else if err := sparse.Zeros(t.digest, size); err != nil {
		return 0, err
	} else {
		t.hashed = end
	}
	return fresh, nil
}

// maxHashedHole is how large a hole may be to be hashed where it comes, which
// holds up other files. Larger ones wait for the placer.
const maxHashedHole = 1 << 30

// fits tells whether [offset, end) brings anything new; the error is why it
// cannot belong to the file.
func (t *transfer) fits(offset, end int64) (new bool, err error) {
	switch {
	case t.dir:
		return false, t.errorf("a directory cannot have content")
	case t.link != "":
		return false, t.errorf("a link cannot have content")
	case offset < 0 || end < offset:
		return false, t.errorf("a chunk lies at the impossible offset %d", offset)
	case t.size >= 0 && end > t.size:
		return false, t.errorf("a chunk ends at %d, beyond its %d bytes", end, t.size)
	}
	return offset < end && !t.have.covers(offset, end), nil // the first to arrive counts
}

// write writes data into the temporary file.
func (t *transfer) write(offset int64, data []byte) error {
	if err := t.spill(); err != nil {
		return err
	}
	if err := t.open(); err != nil {
		return err
	}
	if _, err := t.file.WriteAt(data, offset); err != nil {
		if t.size < 0 && isTooLarge(err) {
			return t.errorf("a chunk lies at %d, where the file system holds no files", offset)
		}
		return fmt.Errorf("writing %q: %w", t.name, err)
	}
	return nil
}

// spill moves content held in memory into the temporary file.
func (t *transfer) spill() error {
	if t.held == nil {
		return nil
	}
	if err := t.open(); err != nil {
		return err
	}
	if _, err := t.file.WriteAt(t.held, 0); err != nil {
		return fmt.Errorf("writing %q: %w", t.name, err)
	}
	if t.digest != nil {
		t.digest.Write(t.held)
		t.hashed = int64(len(t.held))
	}
	t.held = nil
	return nil
}

// open opens the temporary file, making it the first time.
func (t *transfer) open() error {
	if t.file != nil {
		return nil
	}
	temp, flags := t.temp, os.O_RDWR
	if temp == "" {
		temp = t.part.target.work.tempName(t.id)
		flags |= os.O_CREATE | os.O_TRUNC
	}
	file, err := t.part.target.work.open(temp, flags, 0o600)
	if err != nil {
		return fmt.Errorf("temporary file of %q: %w", t.name, err)
	}
	t.file, t.temp = file, temp
	t.part.openFiles.Add(1)
	return nil
}

// park closes the temporary file until the next chunk.
func (t *transfer) park() error {
	if t.file == nil {
		return nil
	}
	file := t.file
	t.file = nil
	t.part.openFiles.Add(-1)
	return file.Close()
}

// discard removes what there is of the file.
func (t *transfer) discard() error {
	t.held = nil
	err := t.park()
	if t.temp != "" {
		if removeErr := t.part.target.work.root.Remove(t.temp); !errors.Is(removeErr, fs.ErrNotExist) {
			err = errors.Join(err, removeErr)
		}
		t.temp = ""
	}
	return err
}

// finish takes the end record.
func (t *transfer) finish(end *protocol.End) error {
	if t.end != nil { // repeated
		return nil
	}
	switch {
	case t.dir, t.link != "":
	case end.Size < 0:
		return t.errorf("its end says it has %d bytes", end.Size)
	case t.size >= 0 && t.size != end.Size:
		return t.errorf("its begin says %d bytes, its end %d: it changed while it was sent", t.size, end.Size)
	case t.have.limit() > end.Size:
		return t.errorf("%d bytes arrived, its end says %d", t.have.limit(), end.Size)
	default:
		t.size = end.Size
	}
	t.end = end
	return nil
}

// whole tells whether everything has arrived. Chunks on other connections may
// come after the end.
func (t *transfer) whole() bool { return t.end != nil && (t.dir || t.have.whole(t.size)) }

// missing tells what has not arrived.
func (t *transfer) missing() string {
	switch {
	case t.end != nil:
		return fmt.Sprintf("%d of its %d bytes are missing", t.size-t.have.total, t.size)
	case t.size >= 0:
		return fmt.Sprintf("%d of %d bytes arrived, but not its end", t.have.total, t.size)
	}
	return fmt.Sprintf("%d bytes arrived, but not its end", t.have.total)
}

// prepare writes what is held, checks the digest, sets mode and mtime and
// makes the temporary file durable, ready to be renamed. It runs in a worker
// of the placer. After a passing error it can be called again.
func (t *transfer) prepare() error {
	if t.dir {
		return nil
	}
	if t.link != "" {
		return t.prepareLink()
	}
	if err := t.spill(); err != nil {
		return err
	}
	if err := t.open(); err != nil { // also makes an empty file
		return err
	}
	if err := t.verify(); err != nil {
		return err
	}
	if err := t.setAttributes(); err != nil {
		return err
	}
	if !t.unsynced {
		if err := t.file.Sync(); err != nil {
			return &syncError{fmt.Errorf("making %q durable: %w", t.name, err)}
		}
	}
	if err := t.park(); err != nil {
		return &syncError{fmt.Errorf("closing %q: %w", t.name, err)}
	}
	return nil
}

// verify compares the digest over the whole file with the one in its end.
func (t *transfer) verify() error {
	if t.algorithm == "" && t.end.Digest == "" {
		return nil
	}
	if t.digest == nil || t.hashed != t.size {
		var err error
		if t.digest, err = protocol.NewDigest(t.algorithm); err != nil {
			return t.errorf("%v", err)
		}
		t.hashed = 0
		if err := t.readBack(); err != nil {
			return err
		}
	}
	sum := hex.EncodeToString(t.digest.Sum(nil))
	if sum != t.end.Digest && t.restored {
		t.part.fatal(errSpoiled)
		return errDropped
	}
	if sum != t.end.Digest {
		return t.errorf("its content does not match its digest: %s %s was announced, %s arrived: send it again",
			t.digestKind(), cmp.Or(t.end.Digest, "(none)"), sum)
	}
	t.sum = sum
	return nil
}

// digestKind is the kind of digest that is computed of it.
func (t *transfer) digestKind() string { return cmp.Or(t.algorithm, protocol.DigestXXH3) }

// stretch makes the temporary file at least size bytes long. Those that are new
// are a hole. Invariant: the file ends with the last range that has arrived, or
// beyond it.
func (t *transfer) stretch(size int64) error {
	if err := t.spill(); err != nil {
		return err
	}
	if err := t.open(); err != nil {
		return err
	}
	if size <= t.have.limit() {
		return nil
	}
	err := t.file.Truncate(size)
	if err != nil && isTooLarge(err) {
		return t.errorf("it has %d bytes or more, which the file system cannot hold", size)
	}
	if err != nil {
		return fmt.Errorf("length of %q: %w", t.name, err)
	}
	return nil
}

// readBack hashes the temporary file.
func (t *transfer) readBack() error {
	wrong := func(err error) error { return fmt.Errorf("reading %q back to check it: %w", t.name, err) }
	for t.hashed < t.size {
		select { // what claims to be huge is hashed for a long time
		case <-t.part.dropped:
			return errDropped
		case <-t.part.placer.stopping.Done():
			return errDropped
		default:
		}
		start, end := t.hashed, t.size
		if t.sparse {
			var err error
			if start, end, err = sparse.Next(t.file, t.hashed, t.size); err != nil {
				return wrong(err)
			}
			hole := min(start-t.hashed, maxHashedHole)
			if err := sparse.Zeros(t.digest, hole); err != nil {
				return wrong(err)
			}
			if t.hashed += hole; t.hashed < start {
				continue
			}
		}
		n, err := io.Copy(t.digest, io.NewSectionReader(t.file, start, end-start))
		if err == nil && n < end-start {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return wrong(err)
		}
		t.hashed = end
	}
	return nil
}

// syncError is a failed fsync: what is on the disk is not known, so trying
// again would prove nothing.
type syncError struct{ err error }

func (e *syncError) Error() string { return e.err.Error() }
func (e *syncError) Unwrap() error { return e.err }
