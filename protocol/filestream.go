package protocol

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Names of the headers that make a record part of a file stream.
const (
	HeaderKind   = "mft.kind"
	HeaderOffset = "mft.offset"
)

// Kind is what a record of a file stream is.
type Kind string

const (
	KindBegin Kind = "begin" // opens a transfer: a Manifest
	KindChunk Kind = "chunk" // bytes of the file and where they belong
	KindEnd   Kind = "end"   // all chunks have been sent: an End
	KindAbort Kind = "abort" // the transfer will not be completed: an Abort

	// kindHole is what a chunk is called that is a hole, and not encrypted: a
	// kind of its own, so that readers that do not know holes refuse it.
	kindHole Kind = "hole"
)

// TransferID names one sending of one file or directory: 32 lower-case hex
// digits of 16 random bytes. It is the key of all its records.
type TransferID string

// NewTransferID draws a new id.
func NewTransferID() TransferID {
	var raw [16]byte
	rand.Read(raw[:]) // never fails: see crypto/rand
	return TransferID(hex.EncodeToString(raw[:]))
}

func (id TransferID) valid() bool {
	if len(id) != 32 {
		return false
	}
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Values of Manifest.Type.
const (
	TypeFile    = "file"
	TypeDir     = "dir"
	TypeSymlink = "symlink"
)

// ManifestVersion is the version of the format that this package writes and the newest it reads.
const ManifestVersion = 1

// SizeUnknown is the size of a file that is still growing.
const SizeUnknown = -1

// Manifest is the value of a begin record: what is being sent.
type Manifest struct {
	Version     int    // 0 when encoding: ManifestVersion
	Name        string // slash-separated, relative to the source's root, of bytes that need not be UTF-8; see CheckName
	Type        string // TypeFile, TypeDir or TypeSymlink
	Size        int64  // bytes; SizeUnknown; 0 for directories and links
	Mode        Mode
	ModTime     time.Time // zero: unknown
	Chunk       int64     // bytes of every chunk but the last; 0: they vary
	Digest      string    // kind, see NewDigest; "": none, as for directories
	Compression string    // of the bytes in the chunks; "": none (batches may be compressed all the same)
	Encryption  string    // of the bytes in the chunks; "": none

	Live     bool   // the file is mirrored while it grows: Size is SizeUnknown, chunks are in order
	From     int64  // of a repeated begin of a live file: the file goes on at this byte, what was sent beyond it is void
	Previous string // of a live file: what becomes of the file that has its name, PreviousKeep, PreviousCut or ""

	Target string // of a link: where it leads to
	Owner  *Owner // nil: not told
	Xattrs Xattrs // nil: not told, or none
}

// Values of Manifest.Previous. Any other is taken for "": the file is replaced.
const (
	PreviousKeep = "keep" // it was rotated away: it is kept under another name
	PreviousCut  = "cut"  // it was cut: the file of this name is, too
)

// Owner is whom a file belongs to. Names are those of the sender's system, ""
// where it has none; they say more than numbers between two systems.
type Owner struct {
	UID   uint32 `json:"uid"`
	GID   uint32 `json:"gid"`
	User  string `json:"user,omitempty"`
	Group string `json:"group,omitempty"`
}

// Xattrs are extended attributes: values by their names, as "user.comment".
type Xattrs map[string][]byte

// End is the value of an end record.
type End struct {
	Size    int64     // bytes
	Digest  string    // of the whole file, lower-case hex; "": none
	ModTime time.Time // of a live file, last modification; zero: unknown
}

// Abort is the value of an abort record.
type Abort struct {
	Reason string `json:"reason"` // for people
}

// Mode is the permission bits of Unix, with setuid (04000), setgid (02000) and sticky (01000).
type Mode uint32

const modeBits = 0o7777

// ModeOf is the Mode of a file as package fs has it.
func ModeOf(m fs.FileMode) Mode {
	mode := Mode(m.Perm())
	if m&fs.ModeSetuid != 0 {
		mode |= 0o4000
	}
	if m&fs.ModeSetgid != 0 {
		mode |= 0o2000
	}
	if m&fs.ModeSticky != 0 {
		mode |= 0o1000
	}
	return mode
}

// FileMode is the reverse of ModeOf.
func (m Mode) FileMode() fs.FileMode {
	mode := fs.FileMode(m) & fs.ModePerm
	if m&0o4000 != 0 {
		mode |= fs.ModeSetuid
	}
	if m&0o2000 != 0 {
		mode |= fs.ModeSetgid
	}
	if m&0o1000 != 0 {
		mode |= fs.ModeSticky
	}
	return mode
}

// String is the mode as a manifest has it: octal, like "0644".
func (m Mode) String() string { return fmt.Sprintf("%04o", uint32(m&modeBits)) }

// FileRecord is one record of a file stream. Beside Transfer and Kind, the
// fields of its kind are set: Manifest for begin, Offset and Data or Hole for
// chunk, End for end, Abort for abort.
//
//	 key          headers                                  value
//	+------------+---------------------------------------+----------------+
//	| transfer   | mft.kind: begin                       | Manifest, JSON |
//	| id, 32 hex | mft.kind: chunk, mft.offset: decimal  | bytes          |
//	| digits     | mft.kind: hole, mft.offset: decimal   | size, JSON     |
//	|            | mft.kind: end                         | End, JSON      |
//	|            | mft.kind: abort                       | Abort, JSON    |
//	+------------+---------------------------------------+----------------+
//
// A record of an encrypted transfer has Sealed instead of those fields, and
// on begin an Envelope: see Sealer and Keyring.
//
// Source: docs/file-streams.md.
type FileRecord struct {
	Transfer TransferID
	Kind     Kind
	Offset   int64     // of a chunk, in bytes from the beginning of the file
	Data     []byte    // of a chunk
	Manifest *Manifest // of a begin
	End      *End
	Abort    *Abort

	Sealed   []byte    // encrypted, in the place of all of the above
	Envelope *Envelope // of an encrypted begin
	Last     bool      // of a chunk that was encrypted: the file ends with it
	Hole     int64     // of a chunk without Data: that many bytes are zero
}

// IsSealed tells whether the record is encrypted.
func (r FileRecord) IsSealed() bool { return r.Sealed != nil }

// NotFileRecordError reports a record that is no part of a file stream: an
// ordinary record, which is no mistake in a topic that carries both.
type NotFileRecordError struct{}

func (*NotFileRecordError) Error() string {
	return "the record has no " + HeaderKind + " header: it is no part of a file transfer"
}

// FileRecordError reports a record that says it is part of a file stream, and is not a correct one.
type FileRecordError struct {
	Transfer TransferID // the record's key, unless that is what is wrong
	Kind     Kind       // as the record says
	Reason   string
}

func (e *FileRecordError) Error() string {
	return fmt.Sprintf("file record of transfer %q, kind %q: %s", e.Transfer, e.Kind, e.Reason)
}

// ParseFileRecord reads a record of a file stream. H is Header or the like type
// of a client's library. Data and Sealed alias value, everything else is copied.
//
// Unknown headers and unknown JSON fields are ignored; an unknown kind, a newer
// version or a wrong field is a *FileRecordError. A record without an mft.kind
// header is a *NotFileRecordError. The name in a manifest is not judged: see CheckName.
func ParseFileRecord[H ~struct {
	Key   string
	Value []byte
}](key, value []byte, headers []H) (FileRecord, error) {
	var kind, offset, sealed []byte
	var kinds, offsets, seals int
	for _, h := range headers {
		switch h := Header(h); h.Key {
		case HeaderKind:
			kind, kinds = h.Value, kinds+1
		case HeaderOffset:
			offset, offsets = h.Value, offsets+1
		case HeaderSealed:
			sealed, seals = h.Value, seals+1
		}
	}
	if kinds == 0 {
		return FileRecord{}, &NotFileRecordError{}
	}
	r := FileRecord{Kind: Kind(kind)}
	wrong := func(format string, args ...any) (FileRecord, error) {
		return FileRecord{}, &FileRecordError{r.Transfer, r.Kind, fmt.Sprintf(format, args...)}
	}
	if id := TransferID(key); !id.valid() {
		return wrong("the key is not a transfer id of 32 lower-case hex digits")
	} else {
		r.Transfer = id
	}
	if kinds > 1 || offsets > 1 || seals > 1 {
		return wrong("a header is there more than once")
	}

	var err error
	if seals > 0 {
		switch {
		case string(sealed) != sealedVersion:
			err = fmt.Errorf("it is encrypted in form %.16q, which is not known here: update this mft", sealed)
		case offsets > 0:
			err = fmt.Errorf("it is encrypted and has a %s header", HeaderOffset)
		default:
			err = r.parseSealed(value)
		}
		if err != nil {
			return wrong("%v", err)
		}
		return r, nil
	}
	switch r.Kind {
	case KindBegin:
		r.Manifest, err = parseManifest(value)
	case KindChunk:
		r.Data = value
		if r.Offset, err = parseOffset(string(offset)); err == nil && r.Offset > math.MaxInt64-int64(len(value)) {
			err = fmt.Errorf("%d bytes at offset %d end beyond what a file can hold", len(value), r.Offset)
		}
	case kindHole:
		if r.Offset, err = parseOffset(string(offset)); err == nil {
			r.Hole, err = parseHole(value, r.Offset)
		}
	case KindEnd:
		r.End, err = parseEnd(value)
	case KindAbort:
		r.Abort = new(Abort)
		err = json.Unmarshal(value, r.Abort)
	default:
		err = fmt.Errorf("the kind is unknown: a newer mft may have written it")
	}
	if err != nil {
		return wrong("%v", err)
	}
	if r.Kind == kindHole {
		r.Kind = KindChunk
	}
	return r, nil
}

// holeJSON is the value of a hole.
type holeJSON struct {
	Size int64 `json:"size"`
}

func parseHole(value []byte, offset int64) (int64, error) {
	var w holeJSON
	if err := json.Unmarshal(value, &w); err != nil {
		return 0, err
	}
	if w.Size < 1 || offset > math.MaxInt64-w.Size {
		return 0, fmt.Errorf("a hole of %d bytes at offset %d cannot be", w.Size, offset)
	}
	return w.Size, nil
}

// parseSealed takes the value of an encrypted record.
func (r *FileRecord) parseSealed(value []byte) (err error) {
	switch r.Kind {
	case KindBegin:
		r.Envelope, r.Sealed, err = parseEnvelope(value)
	case KindChunk, KindEnd, KindAbort:
		r.Sealed = value
	default:
		return fmt.Errorf("the kind is unknown: a newer mft may have written it")
	}
	if r.Sealed == nil {
		r.Sealed = []byte{}
	}
	return err
}

// parseOffset reads a decimal number without sign.
func parseOffset(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("the %s header %q is not a decimal number of bytes", HeaderOffset, s)
	}
	return int64(n), nil
}

// Encode is the reverse of ParseFileRecord. It is for records that are
// correct: the fields of the kind are set. value aliases Data.
func (r FileRecord) Encode() (key, value []byte, headers []Header) {
	key = []byte(r.Transfer)
	headers = []Header{{HeaderKind, []byte(r.Kind)}}
	if r.IsSealed() {
		value = r.Sealed
		if r.Kind == KindBegin {
			value = r.Envelope.encode(r.Sealed)
		}
		return key, value, append(headers, Header{HeaderSealed, []byte(sealedVersion)})
	}
	switch r.Kind {
	case KindBegin:
		value = encodeJSON(r.Manifest.wire())
	case KindChunk:
		value = r.Data
		if r.Hole > 0 {
			value = encodeJSON(holeJSON{r.Hole})
			headers[0].Value = []byte(kindHole)
		}
		headers = append(headers, Header{HeaderOffset, strconv.AppendInt(nil, r.Offset, 10)})
	case KindEnd:
		value = encodeJSON(endJSON{Size: &r.End.Size, Digest: r.End.Digest, ModTime: formatTime(r.End.ModTime)})
	case KindAbort:
		value = encodeJSON(r.Abort)
	}
	return key, value, headers
}

// manifestJSON is a Manifest as it is written.
type manifestJSON struct {
	Version     int    `json:"v"`
	Name        string `json:"name"`
	Type        string `json:"type"`
	Size        *int64 `json:"size"` // nil: not there
	Mode        string `json:"mode,omitempty"`
	ModTime     string `json:"mtime,omitempty"`
	Chunk       int64  `json:"chunk,omitempty"`
	Digest      string `json:"digest,omitempty"`
	Compression string `json:"compression,omitempty"`
	Encryption  string `json:"encryption,omitempty"`
	Live        bool   `json:"live,omitempty"`
	From        int64  `json:"from,omitempty"`
	Previous    string `json:"previous,omitempty"`
	Target      string `json:"target,omitempty"`
	Owner       *Owner `json:"owner,omitempty"`
	Xattrs      Xattrs `json:"xattrs,omitempty"`
	RawName     []byte `json:"raw_name,omitempty"`   // name, where it is not in UTF-8
	RawTarget   []byte `json:"raw_target,omitempty"` // target, where it is not in UTF-8
}

func (m *Manifest) wire() manifestJSON {
	w := manifestJSON{
		Version: m.Version, Name: m.Name, Type: m.Type, Size: &m.Size, Mode: m.Mode.String(),
		ModTime: formatTime(m.ModTime), Chunk: m.Chunk, Digest: m.Digest, Compression: m.Compression, Encryption: m.Encryption,
		Live: m.Live, From: m.From, Previous: m.Previous,
		Target: m.Target, Owner: m.Owner, Xattrs: m.Xattrs,
	}
	if !utf8.ValidString(m.Name) {
		w.Name, w.RawName = LegibleName(m.Name), []byte(m.Name)
	}
	if !utf8.ValidString(m.Target) {
		w.Target, w.RawTarget = LegibleName(m.Target), []byte(m.Target)
	}
	if w.Version == 0 {
		w.Version = ManifestVersion
	}
	return w
}

// formatTime is t in RFC 3339, which has years of four digits: a time beyond is
// left out, as an unknown one is.
func formatTime(t time.Time) string {
	t = t.UTC()
	if t.IsZero() || t.Year() < 0 || t.Year() > 9999 {
		return ""
	}
	return t.Format(time.RFC3339Nano)
}

// parseTime is the reverse of formatTime.
func parseTime(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("mtime %q is not a time of RFC 3339", text)
	}
	return t.UTC(), nil
}

func parseManifest(value []byte) (*Manifest, error) {
	var w manifestJSON
	if err := json.Unmarshal(value, &w); err != nil {
		return nil, err
	}
	m := &Manifest{
		Version: w.Version, Name: w.Name, Type: w.Type,
		Chunk: w.Chunk, Digest: w.Digest, Compression: w.Compression, Encryption: w.Encryption,
		Live: w.Live, From: w.From, Previous: w.Previous,
		Target: w.Target, Owner: w.Owner, Xattrs: w.Xattrs,
	}
	if len(m.Xattrs) == 0 {
		m.Xattrs = nil
	}
	if w.RawName != nil {
		m.Name = string(w.RawName)
	}
	if w.RawTarget != nil {
		m.Target = string(w.RawTarget)
	}
	switch {
	case w.Version > ManifestVersion:
		return nil, fmt.Errorf("format version %d is newer than the %d known here: update this mft", w.Version, ManifestVersion)
	case w.Version < 1:
		return nil, fmt.Errorf("format version %d", w.Version)
	case w.Type != TypeFile && w.Type != TypeDir && w.Type != TypeSymlink:
		return nil, fmt.Errorf("type %q is unknown", w.Type)
	case w.Type == TypeSymlink && (m.Target == "" || strings.ContainsRune(m.Target, 0)):
		return nil, fmt.Errorf("it is a link to %q", m.Target)
	case w.RawName != nil && utf8.Valid(w.RawName), w.RawTarget != nil && utf8.Valid(w.RawTarget):
		return nil, fmt.Errorf("its raw_name or raw_target is in UTF-8, and then there must be none")
	case w.Size == nil:
		return nil, fmt.Errorf("no size")
	case *w.Size < SizeUnknown:
		return nil, fmt.Errorf("size %d", *w.Size)
	case w.Chunk < 0:
		return nil, fmt.Errorf("chunk size %d", w.Chunk)
	case w.Live && (w.Type != TypeFile || *w.Size != SizeUnknown):
		return nil, fmt.Errorf("a live %s of %d bytes: only a file of unknown size grows", w.Type, *w.Size)
	case w.From < 0 || w.From > 0 && !w.Live:
		return nil, fmt.Errorf("it goes on at byte %d: only a live file does", w.From)
	}
	m.Size = *w.Size
	if w.Mode != "" {
		mode, err := strconv.ParseUint(w.Mode, 8, 32)
		if err != nil || mode > modeBits {
			return nil, fmt.Errorf("mode %q is not an octal number up to 7777", w.Mode)
		}
		m.Mode = Mode(mode)
	}
	var err error
	m.ModTime, err = parseTime(w.ModTime)
	if err != nil {
		return nil, err
	}
	return m, nil
}

// endJSON is an End as it is written.
type endJSON struct {
	Size    *int64 `json:"size"` // nil: not there
	Digest  string `json:"digest,omitempty"`
	ModTime string `json:"mtime,omitempty"`
}

func parseEnd(value []byte) (*End, error) {
	var w endJSON
	if err := json.Unmarshal(value, &w); err != nil {
		return nil, err
	}
	switch {
	case w.Size == nil:
		return nil, fmt.Errorf("no size")
	case *w.Size < 0:
		return nil, fmt.Errorf("size %d", *w.Size)
	}
	mtime, err := parseTime(w.ModTime)
	if err != nil {
		return nil, err
	}
	return &End{Size: *w.Size, Digest: w.Digest, ModTime: mtime}, nil
}

// encodeJSON encodes a struct of strings and integers without escaping HTML.
func encodeJSON(v any) []byte {
	var out strings.Builder
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(fmt.Sprintf("protocol: strings and integers did not encode: %v", err))
	}
	return []byte(strings.TrimSuffix(out.String(), "\n"))
}
