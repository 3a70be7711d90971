package broker

import (
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"mft/protocol"
	"mft/segment"
)

// Fetch (1), versions 4-18.
//
// A fetch that finds less than min_bytes waits on the high watermarks of its
// partitions: it wakes on the append that becomes visible, not on a timer.
// Records leave the broker as they lie on disk (see fetch_send.go). Every
// fetch names all its partitions: no fetch session is ever begun (session id
// 0 in each answer), as Kafka does when its session cache is full. Isolation
// levels make no difference without transactions.

// maxFetchWait bounds how long a fetch may wait, whatever it asks for.
const maxFetchWait = 5 * time.Minute

// fetchPart is one partition of a fetch under way.
type fetchPart struct {
	log     *segment.Log
	offset  int64
	max     int
	seen    int64          // high watermark when it was read last, at first the wanted offset
	records *segment.Range // nil: nothing yet
	out     *protocol.FetchPartition
}

// fetchAnswer is a Fetch response whose records are still on disk.
type fetchAnswer struct {
	protocol.FetchResponse
	parts []fetchPart
}

// fetch reads what there is, waiting for min_bytes if need be.
func (c *conn) fetch(req *kmsg.FetchRequest, held *lease) answer {
	a := &fetchAnswer{}
	if req.SessionID != 0 {
		a.ErrorCode = kerr.FetchSessionIDNotFound.Code
		return answer{fetch: a}
	}
	ready := c.resolve(req, a)
	wait := min(time.Duration(req.MaxWaitMillis)*time.Millisecond, maxFetchWait)
	n, failed := a.readParts(int(req.MaxBytes))
	if !ready && !failed && n < int(req.MinBytes) && wait > 0 {
		held.release()
		c.awaitRecords(a, req, wait)
	}
	for i := range a.parts {
		p := &a.parts[i]
		if p.log != nil && p.out.ErrorCode == 0 {
			p.setOffsets()
		}
		p.out.RecordBytes = int64(p.len())
	}
	return answer{fetch: a}
}

func (p *fetchPart) setOffsets() {
	p.out.HighWatermark, p.out.LogStartOffset = p.log.HighWatermark(), p.log.StartOffset()
	p.out.LastStableOffset = p.out.HighWatermark
}

// resolve finds the partitions of a fetch. ready: an error is among them, so
// the answer does not wait.
func (c *conn) resolve(req *kmsg.FetchRequest, a *fetchAnswer) (ready bool) {
	a.Topics = make([]protocol.FetchTopic, len(req.Topics))
	for i := range req.Topics {
		rt, out := &req.Topics[i], &a.Topics[i]
		t, kerror := c.b.topics.find(rt.Topic, rt.TopicID)
		out.Topic, out.TopicID = rt.Topic, rt.TopicID
		out.Partitions = make([]protocol.FetchPartition, len(rt.Partitions))
		for j := range rt.Partitions {
			rp, po := &rt.Partitions[j], &out.Partitions[j]
			*po = protocol.FetchPartition{Partition: rp.Partition, HighWatermark: -1, LastStableOffset: -1, LogStartOffset: -1}
			p := fetchPart{log: t.log(rp.Partition), offset: rp.FetchOffset, seen: rp.FetchOffset, max: int(rp.PartitionMaxBytes), out: po}
			err := kerror
			if err == nil && p.log == nil {
				err = kerr.UnknownTopicOrPartition
			}
			if err == nil {
				err = c.b.checkEpoch(rp.CurrentLeaderEpoch)
			}
			if err != nil {
				po.ErrorCode, p.log, ready = err.Code, nil, true
			}
			a.parts = append(a.parts, p)
		}
	}
	return ready
}

// readParts reads every partition that has something; see read. It returns
// the bytes that all of them hold now.
func (a *fetchAnswer) readParts(maxBytes int) (n int, failed bool) {
	for i := range a.parts {
		n += a.parts[i].len()
	}
	for i := range a.parts {
		failed = a.parts[i].read(&n, maxBytes) || failed
	}
	return n, failed
}

// len returns the bytes of records that were read.
func (p *fetchPart) len() int {
	if p.records == nil {
		return 0
	}
	return int(p.records.Len())
}

// read reads what is new in a partition since it was read last, up to
// maxBytes in all partitions; the first batch comes whole, however large. n is
// the bytes that all of them hold. failed: the partition cannot be read, and
// waiting is over.
func (p *fetchPart) read(n *int, maxBytes int) (failed bool) {
	if p.log == nil || p.out.ErrorCode != 0 || p.seen == p.log.HighWatermark() && !p.log.Closed() {
		return false
	}
	had := p.len()
	limit := min(p.max, maxBytes-*n+had)
	if limit <= had && *n > 0 {
		return false
	}
	records, err := p.log.Read(p.offset, limit, *n == had)
	if err == nil {
		p.seen = records.HighWatermark
		if int(records.Len()) > had {
			p.records, records = records, p.records
			*n += int(p.records.Len()) - had
		}
		if records != nil {
			err = records.Release()
		}
	}
	if err != nil && p.records == nil { // else the client gets what was read before, and the error the next time
		p.out.ErrorCode, _ = errorCode(err)
		if errors.Is(err, segment.ErrOffsetOutOfRange) {
			p.setOffsets()
		}
	}
	return err != nil
}

// awaitRecords waits until the partitions hold min_bytes, one of them fails,
// the time is up, or the client is gone. A wake costs a look at the
// partitions that moved, however many others there are.
func (c *conn) awaitRecords(a *fetchAnswer, req *kmsg.FetchRequest, wait time.Duration) {
	w := segment.NewWaiter()
	for i := range a.parts {
		if l := a.parts[i].log; l != nil {
			l.Watch(w, i)
		}
	}
	defer func() {
		for i := range a.parts {
			if l := a.parts[i].log; l != nil {
				l.Unwatch(w)
			}
		}
	}()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	// Read after Watch: what came in between is not missed.
	n, failed := a.readParts(int(req.MaxBytes))
	var moved []int
	for !failed && n < int(req.MinBytes) {
		select {
		case <-w.C:
		case <-timer.C:
			return
		case <-c.ctx.Done():
			return
		}
		moved = w.Moved(moved[:0])
		for _, i := range moved {
			failed = a.parts[i].read(&n, int(req.MaxBytes)) || failed
		}
	}
}
