package consumer

import (
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mft/protocol"
)

// unopened deals with an encrypted transfer that could not be opened: r is its
// begin record. It returns false when the session ends.
//
// Without any key here, it ends: nothing can be received, and the group's
// offset must not pass what a run with the key would receive. A key that does
// not fit may be another receiver's: the file fails, what follows goes on, and
// the offset stays until the transfer is abandoned. A record that was changed
// is refused like any other that is damaged.
func (p *partition) unopened(err error, r *kgo.Record) bool {
	missing, ok := errors.AsType[*protocol.KeyError](err)
	if !ok {
		p.unusable(err, r.Offset)
		return true
	}
	p.ledger.begin(r.Offset, r.LeaderEpoch)
	if p.keys.Empty() {
		p.fatal(fmt.Errorf("transfer %s, at offset %d of partition %d of topic %s: %w: nothing after it is committed, the next run begins with it",
			missing.Transfer, r.Offset, p.id, p.topic, missing))
		return false
	}
	t := &transfer{id: missing.Transfer, part: p, beginsAt: r.Offset, locked: true, recordTime: r.Timestamp, seen: time.Now()}
	p.transfers[t.id] = t
	why := t.errorf("%v: a run with the key receives it", missing)
	p.report.failed(string(t.id), "", why)
	p.tell(t.id, why)
	return true
}

// unseal decrypts a record of a transfer that is open, and takes note of where
// the file ends.
func (t *transfer) unseal(rec protocol.FileRecord) (protocol.FileRecord, error) {
	wrong := func(format string, args ...any) (protocol.FileRecord, error) {
		return protocol.FileRecord{}, &protocol.FileRecordError{Transfer: t.id, Kind: rec.Kind, Reason: fmt.Sprintf(format, args...)}
	}
	if t.opener == nil {
		return wrong("it is encrypted, in a transfer that is not: somebody else has written it")
	}
	out, err := t.opener.Open(rec)
	if err != nil || out.Kind != protocol.KindChunk {
		return out, err
	}
	end := out.Offset + int64(len(out.Data)) + out.Hole
	switch {
	case out.Last && t.last > 0 && t.last != end:
		return wrong("it ends the file at %d, another one at %d", end, t.last)
	case out.Last:
		t.last = end
	}
	return out, nil
}

// checkLast tells whether an encrypted file that is whole ends where the chunk
// that says it is the last one does.
func (t *transfer) checkLast() error {
	if t.opener != nil && !t.dir && t.link == "" && t.last != t.size {
		return t.errorf("it has %d bytes, and its last chunk ends at %d: send it again", t.size, t.last)
	}
	return nil
}
