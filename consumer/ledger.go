package consumer

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
)

// ledger knows up to where a partition is done with.
//
// Invariant: entries are ascending by begin offset and the first one is not
// done; the point to commit is the begin offset of the first entry, or next
// when there is none. So no commit ever passes a transfer that is not in place.
//
// A transfer gets an entry with its begin record and keeps it until it is
// placed, refused, failed or abandoned. A mirror, which may be open for weeks,
// has none: it holds back the point to commit only while bytes of it are not
// durable, see ledger_mirrors.go. Its methods may be called from several
// goroutines.
type ledger struct {
	mu      sync.Mutex
	next    int64 // offset after the last record that was looked at; -1: none yet
	epoch   int32 // leader epoch of that record
	entries []ledgerEntry
	mirrors map[int64]*ledgerMirror // by begin offset
	floor   int64                   // the point to commit is not below
}

type ledgerEntry struct {
	begin int64 // offset of the transfer's begin record
	epoch int32 // leader epoch of that record
	done  bool
}

func newLedger(start int64) *ledger { return &ledger{next: start, epoch: -1} }

// begin enters the transfer that begins at offset. Offsets must ascend; one
// that does not is ignored.
func (l *ledger) begin(offset int64, epoch int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.entries); n > 0 && l.entries[n-1].begin >= offset {
		return
	}
	l.entries = append(l.entries, ledgerEntry{begin: offset, epoch: epoch})
}

// finish tells that the transfer that begins at offset needs nothing more.
func (l *ledger) finish(offset int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := sort.Search(len(l.entries), func(i int) bool { return l.entries[i].begin >= offset })
	if i == len(l.entries) || l.entries[i].begin != offset {
		return
	}
	l.entries[i].done = true
	l.trim()
}

// trim drops the entries that the point to commit has passed.
func (l *ledger) trim() {
	held, _ := l.held()
	done := 0
	for done < len(l.entries) && l.entries[done].done && l.entries[done].begin < held {
		done++
	}
	l.entries = l.entries[done:]
}

// passed tells that the record before next has been looked at.
func (l *ledger) passed(next int64, epoch int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next, l.epoch = next, epoch
}

// position is the offset after the last record that was looked at, -1 for none.
func (l *ledger) position() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next
}

// point is the offset to commit with its leader epoch, and what is to be noted
// with it. The offset is -1 as long as nothing is known.
func (l *ledger) point() (offset int64, epoch int32, n note) {
	l.mu.Lock()
	defer l.mu.Unlock()
	offset, epoch = l.next, l.epoch
	for _, e := range l.entries {
		if !e.done {
			offset, epoch = e.begin, e.epoch
			break
		}
	}
	if held, heldEpoch := l.held(); held < offset {
		offset, epoch = held, heldEpoch
	}
	if offset < l.floor {
		offset, epoch = l.floor, -1
	}
	for _, e := range l.entries {
		if e.done && e.begin >= offset {
			n.done = append(n.done, e.begin)
		}
	}
	n.mirrors = l.openMirrors(offset)
	return offset, epoch, n
}

// state is the offset after the last record that was looked at, -1 for none,
// with its leader epoch, the entries, and the least offset that a mirror holds
// back, or noneHeld.
func (l *ledger) state() (next int64, epoch int32, entries []ledgerEntry, held int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	held, _ = l.held()
	return l.next, l.epoch, slices.Clone(l.entries), held
}

// restore makes the ledger go on at next with entries in any order.
func (l *ledger) restore(next int64, epoch int32, entries []ledgerEntry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.SortFunc(entries, func(a, b ledgerEntry) int { return cmp.Compare(a.begin, b.begin) })
	l.next, l.epoch, l.entries = next, epoch, entries
	l.trim()
}

// note is what is committed beside the offset, in the commit's metadata:
//
//	mft1 <topic id> <done> [<mirrors>]
//
// topic id: 16 bytes, base64 (URL alphabet, no padding), "-" for a broker
// without topic ids; a topic that was deleted and made again has another one,
// and the offsets of the old one mean nothing in it.
// done: the begin offsets, after the committed one, of transfers that are in
// place already, so that they are not placed again after a restart: uvarints
// of the distance to the one before (the first: to the committed offset),
// base64, "-" for none. A list that does not fit is cut: placing a file twice
// is harmless.
// mirrors: missing when there are none: of each live transfer that is open, two
// uvarints: the distance of its begin offset from the committed one, downwards,
// and that of the offset after its last record below that, upwards from begin;
// base64. A receiver that has less of it reads again from there.
type note struct {
	topicID [16]byte
	done    []int64
	mirrors []mirrorPoint
}

const (
	noteVersion  = "mft1"
	maxNoteBytes = 4000 // Kafka takes 4096 (offset.metadata.max.bytes)
)

func (n note) encode(committed int64) string {
	id := "-"
	if n.topicID != [16]byte{} {
		id = base64.RawURLEncoding.EncodeToString(n.topicID[:])
	}
	mirrors := encodeMirrors(n.mirrors, committed)
	room := base64.RawURLEncoding.DecodedLen(maxNoteBytes - len(noteVersion) - len(id) - 2 - len(mirrors))
	var list []byte
	last := committed
	for _, begin := range n.done {
		longer := binary.AppendUvarint(list, uint64(begin-last))
		if len(longer) > room {
			break
		}
		list, last = longer, begin
	}
	done := "-"
	if len(list) > 0 {
		done = base64.RawURLEncoding.EncodeToString(list)
	}
	return noteVersion + " " + id + " " + done + mirrors
}

// parseNote reads the metadata of a commit. Metadata that mft did not write
// gives an error and an empty note.
func parseNote(text string, committed int64) (note, error) {
	var n note
	fields := strings.Split(text, " ")
	if len(fields) < 3 || fields[0] != noteVersion {
		return n, errors.New("the commit carries no note of mft's")
	}
	if fields[1] != "-" {
		id, err := base64.RawURLEncoding.DecodeString(fields[1])
		if err != nil || len(id) != len(n.topicID) {
			return note{}, fmt.Errorf("topic id %q in the commit's note is not one", fields[1])
		}
		copy(n.topicID[:], id)
	}
	if len(fields) > 3 {
		var err error
		if n.mirrors, err = parseMirrors(fields[3], committed); err != nil {
			return note{}, err
		}
	}
	if fields[2] == "-" {
		return n, nil
	}
	list, err := base64.RawURLEncoding.DecodeString(fields[2])
	if err != nil {
		return note{}, fmt.Errorf("list of offsets in the commit's note: %w", err)
	}
	last := committed
	for len(list) > 0 {
		distance, size := binary.Uvarint(list)
		if size <= 0 || last+int64(distance) <= last {
			return note{}, errors.New("list of offsets in the commit's note is damaged")
		}
		last += int64(distance)
		n.done = append(n.done, last)
		list = list[size:]
	}
	return n, nil
}
