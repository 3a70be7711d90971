package broker

import (
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"mft/protocol"
)

// recoderPool holds what recompresses batches; it is as large as validators are.
var recoderPool = sync.Pool{New: func() any { return protocol.NewRecoder() }}

// convert makes a valid batch into what the topic keeps (compression.type,
// message.timestamp.type), in place where that goes.
func (c *topicConfig) convert(batch protocol.Batch, now time.Time) (protocol.Batch, error) {
	if c.recompress && batch.Codec() != c.codec {
		r := recoderPool.Get().(*protocol.Recoder)
		recoded, err := r.Recompress(batch, c.codec)
		recoderPool.Put(r)
		if err != nil {
			return nil, err
		}
		if len(recoded) > c.maxMessageBytes {
			return nil, apiError(kerr.MessageTooLarge, fmt.Sprintf("the batch has %d bytes with the topic's compression %s, it takes %d (max.message.bytes)",
				len(recoded), c.codec, c.maxMessageBytes))
		}
		batch = recoded
	}
	if c.logAppendTime {
		batch.SetMaxTimestamp(now.UnixMilli(), protocol.LogAppendTime)
	}
	return batch, nil
}
