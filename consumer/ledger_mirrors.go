package consumer

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
)

// ledgerMirror is a live transfer in a ledger.
//
// Invariant: what its records before held say is durable here. So as long as
// it has none that is not, it holds back nothing, however long it is open.
type ledgerMirror struct {
	held    int64 // offset of its first record that is not durable; noneHeld: all are
	epoch   int32 // leader epoch of that record
	durable int64 // offset after its last record that is
}

const noneHeld = math.MaxInt64

// mirrorPoint is how far an open mirror is, as a commit notes it.
type mirrorPoint struct {
	begin   int64 // offset of its begin record
	durable int64 // offset after its last record that is durable in the file
}

// openMirror enters a live transfer, or notes that it is durable up to an offset.
func (l *ledger) openMirror(p mirrorPoint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mirrors == nil {
		l.mirrors = make(map[int64]*ledgerMirror)
	}
	m := l.mirrors[p.begin]
	if m == nil {
		m = &ledgerMirror{held: noneHeld}
		l.mirrors[p.begin] = m
	}
	m.durable = max(m.durable, p.durable)
}

// hold keeps the point to commit at or below a record of a mirror.
func (l *ledger) hold(begin, offset int64, epoch int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m := l.mirrors[begin]; m != nil && offset < m.held {
		m.held, m.epoch = offset, epoch
	}
}

// release tells that a mirror is durable up to an offset; held is that of its
// first record that is not, or noneHeld.
func (l *ledger) release(begin, durable, held int64, epoch int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m := l.mirrors[begin]; m != nil {
		m.durable = max(m.durable, durable)
		m.held, m.epoch = held, epoch
	}
	l.trim()
}

// closeMirror tells that a live transfer needs nothing more.
func (l *ledger) closeMirror(begin int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.mirrors, begin)
	l.trim()
}

// held is the least offset that a mirror holds back.
func (l *ledger) held() (offset int64, epoch int32) {
	offset, epoch = noneHeld, -1
	for _, m := range l.mirrors {
		if m.held < offset {
			offset, epoch = m.held, m.epoch
		}
	}
	return offset, epoch
}

// openMirrors lists the mirrors that began before a committed offset.
func (l *ledger) openMirrors(committed int64) []mirrorPoint {
	var list []mirrorPoint
	for begin, m := range l.mirrors {
		if begin < committed {
			list = append(list, mirrorPoint{begin, m.durable})
		}
	}
	slices.SortFunc(list, func(a, b mirrorPoint) int { return cmp.Compare(b.begin, a.begin) }) // the latest first
	return list
}

// maxMirrorsBytes is what mirrors may take of a note. There is room for some
// hundred; of those beyond, the oldest, another receiver cannot find the beginning.
const maxMirrorsBytes = 2000

func encodeMirrors(list []mirrorPoint, committed int64) string {
	var raw []byte
	for _, m := range list {
		longer := binary.AppendUvarint(raw, uint64(committed-m.begin))
		longer = binary.AppendUvarint(longer, uint64(max(m.durable, m.begin)-m.begin))
		if base64.RawURLEncoding.EncodedLen(len(longer)) > maxMirrorsBytes {
			break
		}
		raw = longer
	}
	if len(raw) == 0 {
		return ""
	}
	return " " + base64.RawURLEncoding.EncodeToString(raw)
}

func parseMirrors(text string, committed int64) ([]mirrorPoint, error) {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("list of mirrors in the commit's note: %w", err)
	}
	var list []mirrorPoint
	for len(raw) > 0 {
		down, n := binary.Uvarint(raw)
		up, k := binary.Uvarint(raw[max(n, 0):])
		if n <= 0 || k <= 0 || down > uint64(committed) || up > math.MaxInt64-uint64(committed) {
			return nil, errors.New("list of mirrors in the commit's note is damaged")
		}
		begin := committed - int64(down)
		list = append(list, mirrorPoint{begin, begin + int64(up)})
		raw = raw[n+k:]
	}
	return list, nil
}
