package protocol

import (
	"bytes"
	"crypto/sha3"
	"encoding/hex"
	"testing"
)

// The test vectors of c2sp.org/XAES-256-GCM.
func TestXAESVectors(t *testing.T) {
	nonce := []byte("ABCDEFGHIJKLMNOPQRSTUVWX")
	plain := []byte("XAES-256-GCM")
	for _, v := range []struct {
		key             byte // repeated
		k1, extra, want string
	}{
		{1, "e531954aca063d5b8d9c47a47d4cc6f0", "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"},
		{3, "23810ec50edb99f374409466ed1f4b7b", "c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"},
	} {
		x := newXAES((*[32]byte)(bytes.Repeat([]byte{v.key}, 32)))
		if got := hex.EncodeToString(x.k1[:]); got != v.k1 {
			t.Errorf("K1 is %s, want %s", got, v.k1)
		}
		sealed := x.seal(nil, nonce, plain, []byte(v.extra))
		if got := hex.EncodeToString(sealed); got != v.want {
			t.Errorf("sealed %s, want %s", got, v.want)
		}
		opened, err := x.open(nil, nonce, sealed, []byte(v.extra))
		if err != nil || !bytes.Equal(opened, plain) {
			t.Errorf("opened %q, %v", opened, err)
		}
	}
}

// The accumulated test of the same page: 10,000 messages of pseudo-random
// keys, nonces, plaintexts and extra data.
func TestXAESAccumulated(t *testing.T) {
	draw, sum := sha3.NewSHAKE128(), sha3.NewSHAKE128()
	read := func(n int) []byte {
		b := make([]byte, n)
		draw.Read(b)
		return b
	}
	for range 10_000 {
		key, nonce := read(32), read(24)
		plain := read(int(read(1)[0]))
		extra := read(int(read(1)[0]))
		x := newXAES((*[32]byte)(key))
		sealed := x.seal(nil, nonce, plain, extra)
		sum.Write(sealed)
		opened, err := x.open(nil, nonce, sealed, extra)
		if err != nil || !bytes.Equal(opened, plain) {
			t.Fatalf("opened %x, %v; want %x", opened, err, plain)
		}
	}
	var got [32]byte
	sum.Read(got[:])
	if want := "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"; hex.EncodeToString(got[:]) != want {
		t.Errorf("sum %x, want %s", got, want)
	}
}
