package protocol

import (
	"bufio"
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/crypto/argon2"
)

// Key encrypts transfers. It comes from a key file or from a passphrase. A key
// is never printed: its String names its id.
type Key struct {
	secret [32]byte
	id     KeyID
	kdf    *KDF // how it was made of a passphrase; nil for one of a key file
}

// KeyID names a key without telling anything about it: 16 lower-case hex
// digits that follow from the key.
type KeyID string

// NewKey draws a key.
func NewKey() *Key {
	var secret [32]byte
	rand.Read(secret[:]) // never fails: see crypto/rand
	return keyOf(secret, nil)
}

func keyOf(secret [32]byte, kdf *KDF) *Key {
	return &Key{secret, KeyID(hex.EncodeToString(derive(secret[:], nil, "mft/1/key-id", 8))), kdf}
}

// derive is HKDF-SHA-256.
func derive(secret, salt []byte, info string, n int) []byte {
	out, err := hkdf.Key(sha256.New, secret, salt, info, n)
	if err != nil {
		panic("protocol: HKDF does not give so many bytes: " + err.Error()) // only for more than 8160
	}
	return out
}

// ID is the key's id.
func (k *Key) ID() KeyID { return k.id }

// KDF is how the key was made of a passphrase, nil for one of a key file.
func (k *Key) KDF() *KDF { return k.kdf }

// String names the key by its id.
func (k *Key) String() string { return "key " + string(k.id) }

// GoString keeps %#v from printing the secret.
func (k *Key) GoString() string { return k.String() }

// keyPrefix begins the line of a key in a key file, with its version.
const keyPrefix = "mft-key-1"

// FileText is the text of a key file with this key alone:
//
//	# mft key 1f0c..., made 2026-02-03T04:05:06Z: whoever has it reads the files
//	mft-key-1:<id, 16 hex digits>:<secret, 32 bytes in base64url without padding>
//
// Several files may be joined into one; lines with # and empty ones are
// comments. The id follows from the secret, so a mistyped line is noticed.
func (k *Key) FileText(made time.Time) []byte {
	return fmt.Appendf(nil, "# mft key %s, made %s: whoever has it reads the files\n%s:%s:%s\n", k.id,
		made.UTC().Format(time.RFC3339), keyPrefix, k.id, base64.RawURLEncoding.EncodeToString(k.secret[:]))
}

// ParseKeys reads the text of a key file: one or more keys, in their order.
// Its errors name the line, and nothing of what is in it.
func ParseKeys(text []byte) ([]*Key, error) {
	var keys []*Key
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		version, rest, _ := strings.Cut(line, ":")
		id, secret, ok := strings.Cut(rest, ":")
		switch {
		case version != keyPrefix && strings.HasPrefix(version, "mft-key-"):
			return nil, fmt.Errorf("line %d: a key of a newer version than is known here: update this mft", n)
		case version != keyPrefix || !ok:
			return nil, fmt.Errorf("line %d is no key: a key begins with %s:", n, keyPrefix)
		}
		raw, err := base64.RawURLEncoding.Strict().DecodeString(secret)
		if err != nil || len(raw) != 32 {
			return nil, fmt.Errorf("line %d: the key is cut or mistyped: copy the file again", n)
		}
		key := keyOf([32]byte(raw), nil)
		if string(key.id) != id {
			return nil, fmt.Errorf("line %d: the key does not belong to its id %.16q, one of them is mistyped: copy the file again", n, id)
		}
		keys = append(keys, key)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("this is no key file: %w", err)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("there is no key in it: make one with 'mft-admin keygen'")
	}
	return keys, nil
}

// KDF says how a key is made of a passphrase. It is not secret: an encrypted
// transfer carries it in clear.
type KDF struct {
	Name    string `json:"name"` // "argon2id", version 1.3 (RFC 9106)
	Salt    []byte `json:"salt"` // 16 random bytes
	Time    uint32 `json:"t"`    // passes
	Memory  uint32 `json:"m"`    // KiB
	Threads uint8  `json:"p"`
}

// What NewKDF asks for is the second choice that RFC 9106 recommends: 64 MiB.
// A reader does more if asked, within bounds: whoever writes to the topic can
// ask.
const (
	kdfArgon2id   = "argon2id"
	kdfMaxTime    = 16
	kdfMaxMemory  = 256 << 10 // KiB
	kdfMaxThreads = 16
	kdfSaltBytes  = 16
)

// NewKDF draws a salt for new transfers.
func NewKDF() KDF {
	k := KDF{Name: kdfArgon2id, Salt: make([]byte, kdfSaltBytes), Time: 3, Memory: 64 << 10, Threads: 4}
	rand.Read(k.Salt)
	return k
}

func (k *KDF) check() error {
	switch {
	case k.Name != kdfArgon2id:
		return fmt.Errorf("its passphrase is used by %q, which is not known here: update this mft", k.Name)
	case len(k.Salt) < kdfSaltBytes || len(k.Salt) > 64,
		k.Time < 1 || k.Time > kdfMaxTime, k.Threads < 1 || k.Threads > kdfMaxThreads,
		k.Memory < 8*uint32(k.Threads) || k.Memory > kdfMaxMemory:
		return fmt.Errorf("its passphrase is used in a way that asks for too much, or nothing: t=%d m=%d p=%d", k.Time, k.Memory, k.Threads)
	}
	return nil
}

// PassphraseKey makes a key of a passphrase, which takes a good part of a
// second and k.Memory. White space around the passphrase is no part of it.
func PassphraseKey(passphrase []byte, k KDF) (*Key, error) {
	passphrase = bytes.TrimSpace(passphrase)
	if len(passphrase) == 0 {
		return nil, fmt.Errorf("the passphrase is empty")
	}
	if err := k.check(); err != nil {
		return nil, err
	}
	secret := argon2.IDKey(passphrase, k.Salt, k.Time, k.Memory, k.Threads, 32)
	return keyOf([32]byte(secret), &k), nil
}

// KeyError tells that the key of a transfer is not at hand. The transfer may
// be in order.
type KeyError struct {
	Transfer   TransferID
	Key        KeyID
	Passphrase bool // it is encrypted with a passphrase, not with a key file
	Given      int  // keys and passphrases that were tried
}

func (e *KeyError) Error() string {
	with, flag := "the key "+string(e.Key), "--decrypt-key FILE"
	if e.Passphrase {
		with, flag = "a passphrase (key "+string(e.Key)+")", "--decrypt-passphrase-file FILE"
	}
	if e.Given == 0 {
		return fmt.Sprintf("it is encrypted with %s, and no key is given: name it with %s", with, flag)
	}
	return fmt.Sprintf("it is encrypted with %s, which is none of the %d given: name it with %s", with, e.Given, flag)
}

// Keyring holds the keys and passphrases that transfers may be encrypted with.
// Its methods may be called from several goroutines.
type Keyring struct {
	keys        map[KeyID]*Key
	passphrases [][]byte
	unzip       *zstd.Decoder

	mu   sync.Mutex
	made map[string][]*Key // of the passphrases, by KDF
}

// maxMadeKeys bounds the memory for keys made of passphrases.
const maxMadeKeys = 256

// NewKeyring makes a Keyring; both lists may be empty.
func NewKeyring(keys []*Key, passphrases [][]byte) (*Keyring, error) {
	unzip, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxSealedChunk), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, err
	}
	r := &Keyring{keys: make(map[KeyID]*Key), passphrases: passphrases, unzip: unzip, made: make(map[string][]*Key)}
	for _, k := range keys {
		r.keys[k.id] = k
	}
	return r, nil
}

// Empty tells whether there is nothing in it. A nil Keyring is empty.
func (r *Keyring) Empty() bool { return r == nil || len(r.keys)+len(r.passphrases) == 0 }

// find returns the key of an envelope.
func (r *Keyring) find(id TransferID, e *Envelope) (*Key, error) {
	missing := &KeyError{Transfer: id, Key: e.Key, Passphrase: e.KDF != nil}
	if r.Empty() {
		return nil, missing
	}
	missing.Given = len(r.keys) + len(r.passphrases)
	if e.KDF == nil {
		if k := r.keys[e.Key]; k != nil {
			return k, nil
		}
		return nil, missing
	}
	if err := e.KDF.check(); err != nil {
		return nil, &FileRecordError{id, KindBegin, err.Error()}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	how := fmt.Sprintf("%x %d %d %d", e.KDF.Salt, e.KDF.Time, e.KDF.Memory, e.KDF.Threads)
	made, ok := r.made[how]
	if !ok {
		for _, passphrase := range r.passphrases {
			k, err := PassphraseKey(passphrase, *e.KDF)
			if err != nil {
				return nil, &FileRecordError{id, KindBegin, err.Error()}
			}
			made = append(made, k)
		}
		if len(r.made) >= maxMadeKeys {
			clear(r.made)
		}
		r.made[how] = made
	}
	for _, k := range made {
		if k.id == e.Key {
			return k, nil
		}
	}
	return nil, missing
}
