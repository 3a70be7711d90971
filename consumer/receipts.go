package consumer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"mft/internal/kafka"
	"mft/protocol"
)

const (
	receiptQueue       = 1024                 // receipts waiting to be written; then placing waits
	receiptLinger      = 5 * time.Millisecond // for others to go with them
	receiptRetry       = time.Second          // after the topic could not be made
	receiptTopicPoll   = 50 * time.Millisecond
	receiptTopicWait   = 10 * time.Second // for a topic that was made to have a leader
	receiptRetention   = 365 * 24 * time.Hour
	receiptUnknownTops = 20 // answers in a row that the topic is not there, until it is made again
)

// receipts writes what became of transfers to the receipts topic, and reads
// there what the group is done with: see placedIDs.
//
// They are written in batches, in the background; who hands one over is told
// when it is acknowledged. Where the topic cannot be made or written, that is
// told once, and everything counts as acknowledged.
type receipts struct {
	cfg    *FilesConfig
	log    zerolog.Logger
	watch  *kafka.Watch
	topic  string
	host   string
	dir    string
	placed *placedIDs

	client     *kgo.Client // nil: there are none
	ctx        context.Context
	cancel     context.CancelFunc
	queue      chan *outgoing
	done       sync.WaitGroup
	warnUnread sync.Once

	mu      sync.Mutex
	failed  bool // no receipts: see give up
	missing bool // the topic has to be made
}

type outgoing struct {
	record *kgo.Record
	then   func(acked bool) // nil: nobody waits
}

func newReceipts(cfg *FilesConfig, target *target, watch *kafka.Watch) (*receipts, error) {
	r := &receipts{
		cfg: cfg, log: cfg.Logger, watch: watch, topic: cfg.Topic + protocol.ReceiptsSuffix, dir: target.dir,
		placed: newPlacedIDs(maxRemembered), missing: true, failed: cfg.NoReceipts,
		queue: make(chan *outgoing, receiptQueue),
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	host, err := os.Hostname()
	if err != nil {
		r.log.Debug().Err(err).Msg("receipts do not name the machine")
	}
	r.host = host
	if cfg.NoReceipts {
		return r, nil
	}
	r.client, err = kgo.NewClient(append(cfg.clientOptions(watch),
		kgo.DefaultProduceTopic(r.topic),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerLinger(receiptLinger),
		kgo.ProducerBatchCompression(kgo.Lz4Compression(), kgo.NoCompression()),
		kgo.UnknownTopicRetries(receiptUnknownTops),
	)...)
	if err != nil {
		r.cancel()
		return nil, fmt.Errorf("kafka client: %w", err)
	}
	r.done.Go(r.run)
	return r, nil
}

// stop drops what is not acknowledged yet: nothing is called any more for that.
func (r *receipts) stop() { r.cancel() }

// close ends it all.
func (r *receipts) close() {
	r.stop()
	r.done.Wait()
	if r.client != nil {
		r.client.Close()
	}
}

func (r *receipts) off() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// of makes the receipt of a transfer.
func (r *receipts) of(t *transfer, state protocol.ReceiptState, reason string) protocol.Receipt {
	receipt := protocol.Receipt{
		Transfer: t.id, State: state, Group: r.cfg.Group, Host: r.host, Client: r.cfg.ClientID, Time: time.Now(),
		Name: t.name, Size: protocol.SizeUnknown, Reason: reason,
	}
	switch {
	case t.name == "":
	case t.dir:
		receipt.Type = protocol.TypeDir
	case t.link != "":
		receipt.Type, receipt.Size = protocol.TypeSymlink, 0
	default:
		receipt.Type, receipt.Size = protocol.TypeFile, t.size
	}
	if state == protocol.StateDelivered {
		if receipt.Digest = t.sum; t.sum != "" {
			receipt.DigestKind = t.digestKind()
		}
	}
	return receipt
}

// sealed is the receipt as it is to be sent: encrypted, if its transfer is.
func sealed(t *transfer, receipt protocol.Receipt) protocol.Receipt {
	if t.opener == nil {
		return receipt
	}
	return t.opener.SealReceipt(receipt)
}

// send hands over a receipt; then is called when it is acknowledged, or when
// there are to be none. It waits while too many are under way; it returns false
// when stop, which may be nil, is closed before it could. When the receiver
// ends before it is acknowledged, then is not called.
func (r *receipts) send(receipt protocol.Receipt, stop <-chan struct{}, then func(acked bool)) bool {
	return r.sendRecord(recordOf(receipt), stop, then)
}

// recordOf is what is sent of a receipt.
func recordOf(receipt protocol.Receipt) *kgo.Record {
	key, value, headers := receipt.Encode()
	rec := &kgo.Record{Key: key, Value: value, Timestamp: receipt.Time}
	for _, h := range headers {
		rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
	}
	return rec
}

// sendRecord is send of a receipt's record.
func (r *receipts) sendRecord(rec *kgo.Record, stop <-chan struct{}, then func(acked bool)) bool {
	if r.off() {
		if then != nil {
			then(false)
		}
		return true
	}
	select {
	case r.queue <- &outgoing{rec, then}:
		return true
	case <-stop:
		return false
	case <-r.ctx.Done():
		return false
	}
}

// run passes receipts on to the client, once the topic is there.
func (r *receipts) run() {
	for {
		var out *outgoing
		select {
		case <-r.ctx.Done():
			return
		case out = <-r.queue:
		}
		r.write(out)
	}
}

func (r *receipts) write(out *outgoing) {
	if !r.ensure() {
		if r.ctx.Err() == nil {
			out.conclude(false)
		}
		return
	}
	r.client.Produce(r.ctx, out.record, func(_ *kgo.Record, err error) {
		switch {
		case err == nil:
			out.conclude(true)
		case r.ctx.Err() != nil:
		case errors.Is(err, kerr.UnknownTopicOrPartition): // it was deleted
			r.mu.Lock()
			r.missing = true
			r.mu.Unlock()
			out.record.Partition, out.record.Offset = 0, 0
			r.done.Go(func() {
				select {
				case r.queue <- out:
				case <-r.ctx.Done():
				}
			})
		case errors.Is(err, kerr.MessageTooLarge):
			r.log.Warn().Str("topic", r.topic).Str("transfer", string(out.record.Key)).Err(err).Msg("the receipt is larger than its topic takes")
			out.conclude(false)
		default:
			r.giveUp(err)
			out.conclude(false)
		}
	})
}

func (o *outgoing) conclude(acked bool) {
	if o.then != nil {
		o.then(acked)
	}
}

// giveUp does without receipts from now on.
func (r *receipts) giveUp(why error) {
	r.mu.Lock()
	told := r.failed
	r.failed = true
	r.mu.Unlock()
	if !told {
		r.log.Warn().Str("topic", r.topic).Err(why).
			Msg("receipts cannot be written: receiving goes on without them, senders are told nothing (--no-receipts says that none are wanted)")
	}
}

// ensure makes the topic if it is missing, trying until that works or never
// will. It returns false when there are to be no receipts.
func (r *receipts) ensure() bool {
	for told := false; ; {
		r.mu.Lock()
		failed, missing := r.failed, r.missing
		r.mu.Unlock()
		if failed {
			return false
		}
		if !missing {
			return true
		}
		err := r.make()
		if r.ctx.Err() != nil {
			return false
		}
		if err == nil {
			r.mu.Lock()
			r.missing = false
			r.mu.Unlock()
			continue
		}
		if code, ok := errors.AsType[*kerr.Error](err); ok && !kerr.IsRetriable(code) {
			r.giveUp(err)
			return false
		}
		if !told {
			told = true
			r.log.Debug().Str("topic", r.topic).Err(err).Msg("the receipts topic is not to be had yet, trying on")
		}
		select {
		case <-r.ctx.Done():
			return false
		case <-time.After(receiptRetry):
		}
	}
}

// make makes the topic if it is missing, and waits until it has a leader.
func (r *receipts) make() error {
	_, err := askTopic(r.ctx, r.client, r.topic)
	if !errors.Is(err, kerr.UnknownTopicOrPartition) {
		return err
	}
	text := func(s string) *string { return &s }
	resp, err := kadm.NewClient(r.client).CreateTopic(r.ctx, 1, -1, map[string]*string{
		"cleanup.policy": text("delete"),
		"retention.ms":   text(fmt.Sprint(receiptRetention.Milliseconds())),
	}, r.topic)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		if code, ok := errors.AsType[*kerr.Error](err); ok && resp.ErrMessage != "" {
			return fmt.Errorf("%w: %s", code, resp.ErrMessage)
		}
		return err
	}
	for began := time.Now(); ; {
		_, err := askTopic(r.ctx, r.client, r.topic)
		if err == nil || time.Since(began) > receiptTopicWait {
			return err
		}
		select {
		case <-r.ctx.Done():
			return context.Cause(r.ctx)
		case <-time.After(receiptTopicPoll):
		}
	}
}

// intentOf is the intent to place a transfer, and the receipt that says so.
func (r *receipts) intentOf(job *placeJob) (*intent, *kgo.Record) {
	t := job.transfer
	receipt := r.of(t, protocol.StateDelivered, "")
	receipt.Unsynced = r.cfg.NoSync
	receipt.Path = filepath.Join(r.dir, filepath.FromSlash(cmp.Or(job.as, t.name)))
	in := &intent{Transfer: t.id, Temp: t.temp, Topic: r.cfg.Topic, Group: r.cfg.Group, Partition: t.part.id, Begin: t.beginsAt}
	rec := recordOf(receipt)
	in.Receipt = rec.Value
	if t.opener != nil {
		rec = recordOf(sealed(t, receipt))
		in.Sealed = rec.Value
	}
	return in, rec
}

// receiptOf reads an intent's receipt, as it is to be sent, or in clear.
func (in *intent) receiptOf(clear bool) (protocol.Receipt, error) {
	if in.Sealed != nil && !clear {
		return protocol.ParseReceipt([]byte(in.Transfer), in.Sealed, protocol.ReceiptHeaders(true))
	}
	return protocol.ParseReceipt([]byte(in.Transfer), in.Receipt, protocol.ReceiptHeaders(false))
}
