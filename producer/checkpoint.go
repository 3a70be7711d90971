package producer

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"mft/protocol"
)

const (
	checkpointMagic    = "mft-checkpoint-1"
	maxCheckpointBytes = 64 << 10               // of a file; a path and a name have 4 KiB
	checkpointBytes    = 4 << 20                // acknowledged, after which a position is written
	checkpointInterval = 100 * time.Millisecond // after which it is, too
	checkpointSync     = 5 * time.Second        // between two fsyncs of one file
)

// checkpoint says how far one file is sent, in a file that is there as long as
// the transfer is not wholly acknowledged. It is locked by who sends, so that
// two processes don't go on with one transfer.
//
//	mft-checkpoint-1 <crc> <head>      one line; head is JSON, see checkpointHead
//	<position> <crc>                   one line of fixed length, see position
//	<position> <crc>                   another one
//
// The head is written once, the positions in turn and in place: one that is
// torn leaves the other. CRCs are CRC-32C, 8 hex digits; a position's continues
// that of the head. They are written without an fsync, which a kill survives,
// and synced now and then: after a power loss an older position sends more than
// need be, and a damaged file begins anew.
//
// Its methods may be called from several goroutines.
type checkpoint struct {
	head checkpointHead
	log  zerolog.Logger

	mu      sync.Mutex
	file    *os.File // nil: closed
	at      int64    // in the file, of the first position
	crc     uint32   // of the head
	now     position // Invariant: everything before now.Acked is acknowledged
	written position
	wrote   time.Time // when written was
	marks   []mark    // of the chunks that are on their way, in the order of the file
	early   map[int64]int64
	broken  bool // it could not be written, which is told
}

// checkpointHead says which file, and which transfer.
type checkpointHead struct {
	Path      string              `json:"path"` // absolute; for people
	Topic     string              `json:"topic"`
	TopicID   []byte              `json:"topic_id,omitempty"` // none: the broker has no topic ids
	Partition int32               `json:"partition"`
	Transfer  protocol.TransferID `json:"transfer"`

	Name        string        `json:"name"`
	Size        int64         `json:"size"`
	Mode        protocol.Mode `json:"mode"`
	ModTimeSec  int64         `json:"mtime_s"`
	ModTimeNano int64         `json:"mtime_ns"`
	Chunk       int64         `json:"chunk"` // 0: they vary, of a sparse file
	Digest      string        `json:"digest"`
	Compression string        `json:"compression,omitempty"` // of the chunks, in the manifest

	Key protocol.KeyID `json:"key,omitempty"` // "": in clear
	KDF *protocol.KDF  `json:"kdf,omitempty"` // of a key made of a passphrase
}

// position is how far the file is sent.
type position struct {
	Seq   uint64 // the higher one counts
	Acked int64  // bytes from the beginning of the file that are acknowledged
	Sum   string // digest of those bytes, hex; "" for none
	Begin int64  // offset of the first begin record; -1: not known
	Last  int64  // the highest offset of a record that is acknowledged; -1: not known
}

// mark is a chunk on its way.
type mark struct {
	end int64
	sum string // digest of everything before end
}

func (h *checkpointHead) setManifest(m protocol.Manifest) {
	h.Name, h.Size, h.Mode, h.Chunk, h.Digest, h.Compression = m.Name, m.Size, m.Mode, m.Chunk, m.Digest, m.Compression
	h.ModTimeSec, h.ModTimeNano = m.ModTime.Unix(), int64(m.ModTime.Nanosecond())
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode is the first line.
func (h *checkpointHead) encode() (line []byte, crc uint32, err error) {
	text, err := json.Marshal(h)
	if err != nil {
		return nil, 0, err
	}
	crc = crc32.Checksum(text, castagnoli)
	return fmt.Appendf(nil, "%s %08x %s\n", checkpointMagic, crc, text), crc, nil
}

// positionLine is the length of a position: four numbers, a digest, a CRC.
const positionLine = 4*21 + 65 + 8 + 1

func (p position) encode(head uint32) []byte {
	text := fmt.Sprintf("%020d %020d %020d %020d %-64s ", p.Seq, p.Acked, p.Begin, p.Last, p.Sum)
	return fmt.Appendf(nil, "%s%08x\n", text, crc32.Update(head, castagnoli, []byte(text)))
}

func parsePosition(line []byte, head uint32) (p position, ok bool) {
	if len(line) != positionLine || line[positionLine-1] != '\n' {
		return position{}, false
	}
	text, crc := line[:positionLine-9], line[positionLine-9:positionLine-1]
	if fmt.Sprintf("%08x", crc32.Update(head, castagnoli, text)) != string(crc) {
		return position{}, false
	}
	fields := strings.Fields(string(text))
	if len(fields) < 4 || len(fields) > 5 {
		return position{}, false
	}
	var errs [4]error
	p.Seq, errs[0] = strconv.ParseUint(fields[0], 10, 63)
	p.Acked, errs[1] = strconv.ParseInt(fields[1], 10, 64)
	p.Begin, errs[2] = strconv.ParseInt(fields[2], 10, 64)
	p.Last, errs[3] = strconv.ParseInt(fields[3], 10, 64)
	if len(fields) == 5 {
		p.Sum = fields[4]
	}
	return p, errors.Join(errs[:]...) == nil && p.Acked >= 0 && p.Begin >= -1 && p.Last >= -1
}

// parse reads the file into c, which then can go on writing it.
func (c *checkpoint) parse(text []byte) error {
	var (
		h checkpointHead
		p position
	)
	line, rest, ok := bytes.Cut(text, []byte("\n"))
	if !ok {
		return fmt.Errorf("its first line is cut")
	}
	fields := bytes.SplitN(line, []byte(" "), 3)
	if len(fields) != 3 || string(fields[0]) != checkpointMagic {
		return fmt.Errorf("it is no checkpoint of this version")
	}
	crc := crc32.Checksum(fields[2], castagnoli)
	if fmt.Sprintf("%08x", crc) != string(fields[1]) {
		return fmt.Errorf("its first line is damaged")
	}
	if err := json.Unmarshal(fields[2], &h); err != nil {
		return fmt.Errorf("its first line: %w", err)
	}
	found := false
	for i := range 2 {
		slot := rest[min(i*positionLine, len(rest)):min((i+1)*positionLine, len(rest))]
		if q, ok := parsePosition(slot, crc); ok && (!found || q.Seq > p.Seq) {
			p, found = q, true
		}
	}
	sum, sumErr := hex.DecodeString(p.Sum)
	switch {
	case !found:
		return fmt.Errorf("its positions are damaged")
	case p.Acked > h.Size || p.Acked > 0 && (sumErr != nil || len(sum) == 0):
		return fmt.Errorf("its position is impossible")
	case h.Partition < 0 || h.Size < 0 || h.Chunk < 0:
		return fmt.Errorf("its first line is impossible")
	}
	c.head, c.at, c.crc, c.now, c.written, c.wrote = h, int64(len(line)+1), crc, p, p, time.Now()
	return nil
}

// openCheckpoint opens and locks the file at path, made if need be. It returns
// nil when another process has it.
func openCheckpoint(path string) (*os.File, error) {
	for {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		ok, err := lockFile(file)
		if err != nil || !ok {
			return nil, errors.Join(err, file.Close())
		}
		held, err := file.Stat()
		if err != nil {
			return nil, errors.Join(err, file.Close())
		}
		if now, err := os.Lstat(path); err == nil && os.SameFile(held, now) {
			return file, nil
		}
		// Who had it before has removed it.
		if err := file.Close(); err != nil {
			return nil, err
		}
	}
}

// removeUnlocked removes a checkpoint that nobody has locked.
func removeUnlocked(path string) error {
	file, err := openCheckpoint(path)
	if err != nil || file == nil {
		return err
	}
	return removeLocked(file)
}

// readCheckpoint reads what is in a file, nothing when it was just made.
func readCheckpoint(file *os.File) ([]byte, error) {
	text, err := io.ReadAll(io.NewSectionReader(file, 0, maxCheckpointBytes+1))
	if err == nil && len(text) > maxCheckpointBytes {
		err = fmt.Errorf("it is larger than %d bytes", maxCheckpointBytes)
	}
	return text, err
}

// begin writes the checkpoint of a new transfer into the file.
func (c *checkpoint) begin() error {
	line, crc, err := c.head.encode()
	if err != nil {
		return err
	}
	c.crc, c.at = crc, int64(len(line))
	c.now = position{Seq: 2, Begin: -1, Last: -1}
	c.written, c.wrote = c.now, time.Now()
	if err := c.file.Truncate(0); err != nil {
		return err
	}
	// Both, so that no older one is left.
	first := position{Seq: 1, Begin: -1, Last: -1}
	line = append(line, c.now.encode(crc)...)
	_, err = c.file.WriteAt(append(line, first.encode(crc)...), 0)
	return err
}

// sending notes a chunk that is about to be sent, and ends where the digest of
// what is before is sum. Chunks are noted in the order of the file.
func (c *checkpoint) sending(end int64, sum []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.marks = append(c.marks, mark{end, hex.EncodeToString(sum)})
}

// begun notes the offset of the begin record.
func (c *checkpoint) begun(offset int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now.Begin < 0 {
		c.now.Begin = offset
	}
	c.now.Last = max(c.now.Last, offset)
}

// acked notes that the chunk [start, end) is acknowledged, as the record at
// offset. Chunks may be acknowledged in any order.
func (c *checkpoint) acked(start, end, offset int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now.Last = max(c.now.Last, offset)
	if start != c.now.Acked {
		if c.early == nil {
			c.early = make(map[int64]int64)
		}
		c.early[start] = end
		return
	}
	for ok := true; ok; end, ok = c.early[c.now.Acked] {
		delete(c.early, c.now.Acked)
		c.now.Acked = end
	}
	for len(c.marks) > 0 && c.marks[0].end <= c.now.Acked {
		c.now.Sum = c.marks[0].sum
		c.marks = c.marks[1:]
	}
	if c.now.Acked-c.written.Acked >= checkpointBytes || time.Since(c.wrote) >= checkpointInterval {
		c.write()
	}
}

// write writes the position over the older one of the two. It is called with
// the lock.
func (c *checkpoint) write() {
	if c.file == nil || c.broken {
		return
	}
	c.now.Seq++
	_, err := c.file.WriteAt(c.now.encode(c.crc), c.at+int64(c.now.Seq%2)*positionLine)
	c.written, c.wrote = c.now, time.Now()
	c.check(err)
}

// check tells of the first error. A file that cannot be written to costs no
// more than sending again what a later run might not have to.
func (c *checkpoint) check(err error) {
	if err == nil || c.broken {
		return
	}
	c.broken = true
	c.log.Warn().Str("file", c.head.Path).Err(err).Msg("how far it is sent cannot be written down: if this run is interrupted, more of it is sent again")
}

// sync makes the position durable, if that was not done for a while. It may take
// as long as the disk does.
func (c *checkpoint) sync(last *time.Time) {
	if time.Since(*last) < checkpointSync {
		return
	}
	*last = time.Now()
	c.mu.Lock()
	file := c.file
	c.mu.Unlock()
	if file == nil {
		return
	}
	if err := file.Sync(); err != nil && !errors.Is(err, os.ErrClosed) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.check(err)
	}
}

// close writes the last position and leaves the file to a later run.
func (c *checkpoint) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.file == nil {
		return nil
	}
	if c.now != c.written {
		c.write()
	}
	err := c.file.Close()
	c.file = nil
	return err
}

// remove ends the checkpoint: there is nothing to go on with.
func (c *checkpoint) remove() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.file == nil {
		return nil
	}
	err := removeLocked(c.file)
	c.file = nil
	return err
}
