package protocol

import (
	"crypto/aes"
	"crypto/cipher"
)

const (
	xaesNonceBytes = 24
	xaesTagBytes   = 16
)

// xaes is XAES-256-GCM: AES-256-GCM with nonces long enough to be drawn at
// random without end. Half of the nonce makes a key for this one message, the
// other half is the nonce that it is used with. It is safe for concurrent use.
//
// Source: c2sp.org/XAES-256-GCM, whose test vectors are in the tests.
type xaes struct {
	block cipher.Block        // of the key
	k1    [aes.BlockSize]byte // CMAC's first subkey
}

func newXAES(key *[32]byte) *xaes {
	x := &xaes{block: aesBlock(key[:])}
	x.block.Encrypt(x.k1[:], x.k1[:])
	carry := byte(0)
	for i := len(x.k1) - 1; i >= 0; i-- {
		carry, x.k1[i] = x.k1[i]>>7, x.k1[i]<<1|carry
	}
	if carry != 0 {
		x.k1[len(x.k1)-1] ^= 0b10000111
	}
	return x
}

// message returns the AES-256-GCM for one message, and its nonce.
func (x *xaes) message(nonce []byte) (gcm cipher.AEAD, short []byte) {
	var key [32]byte
	for i := range 2 {
		half := key[i*aes.BlockSize:][:aes.BlockSize]
		copy(half, []byte{0, byte(i + 1), 'X', 0})
		copy(half[4:], nonce[:12])
		for j := range half {
			half[j] ^= x.k1[j]
		}
		x.block.Encrypt(half, half)
	}
	gcm, err := cipher.NewGCM(aesBlock(key[:]))
	if err != nil {
		panic("protocol: AES has no GCM: " + err.Error()) // only for blocks of another size
	}
	return gcm, nonce[12:]
}

// seal appends the ciphertext and the tag to dst, which may be plain[:0].
func (x *xaes) seal(dst, nonce, plain, extra []byte) []byte {
	gcm, short := x.message(nonce)
	return gcm.Seal(dst, short, plain, extra)
}

// open appends the plaintext to dst, which may be sealed[:0]. What is at sealed
// is lost when it fails.
func (x *xaes) open(dst, nonce, sealed, extra []byte) ([]byte, error) {
	gcm, short := x.message(nonce)
	return gcm.Open(dst, short, sealed, extra)
}

// aesBlock is the cipher of a key of 32 bytes.
func aesBlock(key []byte) cipher.Block {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("protocol: AES takes no key of 32 bytes: " + err.Error())
	}
	return block
}
