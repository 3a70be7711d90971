package protocol

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

// pageRecords are the records of the transfer in docs/encryption.md as they
// are sent, with nonces that are not drawn, and what they say.
func pageRecords(t *testing.T, key *Key) (sealed []wireRecord, clear []FileRecord) {
	t.Helper()
	s, err := key.NewSealer(someTransfer, true)
	if err != nil {
		t.Fatal(err)
	}
	text := []byte("hello, world\n")
	clear = []FileRecord{
		{Kind: KindBegin, Manifest: &Manifest{Version: 1, Name: "docs/hello.txt", Type: TypeFile, Size: 13, Mode: 0o644,
			ModTime: time.Date(2026, 2, 3, 4, 5, 6, 789e6, time.UTC), Chunk: 8, Digest: DigestXXH3}},
		{Kind: KindChunk, Offset: 0, Data: text[:8]},
		{Kind: KindChunk, Offset: 8, Data: text[8:], Last: true},
		{Kind: KindEnd, End: &End{Size: 13, Digest: "aef7d73364a11a632fc4faefcc422cb8"}},
	}
	for i := range clear {
		r := &clear[i]
		r.Transfer = someTransfer
		var out FileRecord
		if r.Kind == KindChunk {
			out = s.SealChunk(make([]byte, s.SealedLen(len(r.Data), 8)), Chunk{Offset: r.Offset, Size: len(r.Data), Data: r.Data, Last: r.Last})
		} else {
			out = s.Seal(*r)
		}
		drawn, nonce := out.Sealed[:xaesNonceBytes], fmt.Appendf(nil, "the nonce of record no %d", i)
		plain, err := s.cipher.open(nil, drawn, out.Sealed[xaesNonceBytes:], s.extra(r.Kind))
		if err != nil {
			t.Fatal(err)
		}
		out.Sealed = s.cipher.seal(nonce, nonce, plain, s.extra(r.Kind))
		sealed = append(sealed, onWire(out))
	}
	return sealed, clear
}

// TestEncryptionPage reads the test vectors of docs/encryption.md as another
// implementation would, and compares them with what this one makes.
func TestEncryptionPage(t *testing.T) {
	page, err := os.ReadFile("../docs/encryption.md")
	if err != nil {
		t.Fatal(err)
	}
	vector := make(map[string][]string)
	for _, m := range regexp.MustCompile(`(?m)^([a-z][a-z ]+[a-z]): +(\S.*)$`).FindAllStringSubmatch(string(page), -1) {
		vector[m[1]] = append(vector[m[1]], m[2])
	}
	one := func(name string) string {
		if len(vector[name]) != 1 {
			t.Fatalf("the page has %d lines %q", len(vector[name]), name)
		}
		return vector[name][0]
	}
	equal := func(name, got string) {
		t.Helper()
		if want := one(name); got != want {
			t.Errorf("%s: the page has\n%s\nmft makes\n%s", name, want, got)
		}
	}
	keys, err := ParseKeys([]byte(one("key file")))
	if err != nil {
		t.Fatal(err)
	}
	key := keys[0]
	transfer, err := key.transfer(TransferID(one("transfer id")))
	if err != nil {
		t.Fatal(err)
	}
	equal("key id", string(key.ID()))
	equal("key commitment", hex.EncodeToString(transfer.commit))
	equal("transfer key", hex.EncodeToString(derive(key.secret[:], []byte("\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff"), "mft/1/transfer/xaes-256-gcm", 64)[:32]))

	sealed, clear := pageRecords(t, key)
	var values []string
	for _, w := range sealed {
		if w.value[0] == '{' {
			values = append(values, string(w.value))
		} else {
			values = append(values, hex.EncodeToString(w.value))
		}
	}
	equal("begin value", values[0])
	equal("first chunk", values[1])
	equal("last chunk", values[2])
	equal("end value", values[3])
	for i, name := range []string{"begin value", "first chunk", "last chunk", "end value"} {
		value := []byte(one(name))
		if i > 0 {
			if value, err = hex.DecodeString(one(name)); err != nil {
				t.Fatal(err)
			}
		}
		sealed[i].value = value
	}
	if got, err := openAll(ring(t, keys), sealed); err != nil || !reflect.DeepEqual(got, clear) {
		t.Errorf("the page's records say %+v, %v", got, err)
	}

	r := someReceipt()
	receipt := transfer.SealReceipt(r)
	plain, err := transfer.cipher.open(nil, receipt.Sealed[:xaesNonceBytes], receipt.Sealed[xaesNonceBytes:], transfer.extra(KindReceipt))
	if err != nil {
		t.Fatal(err)
	}
	nonce := []byte("the nonce of record no 4")
	receipt.Sealed = transfer.cipher.seal(nonce, nonce, plain, transfer.extra(KindReceipt))
	_, value, headers := receipt.Encode()
	equal("receipt value", string(value))
	parsed, err := ParseReceipt([]byte(someTransfer), []byte(one("receipt value")), headers)
	if err != nil {
		t.Fatal(err)
	}
	if opened, err := key.OpenReceipt(parsed); err != nil || !reflect.DeepEqual(opened, r) {
		t.Errorf("the page's receipt says %+v, %v", opened, err)
	}

	salt, err := hex.DecodeString(one("salt"))
	if err != nil {
		t.Fatal(err)
	}
	made, err := PassphraseKey([]byte(one("passphrase")), KDF{Name: kdfArgon2id, Salt: salt, Time: 3, Memory: 64 << 10, Threads: 4})
	if err != nil {
		t.Fatal(err)
	}
	equal("passphrase key", hex.EncodeToString(made.secret[:]))
	equal("passphrase key id", string(made.ID()))
	if !bytes.Contains(page, []byte(HeaderSealed)) || !strings.Contains(string(page), CipherXAES) {
		t.Error("the page names neither the header nor the cipher")
	}
}
