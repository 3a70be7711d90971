package producer

import (
	"bytes"
	"encoding/binary"
	"sync"

	"mft/protocol"
)

const (
	littleGain = 1.0 / 16 // of a chunk: less is not worth undoing it at every reader
	maxPassed  = 64       // chunks that are sent as they are, after one that gained little
)

// choice is what CompressAuto has decided for one file of several chunks. A
// file that begins as a compressed format does is never compressed. Of others
// each chunk is sampled, so that the choice follows the content, in an archive
// say; after one that looked compressible and gained little, some are passed
// over, twice as many each time. A nil choice knows nothing of the file.
type choice struct {
	mu     sync.Mutex
	never  bool
	pass   int // chunks still to be passed over
	passed int // the last time
}

// begins looks at the first bytes of the file.
func (c *choice) begins(head []byte) {
	if c == nil || !compressedFormat(head) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.never = true
}

// worth says whether a chunk, or a batch that holds it, is to be compressed.
func (c *choice) worth(data []byte) bool {
	if c == nil {
		return looksCompressible(data)
	}
	c.mu.Lock()
	skip := c.never || c.pass > 0
	if c.pass > 0 {
		c.pass--
	}
	c.mu.Unlock()
	return !skip && looksCompressible(data)
}

// gained tells how a chunk was compressed, and says whether that was worth it.
func (c *choice) gained(before, after int) bool {
	worth := float64(before-after) >= float64(before)*littleGain
	if c == nil {
		return worth
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if worth {
		c.passed = 0
	} else {
		c.passed = min(max(1, 2*c.passed), maxPassed)
		c.pass = c.passed
	}
	return worth
}

// compressedFormat recognizes by its first bytes what other programs have
// compressed: archives, pictures, sound, films.
func compressedFormat(head []byte) bool {
	for _, magic := range [...]string{
		"\x1f\x8b\x08", "\x28\xb5\x2f\xfd", "BZh", "\xfd7zXZ\x00", "7z\xbc\xaf\x27\x1c", "Rar!\x1a\x07", "\x04\x22\x4d\x18", "LZIP", // gzip, zstd, bzip2, xz, 7z, rar, lz4, lzip
		"\xff\xd8\xff", "\x89PNG\r\n\x1a\n", "GIF8", "\x1a\x45\xdf\xa3", "OggS", "fLaC", "ID3", "\x00\x00\x00\x0cJXL ", // JPEG, PNG, GIF, Matroska, Ogg, FLAC, MP3, JPEG XL
	} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	if len(head) < 12 {
		return false
	}
	switch {
	case string(head[:4]) == "PK\x03\x04": // zip, and documents that are one: unless its first entry is only stored
		return binary.LittleEndian.Uint16(head[8:]) != 0
	case string(head[4:8]) == "ftyp": // MP4, QuickTime, HEIC, AVIF
		return true
	case string(head[:4]) == "RIFF":
		return string(head[8:12]) == "WEBP"
	}
	return false
}

// choices are those of the files that are being sent, by transfer id. A nil
// choices makes none.
type choices struct{ files sync.Map }

// open makes the choice of a transfer.
func (c *choices) open(id protocol.TransferID) *choice {
	if c == nil {
		return nil
	}
	made := &choice{}
	c.files.Store(string(id), made)
	return made
}

// forget ends the choice of a transfer, if there is one.
func (c *choices) forget(id protocol.TransferID) {
	if c != nil {
		c.files.Delete(string(id))
	}
}

// of is the choice of the file whose chunk a batch begins with, nil when there
// is none: its batch holds several small files, or lines.
func (c *choices) of(batch []byte) *choice {
	if c == nil {
		return nil
	}
	if made, ok := c.files.Load(string(firstKey(batch))); ok {
		return made.(*choice)
	}
	return nil
}

// firstKey is the key of the first record of an uncompressed batch, nil when
// there is none:
//
//	varint length, int8 attributes, varint Δtimestamp, varint Δoffset, varint key length, key …
func firstKey(batch []byte) []byte {
	next := func() (int64, bool) {
		v, n := binary.Varint(batch)
		if n <= 0 {
			return 0, false
		}
		batch = batch[n:]
		return v, true
	}
	if _, ok := next(); !ok || len(batch) == 0 {
		return nil
	}
	batch = batch[1:]
	if _, ok := next(); !ok {
		return nil
	}
	if _, ok := next(); !ok {
		return nil
	}
	length, ok := next()
	if !ok || length <= 0 || length > int64(len(batch)) {
		return nil
	}
	return batch[:length]
}
