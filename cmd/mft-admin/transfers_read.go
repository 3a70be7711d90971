package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"mft/internal/terminal"
	"mft/protocol"
)

const (
	firstStride = 256     // records of each partition that are read at first; then four times as many
	maxReceipts = 200_000 // the newest ones that are looked at
)

// transferSet is what is known of the transfers of one topic.
type transferSet struct {
	*transfersOptions
	topic     string
	transfers map[protocol.TransferID]*transferSeen
	begun     int   // of them, those whose begin was found
	bytes     int64 // read of the topic
	records   int64
}

// transferSeen is what the records of a transfer, and its receipts, have told.
type transferSeen struct {
	id        protocol.TransferID
	partition int32
	offset    int64 // of the begin record; -1: not seen
	encrypted bool
	manifest  *protocol.Manifest // nil: not seen, or not readable
	opener    *protocol.Opener
	end       *protocol.End
	sent      bool // its end was seen, readable or not
	aborted   bool
	reason    string
	parts     map[int64]int64 // length of its chunks, by offset; of sealed ones by their record's
	began     time.Time
	last      time.Time
	receipts  map[string]protocol.Receipt // by group
}

func newTransferSet(topic string, o *transfersOptions) *transferSet {
	return &transferSet{transfersOptions: o, topic: topic, transfers: make(map[protocol.TransferID]*transferSeen)}
}

func (s *transferSet) at(id protocol.TransferID) *transferSeen {
	t := s.transfers[id]
	if t == nil {
		t = &transferSeen{id: id, offset: -1, parts: make(map[int64]int64), receipts: make(map[string]protocol.Receipt)}
		s.transfers[id] = t
	}
	return t
}

// span is [start, end) of a partition.
type span struct{ start, end int64 }

// spans are what of a topic was written since the beginning of the window, and
// how many records the topic has in all.
func (s *transferSet) spans(ctx context.Context, a *admin, topic string) (map[int32]span, int64, error) {
	starts, err := a.ListStartOffsets(ctx, topic)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return nil, 0, err
	}
	ends, err := a.ListCommittedOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, 0, err
	}
	window := starts
	if s.since > 0 {
		if window, err = a.ListOffsetsAfterMilli(ctx, time.Now().Add(-s.since).UnixMilli(), topic); err == nil {
			err = window.Error()
		}
		if err != nil {
			return nil, 0, err
		}
	}
	spans, all := make(map[int32]span), int64(0)
	ends.Each(func(end kadm.ListedOffset) {
		start, _ := starts.Lookup(topic, end.Partition)
		from, _ := window.Lookup(topic, end.Partition)
		all += end.Offset - start.Offset
		spans[end.Partition] = span{max(start.Offset, from.Offset), end.Offset}
	})
	return spans, all, nil
}

// read looks at the receipts and the topic, and says at what.
func (s *transferSet) read(ctx context.Context, a *admin, o *options, receipts bool) (string, error) {
	looked := ""
	if receipts {
		topic := s.topic + protocol.ReceiptsSuffix
		spans, all, err := s.spans(ctx, a, topic)
		if err != nil {
			return "", err
		}
		read := int64(0)
		for p, r := range spans {
			r.start = max(r.start, r.end-maxReceipts)
			spans[p] = r
			read += r.end - r.start
		}
		if err := s.scan(ctx, o, topic, spans, s.receipt); err != nil {
			return "", err
		}
		looked = fmt.Sprintf(" and %s of %s", terminal.Count(int(read), "receipt"), terminal.Count(int(all), "receipt"))
	}
	// From the end backwards: the newest are wanted most, and reading all of a
	// large topic would take very long.
	left, all, err := s.spans(ctx, a, s.topic)
	if err != nil {
		return "", err
	}
	why := "nothing older was written in the time of --since"
	if s.since == 0 {
		why = "that is all there is"
	}
	for stride := int64(firstStride); ; stride *= 4 {
		part := make(map[int32]span)
		for p, r := range left {
			if r.start < r.end {
				part[p] = span{max(r.start, r.end-stride), r.end}
				left[p] = span{r.start, part[p].start}
			}
		}
		if len(part) == 0 {
			break
		}
		done, err := s.scanWithin(ctx, o, part)
		if err != nil {
			return "", err
		}
		if !done {
			why = "older ones are found with a larger --look"
			break
		}
		if s.limit > 0 && s.begun >= s.limit {
			why = "older ones are found with a larger --limit"
			break
		}
	}
	return fmt.Sprintf("looked at the newest %s of %s of topic %s (%s)%s: %s", terminal.Count(int(s.records), "record"), terminal.Count(int(all), "record"),
		s.topic, terminal.Size(s.bytes), looked, why), nil
}

// errEnough ends a scan.
var errEnough = errors.New("enough was read")

// scanWithin reads spans of the topic; false: the budget ended it.
func (s *transferSet) scanWithin(ctx context.Context, o *options, spans map[int32]span) (bool, error) {
	err := s.scan(ctx, o, s.topic, spans, s.record)
	if errors.Is(err, errEnough) {
		return false, nil
	}
	return true, err
}

// scan reads spans of a topic.
func (s *transferSet) scan(ctx context.Context, o *options, topic string, spans map[int32]span, each func(*kgo.Record) error) error {
	from := make(map[int32]kgo.Offset)
	for p, r := range spans {
		if r.start < r.end {
			from[p] = kgo.NewOffset().At(r.start)
		}
	}
	if len(from) == 0 {
		return nil
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(o.Brokers...), kgo.ClientID("mft-admin"), kgo.DisableClientMetrics(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.KeepControlRecords(), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxBytes(8<<20), kgo.FetchMaxPartitionBytes(4<<20))
	if err != nil {
		return err
	}
	defer client.Close()
	for len(from) > 0 {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var failed error
		fetches.EachError(func(_ string, p int32, err error) {
			if code, ok := errors.AsType[*kerr.Error](err); ok && !kerr.IsRetriable(code) {
				failed = fmt.Errorf("topic %s, partition %d: %w", topic, p, err)
			}
		})
		fetches.EachRecord(func(rec *kgo.Record) {
			r := spans[rec.Partition]
			if _, open := from[rec.Partition]; !open || failed != nil {
				return
			}
			if rec.Offset < r.end && !rec.Attrs.IsControl() {
				failed = each(rec)
			}
			if rec.Offset+1 >= r.end {
				delete(from, rec.Partition)
				client.PauseFetchPartitions(map[string][]int32{topic: {rec.Partition}})
			}
		})
		if failed != nil {
			return failed
		}
	}
	return nil
}

func (s *transferSet) receipt(rec *kgo.Record) error {
	r, err := protocol.ParseReceipt(rec.Key, rec.Value, rec.Headers)
	if err != nil {
		return nil // not one: somebody else has written it
	}
	t := s.at(r.Transfer)
	old, told := t.receipts[r.Group]
	if !told || old.State != protocol.StateDelivered || r.State == protocol.StateDelivered {
		t.receipts[r.Group] = r
	}
	return nil
}

// record looks at one record of the topic. Later ones may have been looked at
// before it.
func (s *transferSet) record(rec *kgo.Record) error {
	s.records++
	s.bytes += int64(len(rec.Key) + len(rec.Value))
	r, err := protocol.ParseFileRecord(rec.Key, rec.Value, rec.Headers)
	if bad, ok := errors.AsType[*protocol.FileRecordError](err); ok && bad.Transfer != "" {
		t := s.at(bad.Transfer)
		t.reason = bad.Reason
	} else if err == nil {
		s.add(rec, r)
	}
	if s.bytes >= s.budget {
		return errEnough
	}
	return nil
}

func (s *transferSet) add(rec *kgo.Record, r protocol.FileRecord) {
	t := s.at(r.Transfer)
	t.partition = rec.Partition
	if rec.Timestamp.After(t.last) {
		t.last = rec.Timestamp
	}
	t.encrypted = t.encrypted || r.IsSealed()
	switch r.Kind {
	case protocol.KindBegin:
		if t.offset < 0 {
			s.begun++
		}
		t.offset, t.began = rec.Offset, rec.Timestamp
		if r.IsSealed() {
			r.Sealed = bytes.Clone(r.Sealed)
			if opened, opener, err := s.ring.Open(r); err == nil {
				r, t.opener = opened, opener
			}
		}
		t.manifest = r.Manifest
	case protocol.KindChunk:
		if r.IsSealed() {
			t.parts[rec.Offset] = int64(max(0, len(r.Sealed)-protocol.SealedChunkOverhead))
		} else {
			t.parts[r.Offset] = max(t.parts[r.Offset], int64(len(r.Data)))
		}
	case protocol.KindEnd:
		t.sent, t.end = true, r.End
	case protocol.KindAbort:
		t.aborted = true
		if r.Abort != nil {
			t.reason = r.Abort.Reason
		}
	}
}

// result puts together what is known.
func (t *transferSeen) result(topic string) transferResult {
	r := transferResult{Topic: topic, Transfer: string(t.id), Encrypted: t.encrypted, State: "sending", Reason: t.reason}
	if !t.last.IsZero() {
		r.Partition, r.Last = &t.partition, &t.last
	}
	if t.offset >= 0 {
		r.Offset, r.Began = &t.offset, &t.began
	}
	if m := t.manifest; m != nil {
		r.Name, r.Type = m.Name, m.Type
		if m.Size >= 0 {
			r.Size = &m.Size
		}
	}
	if t.end != nil {
		r.Size = &t.end.Size
	}
	states := make(map[protocol.ReceiptState]bool)
	for _, group := range slices.Sorted(maps.Keys(t.receipts)) {
		c := t.receipts[group]
		if c.IsSealed() {
			r.Encrypted = true
			if t.opener != nil {
				if opened, err := t.opener.OpenReceipt(c); err == nil {
					c = opened
				} else {
					c.Reason, c.State = err.Error(), protocol.StateFailed
				}
			}
		}
		states[c.State] = true
		r.Receipts = append(r.Receipts, receiptResult{string(c.State), c.Group, c.Host, c.Client, c.Time, c.Path, c.Digest, c.DigestKind, c.Reason})
		if r.Name == "" {
			r.Name = c.Name
		}
		if r.Type == "" {
			r.Type = c.Type
		}
		if r.Size == nil && c.Size >= 0 {
			r.Size = &c.Size
		}
	}
	switch {
	case states[protocol.StateDelivered]:
		r.State = string(protocol.StateDelivered)
	case states[protocol.StateFailed]:
		r.State = string(protocol.StateFailed)
	case states[protocol.StateSkipped]:
		r.State = string(protocol.StateSkipped)
	case t.aborted:
		r.State = "aborted"
	case t.sent:
		r.State = "sent"
	default:
		t.progress(&r)
	}
	return r
}

// progress says how much of a transfer that is not sent to its end is in the
// topic, as far as that was looked at.
func (t *transferSeen) progress(r *transferResult) {
	var n, reach int64
	for offset, length := range t.parts {
		n += length
		reach = max(reach, offset+length)
	}
	if !t.encrypted && t.offset < 0 { // chunks before were not looked at
		n = reach
	}
	r.Bytes = &n
	if r.Size != nil && *r.Size > 0 {
		percent := int(min(100, n*100 / *r.Size))
		r.Percent = &percent
	}
}
