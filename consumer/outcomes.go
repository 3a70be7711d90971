package consumer

import (
	"sync"

	"mft/protocol"
)

// outcome is what became of a transfer.
type outcome int8

const (
	unknown outcome = iota // not heard of, or too long ago
	placed                 // it is in place, or on its way there: whatever is repeated of it is ignored
	gone                   // it made no file; the sender may begin it anew under the same id
)

// outcomes remembers the last transfers that are done with. Its methods may be
// called from several goroutines.
type outcomes struct {
	mu   sync.Mutex
	of   map[protocol.TransferID]outcome
	ring []protocol.TransferID // in the order in which they were added
	next int                   // the one in ring to be replaced
}

func newOutcomes(n int) *outcomes {
	return &outcomes{of: make(map[protocol.TransferID]outcome), ring: make([]protocol.TransferID, n)}
}

func (o *outcomes) add(id protocol.TransferID, what outcome) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.of[id] == unknown {
		delete(o.of, o.ring[o.next])
		o.ring[o.next] = id
		o.next = (o.next + 1) % len(o.ring)
	}
	o.of[id] = what
}

func (o *outcomes) get(id protocol.TransferID) outcome {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.of[id]
}
