package consumer

import (
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	minFetchBytes = 1 << 20 // below a fetch does not go: one batch is that large
	fetchesWell   = 8       // answers that arrive, after which twice as much is asked for
)

// fetchSize is a hook of a client that asks for less at a time where connections
// break: an answer that is cut is lost as a whole, and one that is larger than
// what a connection lives to carry would be asked for again for ever.
type fetchSize struct {
	mu     sync.Mutex
	client *kgo.Client // nil until there is one
	bytes  int32       // of one partition
	well   int         // answers since the last that was cut
}

// OnBrokerRead implements kgo.HookBrokerRead.
func (f *fetchSize) OnBrokerRead(_ kgo.BrokerMetadata, key int16, read int, _, _ time.Duration, err error) {
	if key != int16(kmsg.Fetch) || err != nil && read == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bytes == 0 {
		f.bytes = fetchPartitionBytes
	}
	before := f.bytes
	if err != nil {
		f.bytes, f.well = max(f.bytes/2, minFetchBytes), 0
	} else if f.well++; f.well >= fetchesWell {
		f.bytes, f.well = min(f.bytes*2, fetchPartitionBytes), 0
	}
	if f.bytes != before && f.client != nil {
		f.client.UpdateFetchMaxBytes(2*f.bytes, f.bytes)
	}
}

// attach names the client, before it is used.
func (f *fetchSize) attach(client *kgo.Client) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.client = client
}
