package consumer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"

	"mft/protocol"
)

// stateFile, in the work directory, holds what is kept of a receiver.
const stateFile = "state"

const (
	stateMagic    = "mft-receiving-1"
	maxStateBytes = 256 << 20
)

// kept is what a receiver has open, as it is written down for one that is
// started again in the same directory: up to where each partition is read, and
// what has arrived of which file.
//
//	mft-receiving-1 <CRC-32C of what follows the line, 8 hex digits>\n
//	<JSON>
//
// It is replaced as a whole, after the temporary files that it speaks of are
// durable. So what it says has arrived has, also after a power cut. It may be
// older than what is there: then more records are read again than need be,
// which does no harm. A temporary file that it names and that is gone was
// placed, or dropped.
type kept struct {
	Group      string          `json:"group"`
	Topic      string          `json:"topic"`
	TopicID    []byte          `json:"topic_id"`
	Partitions []keptPartition `json:"partitions"`
}

// keptPartition is one partition. Offsets ascend in its lists.
type keptPartition struct {
	ID        int32          `json:"partition"`
	Next      int64          `json:"next"`      // offset after the last record that was looked at
	Held      int64          `json:"held"`      // records from here on may be missing in files that grow; next when none are
	Epoch     int32          `json:"epoch"`     // leader epoch of that record; -1: not known
	Committed int64          `json:"committed"` // a commit of the group that was made before; -1: none
	Done      []int64        `json:"done"`      // begin offsets of transfers that are done with, behind one that is not
	Pending   []int64        `json:"pending"`   // begin offsets of those that are not, and not kept either
	Open      []keptTransfer `json:"open"`
}

// keptTransfer is a file of which not all has arrived, or that was not in its
// place yet.
type keptTransfer struct {
	Begin keptRecord `json:"begin"`
	Again []int64    `json:"again,omitempty"` // offsets of more begin records of it
	Temp  string     `json:"temp,omitempty"`  // its temporary file; "" when there is none
	Have  [][2]int64 `json:"have,omitempty"`  // byte ranges that have arrived: see extents
	End   *keptEnd   `json:"end,omitempty"`
	Last  int64      `json:"last,omitempty"` // see transfer
	Seen  int64      `json:"seen"`           // timestamp of its last record, ms since 1970
	raw   *extents   // Have, before it is encoded
	size  int64      // bytes that have arrived
}

// keptRecord is a begin record.
type keptRecord struct {
	Transfer  protocol.TransferID `json:"transfer"`
	Offset    int64               `json:"offset"`
	Epoch     int32               `json:"epoch"`
	Timestamp int64               `json:"timestamp"`        // ms since 1970
	Sealed    string              `json:"sealed,omitempty"` // value of the header mft.sealed; "": none
	Value     []byte              `json:"value"`
}

type keptEnd struct {
	Size   int64  `json:"size"`
	Digest string `json:"digest,omitempty"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (k *kept) encode() ([]byte, error) {
	text, err := json.Marshal(k)
	if err != nil {
		return nil, err
	}
	return append(fmt.Appendf(nil, "%s %08x\n", stateMagic, crc32.Checksum(text, castagnoli)), text...), nil
}

// parseKept reads what encode wrote. What it returns is possible, whoever wrote
// it; whether it is true only the digests of the files tell.
func parseKept(text []byte) (*kept, error) {
	line, text, ok := bytes.Cut(text, []byte("\n"))
	if !ok || !strings.HasPrefix(string(line), stateMagic+" ") {
		return nil, errors.New("it is none of this version")
	}
	if fmt.Sprintf("%s %08x", stateMagic, crc32.Checksum(text, castagnoli)) != string(line) {
		return nil, errors.New("it is damaged")
	}
	k := new(kept)
	if err := json.Unmarshal(text, k); err != nil {
		return nil, err
	}
	seen, temps := make(map[int32]bool), make(map[string]bool)
	for i := range k.Partitions {
		p := &k.Partitions[i]
		if err := p.check(temps); err != nil {
			return nil, fmt.Errorf("partition %d: %w", p.ID, err)
		}
		if seen[p.ID] {
			return nil, fmt.Errorf("partition %d is there twice", p.ID)
		}
		seen[p.ID] = true
	}
	return k, nil
}

// check tells what is impossible. temps are the temporary files so far.
func (p *keptPartition) check(temps map[string]bool) error {
	begins := make(map[int64]bool)
	begin := func(offset int64) bool {
		ok := offset >= 0 && offset < p.Next && !begins[offset]
		begins[offset] = true
		return ok
	}
	if p.ID < 0 || p.Next < 0 || p.Epoch < -1 || p.Committed < -1 || p.Committed > p.Next || p.Held < 0 || p.Held > p.Next {
		return errors.New("impossible offsets")
	}
	for _, list := range [][]int64{p.Done, p.Pending} {
		for _, offset := range list {
			if !begin(offset) {
				return fmt.Errorf("no transfer can begin at %d", offset)
			}
		}
	}
	ids := make(map[protocol.TransferID]bool)
	for i := range p.Open {
		t := &p.Open[i]
		if !begin(t.Begin.Offset) || ids[t.Begin.Transfer] {
			return fmt.Errorf("transfer %q cannot begin at %d", t.Begin.Transfer, t.Begin.Offset)
		}
		ids[t.Begin.Transfer] = true
		for _, offset := range t.Again {
			if !begin(offset) {
				return fmt.Errorf("transfer %q cannot begin again at %d", t.Begin.Transfer, offset)
			}
		}
		if err := t.check(); err != nil {
			return fmt.Errorf("transfer %q: %w", t.Begin.Transfer, err)
		}
		if t.Temp != "" && temps[t.Temp] {
			return fmt.Errorf("transfer %q: its temporary file is another's", t.Begin.Transfer)
		}
		temps[t.Temp] = true
	}
	return nil
}

func (t *keptTransfer) check() error {
	switch {
	case t.Temp != "" && !isTempName(t.Temp, t.Begin.Transfer):
		return fmt.Errorf("%q is no temporary file", t.Temp)
	case len(t.Have) > 0 && t.Temp == "":
		return errors.New("its temporary file is missing")
	case len(t.Have) > maxExtents:
		return errTooScattered
	case t.Last < 0 || t.End != nil && t.End.Size < 0:
		return errors.New("impossible sizes")
	}
	x := new(extents)
	last := int64(-1)
	for _, r := range t.Have {
		if r[0] <= last || r[0] >= r[1] {
			return fmt.Errorf("impossible range %d to %d", r[0], r[1])
		}
		x.ranges = append(x.ranges, extent{r[0], r[1]})
		x.total += r[1] - r[0]
		last = r[1]
	}
	t.raw, t.size = x, x.total
	return nil
}

// isTempName tells whether name is one that work.tempName gives.
func isTempName(name string, id protocol.TransferID) bool {
	number, ok := strings.CutPrefix(name, string(id)+".")
	return ok && len(id) == 32 && number != "" && strings.Trim(number, "0123456789") == "" && strings.Trim(string(id), "0123456789abcdef") == ""
}
