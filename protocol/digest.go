package protocol

import (
	"crypto/sha256"
	"fmt"
	"hash"

	"github.com/zeebo/blake3"
	"github.com/zeebo/xxh3"
)

// Kinds of digests of a whole file, as named in a Manifest and by --digest.
const (
	DigestXXH3   = "xxh3-128" // the default: finds damage, not forgery
	DigestSHA256 = "sha256"
	DigestBLAKE3 = "blake3" // 256 bits
)

// NewDigest returns a hash of the given kind; "" is DigestXXH3. Sums are in the
// byte order in which the tools of each kind print them (xxhsum -H2, sha256sum, b3sum).
func NewDigest(kind string) (hash.Hash, error) {
	switch kind {
	case DigestXXH3, "":
		return xxh3.New128(), nil
	case DigestSHA256:
		return sha256.New(), nil
	case DigestBLAKE3:
		return blake3.New(), nil
	}
	return nil, fmt.Errorf("digest %q is unknown: use %s, %s or %s", kind, DigestXXH3, DigestSHA256, DigestBLAKE3)
}
