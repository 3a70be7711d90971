package protocol

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"math/bits"
)

// HeaderSealed marks the records of an encrypted transfer, with the version of
// their form.
const HeaderSealed = "mft.sealed"

const (
	sealedVersion   = "1"
	envelopeVersion = 2 // of the begin record, above ManifestVersion: older readers refuse it by its version
	// CipherXAES is the only value of Envelope.Cipher.
	CipherXAES = "xaes-256-gcm"
	// CompressionZstd is the value of Manifest.Compression for chunks of an
	// encrypted transfer that may be zstd frames.
	CompressionZstd = "zstd"

	chunkHeadBytes = 1 + 8 + 4 + 4
	maxSealedChunk = 64 << 20 // bytes of the file in one chunk
	maxSealedHole  = 1 << 30  // and in one hole
	sealedStep     = 256      // manifests, ends and aborts are filled up to a multiple
	commitBytes    = 32
)

// SealedChunkOverhead is how many bytes longer a sealed chunk is than what is
// in it, without padding.
const SealedChunkOverhead = xaesNonceBytes + chunkHeadBytes + xaesTagBytes

// Envelope is what the begin record of an encrypted transfer tells in clear:
// which key it takes. Beside it the record has the sealed manifest.
type Envelope struct {
	Cipher string // CipherXAES
	Key    KeyID
	KDF    *KDF   // nil: the key is one of a key file
	Commit []byte // follows from key and transfer: tells a wrong key from damage
}

// envelopeJSON is the value of the begin record of an encrypted transfer.
type envelopeJSON struct {
	Version int    `json:"v"`
	Cipher  string `json:"cipher"`
	Key     KeyID  `json:"key"`
	KDF     *KDF   `json:"kdf,omitempty"`
	Commit  []byte `json:"commit"`
	Sealed  []byte `json:"sealed"`
}

func (e *Envelope) encode(sealed []byte) []byte {
	return encodeJSON(envelopeJSON{envelopeVersion, e.Cipher, e.Key, e.KDF, e.Commit, sealed})
}

func parseEnvelope(value []byte) (e *Envelope, sealed []byte, err error) {
	var w envelopeJSON
	if err := json.Unmarshal(value, &w); err != nil {
		return nil, nil, err
	}
	switch {
	case w.Version > envelopeVersion:
		return nil, nil, fmt.Errorf("format version %d is newer than the %d known here: update this mft", w.Version, envelopeVersion)
	case w.Version != envelopeVersion:
		return nil, nil, fmt.Errorf("format version %d, an encrypted transfer has %d", w.Version, envelopeVersion)
	case w.Cipher != CipherXAES:
		return nil, nil, fmt.Errorf("cipher %q is unknown: update this mft", w.Cipher)
	case len(w.Commit) != commitBytes:
		return nil, nil, fmt.Errorf("the commitment to its key has %d bytes instead of %d", len(w.Commit), commitBytes)
	}
	if raw, err := hex.DecodeString(string(w.Key)); err != nil || len(raw) != 8 {
		return nil, nil, fmt.Errorf("key %.32q is no id of a key", string(w.Key))
	}
	return &Envelope{w.Cipher, w.Key, w.KDF, w.Commit}, w.Sealed, nil
}

// transferKey is the key of one transfer, which serves no other.
type transferKey struct {
	id     TransferID
	cipher *xaes
	commit []byte
}

func (k *Key) transfer(id TransferID) (transferKey, error) {
	salt, err := hex.DecodeString(string(id))
	if err != nil || !id.valid() {
		return transferKey{}, fmt.Errorf("%q is no transfer id", id)
	}
	out := derive(k.secret[:], salt, "mft/1/transfer/"+CipherXAES, 32+commitBytes)
	return transferKey{id, newXAES((*[32]byte)(out)), out[32:]}, nil
}

// extra is what a record is bound to beside its key: a record that claims to
// be of another kind or transfer does not open.
func (k *transferKey) extra(kind Kind) []byte { return append([]byte(k.id), kind...) }

// Sealer encrypts the records of one transfer. Every record has a nonce of its
// own, drawn at random, so that also a record that is sealed again, with the
// same content or another, shares it with none. Its methods may be called from
// several goroutines.
//
//	 0        24                                   n-16     n
//	+--------+------------------------------------+--------+
//	| nonce  | ciphertext                         | tag    |
//	+--------+------------------------------------+--------+
//
// The plaintext of a chunk:
//
//	 0       1        9      13       17
//	+-------+--------+------+--------+---------+---------+
//	| flags | offset | size | length | content | zeros   |
//	+-------+--------+------+--------+---------+---------+
//
// flags: 1 the file ends with this chunk, 2 content is a zstd frame, 4 all of
// size is zero and there is no content. offset and size, in bytes, are of the
// file; length is of the content. All numbers
// are big-endian. The plaintext of the other kinds is their JSON, filled up
// with spaces to a multiple of 256 bytes.
//
// Source: docs/encryption.md.
type Sealer struct {
	transferKey
	envelope Envelope
	pad      bool
}

const (
	flagLast = 1 << iota
	flagZstd
	flagHole
)

// NewSealer returns the Sealer of a new transfer. With pad, chunks are filled
// up a little, so that their lengths tell less.
func (k *Key) NewSealer(id TransferID, pad bool) (*Sealer, error) {
	key, err := k.transfer(id)
	if err != nil {
		return nil, err
	}
	return &Sealer{key, Envelope{CipherXAES, k.id, k.kdf, key.commit}, pad}, nil
}

// seal encrypts in place what lies between the room for the nonce and that for
// the tag.
func (s *Sealer) seal(kind Kind, buf []byte) []byte {
	nonce, plain := buf[:xaesNonceBytes], buf[xaesNonceBytes:len(buf)-xaesTagBytes]
	rand.Read(nonce)
	s.cipher.seal(plain[:0], nonce, plain, s.extra(kind))
	return buf
}

// Seal returns the encrypted form of a begin, end or abort, which may be
// encoded and sent.
func (s *Sealer) Seal(r FileRecord) FileRecord {
	r.Transfer = s.id
	_, text, _ := r.Encode()
	sealed := FileRecord{Transfer: s.id, Kind: r.Kind, Sealed: s.sealText(r.Kind, text)}
	if r.Kind == KindBegin {
		sealed.Envelope = &s.envelope
	}
	return sealed
}

// sealText encrypts JSON, filled up so that its length tells less.
func (s *Sealer) sealText(kind Kind, text []byte) []byte {
	fill := -len(text) & (sealedStep - 1)
	buf := make([]byte, xaesNonceBytes+len(text)+fill+xaesTagBytes)
	plain := buf[xaesNonceBytes:]
	for i := copy(plain, text); i < len(text)+fill; i++ {
		plain[i] = ' '
	}
	return s.seal(kind, buf)
}

// Chunk is what SealChunk encrypts.
type Chunk struct {
	Offset int64  // in the file, bytes
	Size   int    // bytes of the file
	Data   []byte // those bytes, or a zstd frame of them
	Zstd   bool   // Data is a frame
	Last   bool   // the file ends with it
	Hole   bool   // there is no Data, all of Size is zero
}

// SealedLen is how many bytes SealChunk makes of a chunk whose Data has n. With
// padding this is more, but no more than it makes of limit bytes; pass n or
// less to have none.
func (s *Sealer) SealedLen(n, limit int) int {
	if s.pad {
		n = max(n, min(padded(n), limit))
	}
	return SealedChunkOverhead + n
}

// SealChunk encrypts a chunk into buf, which has the length that SealedLen gave
// for it and is kept by the record.
func (s *Sealer) SealChunk(buf []byte, c Chunk) FileRecord {
	plain := buf[xaesNonceBytes : len(buf)-xaesTagBytes]
	var flags byte
	if c.Last {
		flags |= flagLast
	}
	if c.Zstd {
		flags |= flagZstd
	}
	if c.Hole {
		flags |= flagHole
	}
	plain[0] = flags
	binary.BigEndian.PutUint64(plain[1:], uint64(c.Offset))
	binary.BigEndian.PutUint32(plain[9:], uint32(c.Size))
	binary.BigEndian.PutUint32(plain[13:], uint32(len(c.Data)))
	clear(plain[chunkHeadBytes+copy(plain[chunkHeadBytes:], c.Data):])
	return FileRecord{Transfer: s.id, Kind: KindChunk, Sealed: s.seal(KindChunk, buf)}
}

// padded rounds a length up so that it tells its order of magnitude and the
// four bits or so after it: by at most an eighth, less for larger ones (Padmé).
func padded(n int) int {
	if n < 2 {
		return n
	}
	e := bits.Len(uint(n)) - 1
	low := e - bits.Len(uint(e))
	mask := 1<<max(low, 0) - 1
	return (n + mask) &^ mask
}

// Opener decrypts the records of one transfer. It is for one goroutine.
type Opener struct {
	transferKey
	ring *Keyring
	zstd bool // its chunks may be compressed
}

// Open decrypts the begin record of an encrypted transfer and returns it with
// what opens the rest. The error is a *KeyError when the key is not there, and a
// *FileRecordError when the record is not what was sealed.
func (r *Keyring) Open(begin FileRecord) (FileRecord, *Opener, error) {
	wrong := func(format string, args ...any) (FileRecord, *Opener, error) {
		return FileRecord{}, nil, &FileRecordError{begin.Transfer, begin.Kind, fmt.Sprintf(format, args...)}
	}
	if begin.Envelope == nil {
		return wrong("it is not encrypted")
	}
	key, err := r.find(begin.Transfer, begin.Envelope)
	if err != nil {
		return FileRecord{}, nil, err
	}
	mine, err := key.transfer(begin.Transfer)
	if err != nil {
		return wrong("%v", err)
	}
	if subtle.ConstantTimeCompare(mine.commit, begin.Envelope.Commit) != 1 {
		return wrong("it was not encrypted with %s for this transfer: it was changed, or copied from another", key)
	}
	o := &Opener{transferKey: mine, ring: r}
	rec, err := o.Open(begin)
	if err != nil {
		return FileRecord{}, nil, err
	}
	switch rec.Manifest.Compression {
	case "", "none":
	case CompressionZstd:
		o.zstd = true
	default:
		return wrong("its chunks are compressed by %q, which is not known here: update this mft", rec.Manifest.Compression)
	}
	return rec, o, nil
}

// Open decrypts a record: what it returns is as ParseFileRecord returns a
// record in clear, and Last is set. It decrypts in place: r.Sealed is lost, and
// Data may alias it. The error is a *FileRecordError.
func (o *Opener) Open(r FileRecord) (FileRecord, error) {
	wrong := func(format string, args ...any) (FileRecord, error) {
		return FileRecord{}, &FileRecordError{o.id, r.Kind, fmt.Sprintf(format, args...)}
	}
	switch {
	case r.Transfer != o.id:
		return wrong("it belongs to transfer %s", r.Transfer)
	case !r.IsSealed():
		return wrong("it is in clear, in an encrypted transfer: somebody else has written it")
	case len(r.Sealed) < xaesNonceBytes+xaesTagBytes:
		return wrong("%d bytes are too few for an encrypted record", len(r.Sealed))
	}
	nonce, sealed := r.Sealed[:xaesNonceBytes], r.Sealed[xaesNonceBytes:]
	plain, err := o.cipher.open(sealed[:0], nonce, sealed, o.extra(r.Kind))
	if err != nil {
		return wrong("it is not as it was encrypted: it was changed, or belongs to another place or transfer")
	}
	out := FileRecord{Transfer: o.id, Kind: r.Kind}
	switch r.Kind {
	case KindBegin:
		out.Manifest, err = parseManifest(plain)
	case KindChunk:
		err = o.chunk(&out, plain)
	case KindEnd:
		out.End, err = parseEnd(plain)
	case KindAbort:
		out.Abort = new(Abort)
		err = json.Unmarshal(plain, out.Abort)
	}
	if err != nil {
		return wrong("%v", err)
	}
	return out, nil
}

// chunk takes the plaintext of a chunk apart.
func (o *Opener) chunk(out *FileRecord, plain []byte) error {
	if len(plain) < chunkHeadBytes {
		return fmt.Errorf("a chunk of %d bytes has no room for its position", len(plain))
	}
	flags, offset := plain[0], binary.BigEndian.Uint64(plain[1:])
	size, length := binary.BigEndian.Uint32(plain[9:]), binary.BigEndian.Uint32(plain[13:])
	content := plain[chunkHeadBytes:]
	switch {
	case flags&^(flagLast|flagZstd|flagHole) != 0:
		return fmt.Errorf("the flags %#x are not known here: update this mft", flags)
	case flags&flagHole != 0 && (flags&flagZstd != 0 || length > 0 || size < 1 || size > maxSealedHole):
		return fmt.Errorf("a hole of %d bytes with %d of content cannot be", size, length)
	case flags&flagHole == 0 && size > maxSealedChunk || uint64(length) > uint64(len(content)):
		return fmt.Errorf("a chunk of %d bytes with %d of content cannot be", size, length)
	case offset > math.MaxInt64-uint64(size):
		return fmt.Errorf("%d bytes at offset %d end beyond what a file can hold", size, offset)
	case len(bytes.TrimLeft(content[length:], "\x00")) > 0:
		return fmt.Errorf("its padding is not empty")
	}
	out.Offset, out.Last = int64(offset), flags&flagLast != 0
	if flags&flagHole != 0 {
		out.Hole = int64(size)
		return nil
	}
	content = content[:length:length]
	switch {
	case flags&flagZstd == 0 && length != size:
		return fmt.Errorf("%d bytes of content for %d of the file", length, size)
	case flags&flagZstd != 0 && !o.zstd:
		return fmt.Errorf("it is compressed, and its manifest says that it is not")
	case flags&flagZstd != 0:
		var err error
		if content, err = o.ring.unzip.DecodeAll(content, make([]byte, 0, size)); err != nil {
			return fmt.Errorf("its content does not decompress: %w", err)
		}
		if len(content) != int(size) {
			return fmt.Errorf("%d bytes of content for %d of the file", len(content), size)
		}
	}
	out.Data = content
	return nil
}
