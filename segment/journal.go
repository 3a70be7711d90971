package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"sort"
	"strconv"

	"github.com/tidwall/wal"
)

// The journal is a sequence of generations, each a directory journal/<n> with one tidwall/wal log that never rolls and is never
// truncated at its front: a checkpoint starts the next generation and then deletes the older ones.
//
// An entry of the log is a group: everything that one group commit made durable. The next group is only written once the previous one
// is on stable storage, so that a damaged group with a whole one behind it is damage, while a damaged last group is a torn write.
//
//	0       4       8               16      20
//	| magic | CRC   | index         | n     | n bytes of records        integers big endian
//
//	magic   "mftG"
//	CRC     CRC-32C of the generation number (8 bytes) and everything from index to the end
//	index   of this entry in the wal, from 1
//
// A record is kind (1 byte), length (unsigned varint), and that many bytes:
//
//	kind 1  metadata: an entry of Store.Propose
//	kind 2  epoch: leader epoch (4 bytes) of a start of the store
//	kind 3  range: bytes appended to a log (see ranges.go)
//	kind 4  deleted: a log that is no more (see ranges.go)
//
// What the wal lacks is done here: it fails to open a log with a torn tail (trimmed first), has no checksums (the CRC), returns success
// for entries after a failed write that it never wrote (closed, cut back and opened again), and does not make its file's name durable (done at creation).
const (
	groupMagic     = "mftG"
	groupHeaderLen = 20
)

// recordKind says what a record of the journal is.
type recordKind byte

const (
	recordMetadata recordKind = 1
	recordEpoch    recordKind = 2
	recordRange    recordKind = 3
	recordDeleted  recordKind = 4
)

// record is one record of the journal. payload aliases the buffer it was read from.
type record struct {
	kind    recordKind
	payload []byte
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// groupCRC is the checksum of a group: index and everything behind it, as they are in the file, in the given generation.
func groupCRC(generation uint64, fromIndex []byte) uint32 {
	var g [8]byte
	binary.BigEndian.PutUint64(g[:], generation)
	return crc32.Update(crc32.Checksum(g[:], castagnoli), castagnoli, fromIndex)
}

// appendGroup encodes a group behind dst.
func appendGroup(dst []byte, generation, index uint64, records []record) []byte {
	start := len(dst)
	dst = append(dst, groupMagic...)
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.BigEndian.AppendUint64(dst, index)
	dst = append(dst, 0, 0, 0, 0)
	for _, r := range records {
		dst = append(dst, byte(r.kind))
		dst = binary.AppendUvarint(dst, uint64(len(r.payload)))
		dst = append(dst, r.payload...)
	}
	group := dst[start:]
	binary.BigEndian.PutUint32(group[16:], uint32(len(group)-groupHeaderLen))
	binary.BigEndian.PutUint32(group[4:], groupCRC(generation, group[8:]))
	return dst
}

// parseGroup checks the group at the start of buf and returns its index, its records and its length, or ok == false.
func parseGroup(buf []byte, generation uint64) (index uint64, body []byte, ok bool) {
	if len(buf) < groupHeaderLen || string(buf[:4]) != groupMagic {
		return 0, nil, false
	}
	n := uint64(binary.BigEndian.Uint32(buf[16:]))
	if n > uint64(len(buf)-groupHeaderLen) {
		return 0, nil, false
	}
	buf = buf[:groupHeaderLen+n]
	if groupCRC(generation, buf[8:]) != binary.BigEndian.Uint32(buf[4:]) {
		return 0, nil, false
	}
	return binary.BigEndian.Uint64(buf[8:]), buf[groupHeaderLen:], true
}

// eachRecord calls visit with the records of a group's body.
func eachRecord(body []byte, visit func(record) error) error {
	for len(body) > 0 {
		kind := recordKind(body[0])
		n, w := binary.Uvarint(body[1:])
		if w <= 0 || n > uint64(len(body)-1-w) {
			return errors.New("a record is longer than its group")
		}
		body = body[1+w:]
		if err := visit(record{kind, body[:n]}); err != nil {
			return err
		}
		body = body[n:]
	}
	return nil
}

// scanGeneration reads the groups in the bytes of a generation's file in order, and returns the length of the valid front.
// What comes behind that is a torn write, unless a whole group is found in it: then the error is a *CorruptionError.
// visit may be nil; its error ends the scan.
func scanGeneration(dir string, generation uint64, data []byte, visit func(record) error) (valid int64, groups uint64, err error) {
	file := filepath.Base(generationFile(dir, generation))
	rest := data
	for len(rest) > 0 {
		size, w := binary.Uvarint(rest)
		var index uint64
		var body []byte
		ok := w > 0 && size <= uint64(len(rest)-w)
		if ok {
			index, body, ok = parseGroup(rest[w:w+int(size)], generation)
			ok = ok && index == groups+1 && len(body)+groupHeaderLen == int(size)
		}
		if !ok {
			if at := findGroup(rest, generation, groups+1); at >= 0 {
				return valid, groups, &CorruptionError{
					Dir: filepath.Join(dir, generationName(generation)), File: file, Offset: valid,
					Reason: fmt.Sprintf("group %d is unreadable although there is a later one at byte %d", groups+1, valid+int64(at)),
				}
			}
			return valid, groups, nil
		}
		if visit != nil {
			if err := eachRecord(body, visit); err != nil {
				return valid, groups, &CorruptionError{Dir: filepath.Join(dir, generationName(generation)), File: file, Offset: valid, Reason: err.Error()}
			}
		}
		groups++
		valid += int64(w) + int64(size)
		rest = rest[w+int(size):]
	}
	return valid, groups, nil
}

// findGroup returns where in buf a whole group with an index greater than after begins, or -1.
func findGroup(buf []byte, generation, after uint64) int {
	for at := 0; ; at++ {
		i := bytes.Index(buf[at:], []byte(groupMagic))
		if i < 0 {
			return -1
		}
		at += i
		if index, _, ok := parseGroup(buf[at:], generation); ok && index > after {
			return at
		}
	}
}

func generationName(generation uint64) string { return strconv.FormatUint(generation, 10) }

// generationFile is the path of the one file that tidwall/wal makes in a generation's directory.
func generationFile(dir string, generation uint64) string {
	return filepath.Join(dir, generationName(generation), "00000000000000000001")
}

// generations lists the generations in the journal's directory in ascending order.
func generations(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var found []uint64
	for _, e := range entries {
		if n, err := strconv.ParseUint(e.Name(), 10, 64); err == nil && e.IsDir() && generationName(n) == e.Name() {
			found = append(found, n)
		}
	}
	sort.Slice(found, func(i, j int) bool { return found[i] < found[j] })
	return found, nil
}

// journal is the generation that is written to. Its bytes up to size are whole groups. It is used by one goroutine at a time.
type journal struct {
	dir        string // of all generations
	generation uint64
	log        *wal.Log
	file       *os.File // a handle of our own on the wal's file, for fdatasync and for cutting it back
	size       int64
	next       uint64 // index of the next group
	buf        []byte
}

// openJournal opens a generation for writing, creating it when it is missing. A torn tail is cut off; the number of bytes is returned.
// The generation's valid records go to visit, when given.
func openJournal(dir string, generation uint64, visit func(record) error) (j *journal, cut int64, err error) {
	sub := filepath.Join(dir, generationName(generation))
	path := generationFile(dir, generation)
	if err := os.MkdirAll(sub, 0o755); err != nil {
		return nil, 0, err
	}
	j = &journal{dir: dir, generation: generation}
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, 0, err
	}
	valid, groups, err := scanGeneration(dir, generation, data, visit)
	if err != nil {
		return nil, 0, err
	}
	j.size, j.next, cut = valid, groups+1, int64(len(bytes.TrimRight(data[valid:], "\x00")))
	if j.file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return nil, 0, err
	}
	if int64(len(data)) > valid {
		err = errors.Join(j.file.Truncate(valid), syncData(j.file))
	}
	if err == nil {
		err = j.openWAL()
	}
	if err == nil && j.size == 0 { // perhaps just created
		err = errors.Join(syncDir(sub), syncDir(dir), syncDir(filepath.Dir(dir)))
	}
	if err != nil {
		return nil, cut, errors.Join(fmt.Errorf("open journal %s: %w", sub, err), j.close())
	}
	return j, cut, nil
}

// reserve fills an empty generation with zeros, durably, which the groups will overwrite in place: an fdatasync of those needs no
// transaction of the file system, takes half the time, and does not wait for those of other files. The wal, whose position in its file is the
// start, does not notice; to the reader they are a torn tail. Where there is no room the generation stays empty.
func (j *journal) reserve(n int64) error {
	var err error
	zeros := make([]byte, 1<<20)
	for at := int64(0); at < n && err == nil; at += int64(len(zeros)) {
		// Piece by piece: one large fsync would hold up the small ones of others.
		if _, err = j.file.WriteAt(zeros[:min(n-at, int64(len(zeros)))], at); err == nil {
			if err := j.sync(); err != nil {
				return err
			}
		}
	}
	if err != nil {
		return j.file.Truncate(0)
	}
	return nil
}

// isBlank says that a generation's file has nothing in it, or only what reserve has put there, or is missing.
func isBlank(path string) (bool, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	return len(bytes.TrimRight(data, "\x00")) == 0, err
}

// openWAL opens the wal on a file that holds whole entries only.
func (j *journal) openWAL() error {
	log, err := wal.Open(filepath.Join(j.dir, generationName(j.generation)), &wal.Options{
		NoSync:      true,        // sync uses fdatasync on our own handle
		SegmentSize: math.MaxInt, // never rolls
		LogFormat:   wal.Binary,  // length and bytes
		NoCopy:      true,        // nothing is read through it
		DirPerms:    0o755,       //
		FilePerms:   0o644,       //
	})
	if err != nil {
		return err
	}
	last, err := log.LastIndex()
	if err == nil && last != j.next-1 {
		err = fmt.Errorf("the wal counts %d entries, the file holds %d", last, j.next-1)
	}
	if err != nil {
		return errors.Join(err, log.Close())
	}
	j.log = log
	return nil
}

// write appends one group. On a *StorageError nothing was written and the journal can be written to again;
// any other error is fatal.
func (j *journal) write(records []record) error {
	j.buf = appendGroup(j.buf[:0], j.generation, j.next, records)
	if err := j.log.Write(j.next, j.buf); err != nil {
		if rerr := j.repair(); rerr != nil {
			return errors.Join(err, rerr)
		}
		return &StorageError{Op: "write", Path: generationFile(j.dir, j.generation), Err: err}
	}
	var w [binary.MaxVarintLen64]byte
	j.size += int64(binary.PutUvarint(w[:], uint64(len(j.buf))) + len(j.buf))
	j.next++
	if cap(j.buf) > 4<<20 {
		j.buf = nil
	}
	return nil
}

// sync makes all groups written so far durable. Its error is fatal.
func (j *journal) sync() error { return syncData(j.file) }

// repair brings the journal back to the last whole group after a failed write. The wal believes to have written the group all the same,
// so it is opened anew.
func (j *journal) repair() error {
	if j.log != nil {
		err := j.log.Close()
		j.log = nil
		if err != nil {
			return fmt.Errorf("close the journal after a failed write: %w", err)
		}
	}
	if err := j.file.Truncate(j.size); err != nil {
		return fmt.Errorf("cut the journal back after a failed write: %w", err)
	}
	if err := j.sync(); err != nil {
		return err
	}
	if err := j.openWAL(); err != nil {
		return fmt.Errorf("open the journal after a failed write: %w", err)
	}
	return nil
}

func (j *journal) close() error {
	var err error
	if j.log != nil {
		err = j.log.Close()
		j.log = nil
	}
	return errors.Join(err, j.file.Close())
}

// removeGenerations deletes the generations before the given one.
func removeGenerations(dir string, before uint64) error {
	found, err := generations(dir)
	if err != nil {
		return err
	}
	for _, g := range found {
		if g < before {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, generationName(g))))
		}
	}
	return err
}
