package producer

import (
	"os"

	"github.com/twmb/franz-go/pkg/kgo"

	"mft/internal/sparse"
	"mft/protocol"
)

const (
	minHole = 64 << 10 // smaller ones are sent as the zeros that they are
	maxHole = 1 << 30  // larger ones are sent in pieces
)

// holes knows which part of a file comes next: bytes, or a hole.
type holes struct {
	file   *os.File
	size   int64
	sparse bool  // there may be any
	data   int64 // up to here, from where next was asked, are bytes
}

// next returns how many bytes from offset on are a hole, 0 for none, or how
// many bytes there are before one, no more than limit. It moves the position of
// a sparse file.
func (h *holes) next(offset, limit int64) (hole, data int64, err error) {
	if !h.sparse {
		return 0, min(limit, h.size-offset), nil
	}
	for h.data < min(offset+limit, h.size) {
		at := max(h.data, offset)
		start, end, err := sparse.Next(h.file, at, h.size)
		if err != nil {
			return 0, 0, err
		}
		if start-at >= minHole || start-at > 0 && start == h.size {
			if at == offset {
				return min(start-at, maxHole), 0, nil
			}
			break
		}
		h.data = max(end, at+1)
	}
	return 0, min(limit, max(h.data, offset+1)-offset, h.size-offset), nil
}

// sendHole sends size bytes of zeros that are not in the file.
func (t *transfer) sendHole(offset, size int64, last bool) {
	r := protocol.FileRecord{Kind: protocol.KindChunk, Offset: offset, Hole: size}
	if t.sealer != nil {
		buf := make([]byte, t.sealer.SealedLen(0, 0))
		r = t.sealer.SealChunk(buf, protocol.Chunk{Offset: offset, Size: int(size), Hole: true, Last: last})
	}
	t.produceChunk(t.record(r), offset, func(rec *kgo.Record, err error) {
		t.run.settled(err)
		if err != nil {
			return
		}
		if t.resumed != nil {
			t.resumed.acked(offset, offset+size, rec.Offset)
		}
		t.acked.Add(size)
		t.run.tell(func(_ *Summary, events *Events) {
			if events.Advance != nil {
				events.Advance(string(t.id), size)
			}
		})
	})
}
