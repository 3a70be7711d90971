package broker

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// InitProducerId (22): a fresh id for each idempotent producer, epoch 0, as
// Kafka answers a producer without a transactional id, whatever id it had
// before. A transactional id is refused: there are no transactions.

// producerIDBlock ids are reserved with one journal entry; a restart skips
// what is left of a block.
const producerIDBlock = 1000

func (b *Broker) initProducerID(ctx context.Context, req *kmsg.InitProducerIDRequest) kmsg.Response {
	r := req.ResponseKind().(*kmsg.InitProducerIDResponse)
	r.ProducerID, r.ProducerEpoch = -1, -1
	if req.TransactionalID != nil {
		r.ErrorCode = kerr.TransactionalIDAuthorizationFailed.Code
		return r
	}
	id, err := b.newProducerID(ctx)
	if err != nil {
		b.log.Error().Err(err).Msg("cannot reserve producer ids")
		r.ErrorCode, _ = errorCode(err)
		if errors.Is(err, context.Canceled) {
			r.ErrorCode = kerr.CoordinatorNotAvailable.Code
		}
		return r
	}
	r.ProducerID, r.ProducerEpoch = id, 0
	return r
}

func (b *Broker) newProducerID(ctx context.Context) (int64, error) {
	ids := &b.producerIDs
	ids.Lock()
	defer ids.Unlock()
	if ids.next == ids.end {
		start := b.meta.nextProducerID()
		err := b.propose(ctx, metaEntry{Kind: kindProducerIDs, NextProducerID: start + producerIDBlock})
		if err != nil {
			return 0, err
		}
		ids.next, ids.end = start, start+producerIDBlock
	}
	id := ids.next
	ids.next++
	return id, nil
}
