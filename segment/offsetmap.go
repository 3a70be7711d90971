package segment

import (
	"crypto/sha256"
	"encoding/binary"
)

// offsetMap notes the last offset of each key in a bounded amount of memory: it holds 16 bytes of the keys' SHA-256, so that keys of any
// length take the same room, and nobody can make two keys that are taken for one.
type offsetMap struct {
	slots []offsetSlot
	used  int
	limit int // of used: beyond, looking up takes long
}

type offsetSlot struct {
	hash [16]byte
	next int64 // the offset plus one; 0: the slot is free
}

const offsetSlotLen = 24

func newOffsetMap(bytes int) *offsetMap {
	n := max(bytes/offsetSlotLen, 4)
	return &offsetMap{slots: make([]offsetSlot, n), limit: n * 3 / 4}
}

// slot returns where the key is or would be.
func (m *offsetMap) slot(key []byte) (*offsetSlot, [16]byte) {
	sum := sha256.Sum256(key)
	hash := [16]byte(sum[:16])
	for i := int(binary.BigEndian.Uint64(hash[:]) % uint64(len(m.slots))); ; {
		if s := &m.slots[i]; s.next == 0 || s.hash == hash {
			return s, hash
		}
		if i++; i == len(m.slots) {
			i = 0
		}
	}
}

// put notes an offset of a key; offsets must ascend. It is false when there is no room.
func (m *offsetMap) put(key []byte, offset int64) bool {
	s, hash := m.slot(key)
	if s.next == 0 {
		if m.used >= m.limit {
			return false
		}
		m.used++
		s.hash = hash
	}
	s.next = offset + 1
	return true
}

// last returns the key's last offset, -1 when it has none.
func (m *offsetMap) last(key []byte) int64 {
	s, _ := m.slot(key)
	return s.next - 1
}

func (m *offsetMap) clear() {
	clear(m.slots)
	m.used = 0
}
