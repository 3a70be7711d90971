package protocol

import (
	"encoding/json"
	"fmt"
	"time"
)

// ReceiptsSuffix makes the name of the topic that holds the receipts of a
// topic: "files.receipts" for "files".
const ReceiptsSuffix = ".receipts"

// KindReceipt is the kind of the records in a topic of receipts.
const KindReceipt Kind = "receipt"

// ReceiptVersion is the version of a receipt that this package writes and the newest it reads.
const ReceiptVersion = 1

// ReceiptState is what became of a transfer at a receiver.
type ReceiptState string

const (
	StateDelivered ReceiptState = "delivered" // the file is under its name, on stable storage unless Unsynced
	StateFailed    ReceiptState = "failed"    // it is not: refused, damaged, or incomplete
	StateSkipped   ReceiptState = "skipped"   // it is not, and that is no mistake: it was not wanted
)

// Receipt is what a receiver says of one transfer, in the receipts topic.
//
//	 key          headers             value
//	+------------+-------------------+-----------------------------------------+
//	| transfer   | mft.kind: receipt | JSON                                    |
//	| id, 32 hex |                   |                                         |
//	|            | mft.sealed: 1     | JSON, names, sizes and reasons encrypted |
//	+------------+-------------------+-----------------------------------------+
//
// Source: docs/file-streams.md, docs/encryption.md.
type Receipt struct {
	Transfer TransferID
	State    ReceiptState
	Group    string    // consumer group of the receiver
	Host     string    // its machine; "": not known
	Client   string    // its client id
	Time     time.Time // when it was in place, or given up

	// Of an encrypted transfer, what follows is in Sealed until it is opened.

	Type       string // TypeFile or TypeDir; "": not known
	Name       string // as in the manifest; "": not known
	Path       string // where it was placed, as the receiver's system writes paths; "": nowhere
	Size       int64  // bytes; SizeUnknown
	DigestKind string // see NewDigest; "": no digest
	Digest     string // that the receiver computed, lower-case hex
	Reason     string // of what is not delivered, for people
	Unsynced   bool   // of what is delivered: the receiver did not wait for the disk

	Sealed []byte // nil: it is in clear, or was opened
}

// IsSealed tells whether the receipt is encrypted still.
func (r *Receipt) IsSealed() bool { return r.Sealed != nil }

// receiptJSON is a Receipt as it is written.
type receiptJSON struct {
	Version    int          `json:"v"`
	Transfer   TransferID   `json:"transfer"`
	State      ReceiptState `json:"state"`
	Group      string       `json:"group"`
	Host       string       `json:"host,omitempty"`
	Client     string       `json:"client,omitempty"`
	Time       string       `json:"at"`
	Type       string       `json:"type,omitempty"`
	Name       string       `json:"name,omitempty"`
	Path       string       `json:"path,omitempty"`
	Size       *int64       `json:"size,omitempty"`
	DigestKind string       `json:"digest_kind,omitempty"`
	Digest     string       `json:"digest,omitempty"`
	Reason     string       `json:"reason,omitempty"`
	Unsynced   bool         `json:"unsynced,omitempty"`
	Sealed     []byte       `json:"sealed,omitempty"`
}

func (r *Receipt) wire() receiptJSON {
	w := receiptJSON{
		Version: ReceiptVersion, Transfer: r.Transfer, State: r.State, Group: r.Group, Host: r.Host, Client: r.Client,
		Time: r.Time.UTC().Format(time.RFC3339Nano), Type: r.Type, Name: LegibleName(r.Name), Path: LegibleName(r.Path),
		DigestKind: r.DigestKind, Digest: r.Digest, Reason: r.Reason, Unsynced: r.Unsynced,
	}
	if r.Size >= 0 {
		w.Size = &r.Size
	}
	return w
}

// Encode makes the record of a receipt: in clear, or as it was sealed.
func (r *Receipt) Encode() (key, value []byte, headers []Header) {
	w := r.wire()
	if r.IsSealed() {
		w = receiptJSON{Version: w.Version, Transfer: w.Transfer, State: w.State, Group: w.Group, Host: w.Host, Client: w.Client, Time: w.Time, Sealed: r.Sealed}
	}
	return []byte(r.Transfer), encodeJSON(w), ReceiptHeaders(r.IsSealed())
}

// ReceiptHeaders are the headers of a receipt's record.
func ReceiptHeaders(sealed bool) []Header {
	headers := []Header{{HeaderKind, []byte(KindReceipt)}}
	if sealed {
		headers = append(headers, Header{HeaderSealed, []byte(sealedVersion)})
	}
	return headers
}

// ParseReceipt reads a record of a receipts topic. Of one that is encrypted it
// gives what is in clear, and Sealed. Unknown headers and fields are ignored.
func ParseReceipt[H ~struct {
	Key   string
	Value []byte
}](key, value []byte, headers []H) (Receipt, error) {
	wrong := func(format string, args ...any) (Receipt, error) {
		return Receipt{}, fmt.Errorf("receipt of transfer %.32q: %s", key, fmt.Sprintf(format, args...))
	}
	var kind, sealed []byte
	for _, h := range headers {
		switch h := Header(h); h.Key {
		case HeaderKind:
			kind = h.Value
		case HeaderSealed:
			sealed = h.Value
		}
	}
	switch {
	case Kind(kind) != KindReceipt:
		return Receipt{}, &NotFileRecordError{}
	case sealed != nil && string(sealed) != sealedVersion:
		return wrong("it is encrypted in form %.16q, which is not known here: update this mft", sealed)
	}
	r, err := parseReceipt(value)
	switch {
	case err != nil:
		return wrong("%v", err)
	case r.Transfer != TransferID(key):
		return wrong("it speaks of transfer %.32q", r.Transfer)
	case r.IsSealed() != (sealed != nil):
		return wrong("what is encrypted of it and its %s header disagree", HeaderSealed)
	}
	return r, nil
}

func parseReceipt(value []byte) (Receipt, error) {
	var w receiptJSON
	if err := json.Unmarshal(value, &w); err != nil {
		return Receipt{}, err
	}
	switch {
	case w.Version > ReceiptVersion:
		return Receipt{}, fmt.Errorf("format version %d is newer than the %d known here: update this mft", w.Version, ReceiptVersion)
	case w.Version < 1:
		return Receipt{}, fmt.Errorf("format version %d", w.Version)
	case !w.Transfer.valid():
		return Receipt{}, fmt.Errorf("the transfer is not an id of 32 lower-case hex digits")
	case w.State == "":
		return Receipt{}, fmt.Errorf("no state")
	case w.Size != nil && *w.Size < 0:
		return Receipt{}, fmt.Errorf("size %d", *w.Size)
	}
	at, err := time.Parse(time.RFC3339Nano, w.Time)
	if err != nil {
		return Receipt{}, fmt.Errorf("%.40q is not a time of RFC 3339", w.Time)
	}
	r := Receipt{
		Transfer: w.Transfer, State: w.State, Group: w.Group, Host: w.Host, Client: w.Client, Time: at.UTC(),
		Type: w.Type, Name: rawName(w.Name), Path: rawName(w.Path), Size: SizeUnknown, DigestKind: w.DigestKind, Digest: w.Digest, Reason: w.Reason,
		Unsynced: w.Unsynced, Sealed: w.Sealed,
	}
	if w.Size != nil {
		r.Size = *w.Size
	}
	return r, nil
}

// SealReceipt encrypts what a receipt of this transfer tells beyond what the
// broker knows anyway. All of the receipt is in what is sealed, so what stands
// beside it in clear cannot be changed unnoticed.
func (k *transferKey) SealReceipt(r Receipt) Receipt {
	r.Transfer, r.Sealed = k.id, nil
	s := Sealer{transferKey: *k}
	text := encodeJSON(r.wire())
	r.Sealed = s.sealText(KindReceipt, text)
	return Receipt{Transfer: r.Transfer, State: r.State, Group: r.Group, Host: r.Host, Client: r.Client, Time: r.Time, Size: SizeUnknown, Sealed: r.Sealed}
}

// OpenReceipt decrypts a receipt of this transfer, and checks that it says in
// clear what it says encrypted.
func (k *transferKey) OpenReceipt(r Receipt) (Receipt, error) {
	wrong := func(text string) (Receipt, error) {
		return Receipt{}, fmt.Errorf("receipt of transfer %s: %s", r.Transfer, text)
	}
	switch {
	case !r.IsSealed():
		return wrong("it is in clear, and its transfer is encrypted: somebody else may have written it")
	case r.Transfer != k.id:
		return wrong("it belongs to another transfer")
	case len(r.Sealed) < xaesNonceBytes+xaesTagBytes:
		return wrong("it is too short to be encrypted")
	}
	nonce, sealed := r.Sealed[:xaesNonceBytes], r.Sealed[xaesNonceBytes:]
	plain, err := k.cipher.open(nil, nonce, sealed, k.extra(KindReceipt))
	if err != nil {
		return wrong("it is not as it was encrypted: it was changed, or somebody without the key has written it")
	}
	out, err := parseReceipt(plain)
	if err != nil {
		return wrong(err.Error())
	}
	if out.IsSealed() || out.Transfer != r.Transfer || out.State != r.State || out.Group != r.Group ||
		out.Host != r.Host || out.Client != r.Client || !out.Time.Equal(r.Time) {
		return wrong("it says something else in clear than encrypted: it was changed")
	}
	return out, nil
}

// OpenReceipt decrypts a receipt of a transfer that was encrypted with this key.
func (k *Key) OpenReceipt(r Receipt) (Receipt, error) {
	t, err := k.transfer(r.Transfer)
	if err != nil {
		return Receipt{}, err
	}
	return t.OpenReceipt(r)
}

// Raw is the id's 16 bytes, which take less memory; false when it is not one.
func (id TransferID) Raw() (raw [16]byte, ok bool) {
	if !id.valid() {
		return raw, false
	}
	digit := func(c byte) byte { return c - '0' - (c>>6)*('a'-'0'-10) }
	for i := range raw {
		raw[i] = digit(id[2*i])<<4 | digit(id[2*i+1])
	}
	return raw, true
}
