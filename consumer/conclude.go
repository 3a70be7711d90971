package consumer

import (
	"context"
	"errors"

	"mft/protocol"
)

// recall waits until it is known what the group has placed. It returns false
// when the partition is stopped before.
func (p *partition) recall() bool {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	loaded := make(chan bool, 1)
	go func() { loaded <- p.receipts.load(ctx, p.born) == nil }()
	select {
	case ok := <-loaded:
		return ok
	case <-p.quit:
		cancel()
		<-loaded
		return false
	}
}

// conclude ends a transfer that made no file, with a receipt that says why.
// Once that is acknowledged, the group's offset may pass it.
func (p *partition) conclude(t *transfer, state protocol.ReceiptState, why error) {
	p.placing.Add(1)
	receipt := sealed(t, p.receipts.of(t, state, reasonOf(why)))
	handed := p.receipts.send(receipt, p.dropped, func(bool) {
		p.finished(t)
		p.placing.Add(-1)
		p.changed()
	})
	if !handed { // the next owner comes to the same end
		p.placing.Add(-1)
		p.changed()
	}
}

// tell has a receipt written of a transfer of which little is known, and
// nothing that the group's offset waits for.
func (p *partition) tell(id protocol.TransferID, why error) {
	p.receipts.send(p.receipts.of(&transfer{id: id}, protocol.StateFailed, reasonOf(why)), p.quit, nil)
}

// repeated passes over a transfer that the group has placed before: its begin
// record is at offset. If something was left to be done when it was placed, the
// group's offset waits for that.
func (p *partition) repeated(id protocol.TransferID, offset int64) {
	p.report.repeated()
	p.log.Info().Str("topic", p.topic).Int32("partition", p.id).Int64("offset", offset).Str("transfer", string(id)).
		Msg("this group has placed the file before: it is not placed again")
	p.placing.Add(1)
	p.receipts.placed.whenSettled(id, func() {
		p.ledger.finish(offset)
		p.placing.Add(-1)
		p.changed()
	})
}

// reasonOf is why a transfer made no file, without its name.
func reasonOf(err error) string {
	if e, ok := errors.AsType[*RefusedError](err); ok {
		return "refused: " + e.Reason
	}
	if e, ok := errors.AsType[*TransferError](err); ok {
		return e.Reason
	}
	return err.Error()
}
