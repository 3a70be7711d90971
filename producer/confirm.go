package producer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"mft/internal/kafka"
	"mft/internal/loopback"
	"mft/protocol"
)

// DefaultConfirmTimeout is how long nothing may be confirmed before waiting for
// receivers ends, unless told otherwise.
const DefaultConfirmTimeout = 10 * time.Minute

const (
	receiptsPoll   = 200 * time.Millisecond // between two looks for the receipts topic, which the first receiver makes
	receiptsMinAge = 20 * time.Millisecond  // between two looks at who leads it
)

// Confirm has a Producer wait for receivers: a file is confirmed when the
// receipt of one says that it is durably in place, with the size and digest
// that were sent.
type Confirm struct {
	// Group is the consumer group whose receipts count; "": any. Then a file
	// that one group refuses and another has in place is confirmed, if the
	// latter is heard of first.
	Group string
	// Timeout is how long nothing may be confirmed, once all is sent, before
	// waiting ends. 0: DefaultConfirmTimeout, negative: for ever.
	Timeout time.Duration
}

// ErrUnconfirmed is why a file is not confirmed of which no receiver has told
// anything in time.
var ErrUnconfirmed = errors.New("no receiver has confirmed it in time: it is in the topic, check that mft-consume runs")

// RejectedError tells that a receiver did not place a file.
type RejectedError struct {
	Group, Host string // of the receiver
	Reason      string
}

func (e *RejectedError) Error() string {
	return fmt.Sprintf("group %s on %s did not place it: %s", e.Group, e.Host, e.Reason)
}

// confirmations waits for the receipts of one run.
type confirmations struct {
	Confirm
	run   *run
	topic string

	stop context.CancelFunc
	done sync.WaitGroup

	mu    sync.Mutex
	open  map[[16]byte]*awaited
	left  int           // of open: those that were not rejected
	moved chan struct{} // something was heard of; capacity 1
}

// awaited is a file that is to be confirmed.
type awaited struct {
	name     string
	size     int64 // -1: of a directory or a link
	kind     string
	digest   string
	key      *protocol.Key // nil: it is not encrypted
	rejected error         // nil: nobody did
	then     func(error)   // told what became of it; nil: nobody asks
}

// newConfirmations begins to read receipts; nil: nobody is waited for. earlier
// tells that files of earlier runs go on, which may have receipts already.
func (r *run) newConfirmations(earlier bool) (*confirmations, error) {
	if r.p.cfg.Confirm == nil {
		return nil, nil
	}
	c := &confirmations{Confirm: *r.p.cfg.Confirm, run: r, topic: r.p.cfg.Topic + protocol.ReceiptsSuffix, open: make(map[[16]byte]*awaited), moved: make(chan struct{}, 1)}
	if c.Timeout == 0 {
		c.Timeout = DefaultConfirmTimeout
	}
	from, err := c.begin(r.ctx, earlier)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.stop = cancel
	c.done.Go(func() { c.read(ctx, from) })
	return c, nil
}

func (c *confirmations) close() {
	if c != nil {
		c.stop()
		c.done.Wait()
	}
}

// begin finds out where the receipts of what is sent from now on begin; nil:
// at the beginning of a topic that is not there yet.
func (c *confirmations) begin(ctx context.Context, earlier bool) (map[int32]kgo.Offset, error) {
	for {
		from, err := c.beginOnce(ctx, earlier)
		switch {
		case err == nil:
			return from, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.Is(err, kerr.UnknownTopicOrPartition):
			return nil, nil
		}
		if fatal := c.unreadable(err); fatal != nil {
			return nil, fatal
		}
		if err := pause(ctx, receiptsPoll); err != nil {
			return nil, err
		}
	}
}

func (c *confirmations) beginOnce(ctx context.Context, earlier bool) (map[int32]kgo.Offset, error) {
	if err := c.exists(ctx); err != nil {
		return nil, err
	}
	admin := kadm.NewClient(c.run.p.client)
	listed, err := admin.ListEndOffsets(ctx, c.topic)
	if earlier {
		listed, err = admin.ListOffsetsAfterMilli(ctx, time.Now().Add(-resumeWithin).UnixMilli(), c.topic)
	}
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, err
	}
	from := make(map[int32]kgo.Offset)
	listed.Each(func(o kadm.ListedOffset) { from[o.Partition] = kgo.NewOffset().At(o.Offset) })
	return from, nil
}

// exists asks for the topic without having it created.
func (c *confirmations) exists(ctx context.Context) error {
	req := kmsg.NewPtrMetadataRequest()
	topic := kmsg.NewMetadataRequestTopic()
	topic.Topic = &c.topic
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(ctx, c.run.p.client)
	if err != nil {
		return err
	}
	for _, t := range resp.Topics {
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil || len(t.Partitions) > 0 {
			return err
		}
	}
	return kerr.UnknownTopicOrPartition
}

// unreadable is the error of receipts that will never be read.
func (c *confirmations) unreadable(err error) error {
	code, ok := errors.AsType[*kerr.Error](err)
	if !ok || kerr.IsRetriable(code) {
		return nil
	}
	if errors.Is(code, kerr.TopicAuthorizationFailed) {
		return fmt.Errorf("topic %s: this user may not read the receipts that confirm files: ask the broker's administrator for the permission: %w", c.topic, code)
	}
	return fmt.Errorf("topic %s, whose receipts confirm files: %w", c.topic, code)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// read reads receipts until ctx ends.
func (c *confirmations) read(ctx context.Context, from map[int32]kgo.Offset) {
	for from == nil { // the topic is not there yet
		if pause(ctx, receiptsPoll) != nil {
			return
		}
		if err := c.exists(ctx); err == nil {
			from = map[int32]kgo.Offset{0: kgo.NewOffset().AtStart()}
		} else if fatal := c.unreadable(err); fatal != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) {
			c.fail(fatal)
			return
		}
	}
	p := c.run.p
	client, err := kgo.NewClient(
		kgo.SeedBrokers(p.cfg.Brokers...),
		kgo.ClientID(p.cfg.ClientID),
		kgo.Dialer(loopback.Dialer(p.log)),
		kgo.WithLogger(kafka.Log{Logger: p.log}),
		kgo.DisableClientMetrics(),
		kgo.RetryBackoffFn(retryBackoff),
		kgo.MetadataMinAge(receiptsMinAge),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{c.topic: from}),
	)
	if err != nil {
		c.fail(fmt.Errorf("kafka client: %w", err))
		return
	}
	defer client.Close()
	for {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return
		}
		fetches.EachError(func(_ string, _ int32, err error) {
			if fatal := c.unreadable(err); fatal != nil {
				c.fail(fatal)
				return
			}
			p.log.Debug().Str("topic", c.topic).Err(err).Msg("reading receipts")
		})
		fetches.EachRecord(c.receipt)
	}
}

// fail ends the run.
func (c *confirmations) fail(err error) { c.run.cancel(err) }

func (c *confirmations) kick() {
	select {
	case c.moved <- struct{}{}:
	default:
	}
}

// expect waits for receipts of a file, whose end is about to be sent.
func (c *confirmations) expect(id protocol.TransferID, a *awaited) {
	raw, ok := id.Raw()
	if c == nil || !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[raw] = a
	c.left++
}

// receipt looks at one receipt.
func (c *confirmations) receipt(rec *kgo.Record) {
	r, err := protocol.ParseReceipt(rec.Key, rec.Value, rec.Headers)
	if err != nil {
		c.run.p.log.Debug().Str("topic", c.topic).Int64("offset", rec.Offset).Err(err).Msg("a record of the receipts topic is none")
		return
	}
	raw, _ := r.Transfer.Raw()
	c.mu.Lock()
	a := c.open[raw]
	if a == nil || c.Group != "" && r.Group != c.Group {
		c.mu.Unlock()
		return
	}
	if r, err = a.check(r); err != nil {
		c.mu.Unlock()
		c.run.p.log.Warn().Str("topic", c.topic).Str("file", a.name).Err(err).Msg("a receipt does not count")
		return
	}
	var why error
	if r.State != protocol.StateDelivered {
		why = &RejectedError{r.Group, r.Host, r.Reason}
	} else if a.size >= 0 && (r.Size != a.size || r.DigestKind != a.kind || r.Digest != a.digest) {
		why = &RejectedError{r.Group, r.Host, fmt.Sprintf("it has %d bytes with %s %s there, and here %d with %s %s", r.Size, r.DigestKind, r.Digest, a.size, a.kind, a.digest)}
	}
	if a.rejected == nil {
		c.left--
	}
	a.rejected = why
	if why == nil || a.then != nil {
		delete(c.open, raw)
	}
	c.mu.Unlock()

	c.run.tell(func(sum *Summary, events *Events) {
		switch {
		case why == nil:
			sum.Confirmed++
			if events.Confirmed != nil {
				events.Confirmed(string(r.Transfer), a.name, r)
			}
		case a.then == nil: // it may still come from another group; told at the end
		case events.Unconfirmed != nil:
			events.Unconfirmed(string(r.Transfer), a.name, why)
		}
	})
	if a.then != nil {
		a.then(why)
	}
	c.kick()
}

// check opens a receipt. What says that a file is delivered which was encrypted
// must be encrypted, too: others could have written it.
func (a *awaited) check(r protocol.Receipt) (protocol.Receipt, error) {
	switch {
	case a.key == nil && r.IsSealed():
		return r, errors.New("it is encrypted, and the file was not")
	case a.key == nil:
		return r, nil
	case r.IsSealed():
		return a.key.OpenReceipt(r)
	case r.State == protocol.StateDelivered:
		return r, errors.New("it is not encrypted, and the file was: somebody without the key may have written it")
	}
	return r, nil
}

// wait waits until everything is confirmed or rejected, or nothing was for too
// long, and notes what is not confirmed.
func (c *confirmations) wait(ctx context.Context) error {
	if c == nil {
		return nil
	}
	var late <-chan time.Time
	timer := time.NewTimer(c.Timeout)
	defer timer.Stop()
	if c.Timeout > 0 {
		late = timer.C
	}
	told := false
	for {
		c.mu.Lock()
		left := c.left
		c.mu.Unlock()
		if left == 0 {
			break
		}
		if !told {
			told = true
			c.run.tell(func(_ *Summary, events *Events) {
				if events.Waiting != nil {
					events.Waiting(left)
				}
			})
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.moved:
			timer.Reset(c.Timeout)
			continue
		case <-late:
		}
		break
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for raw, a := range c.open {
		why := a.rejected
		if why == nil {
			why = ErrUnconfirmed
		}
		c.run.tell(func(sum *Summary, events *Events) {
			sum.Unconfirmed++
			if events.Unconfirmed != nil {
				events.Unconfirmed(fmt.Sprintf("%x", raw), a.name, why)
			}
		})
	}
	return nil
}
