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
	n, failed := readParts(a.parts, int(req.MaxBytes))
	if !ready && !failed && n < int(req.MinBytes) && wait > 0 {
		held.release()
		c.awaitRecords(a.parts, req, wait)
	}
	for i := range a.parts {
		p := &a.parts[i]
		if p.log != nil && p.out.ErrorCode == 0 {
			p.setOffsets()
		}
		if p.records != nil {
			p.out.RecordBytes = p.records.Len()
		}
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
			p := fetchPart{log: t.log(rp.Partition), offset: rp.FetchOffset, max: int(rp.PartitionMaxBytes), out: po}
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

// readParts reads the partitions that have something new, up to maxBytes in
// all; the first batch comes whole, however large. It returns the bytes that
// all of them hold now; failed: a partition cannot be read.
func readParts(parts []fetchPart, maxBytes int) (n int, failed bool) {
	for i := range parts {
		if r := parts[i].records; r != nil {
			n += int(r.Len())
		}
	}
	for i := range parts {
		p := &parts[i]
		if p.log == nil || p.records != nil || p.offset == p.log.HighWatermark() && !p.log.Closed() {
			continue
		}
		limit := min(p.max, maxBytes-n)
		if limit <= 0 && n > 0 {
			continue
		}
		records, err := p.log.Read(p.offset, limit, n == 0)
		if err == nil && records.Len() == 0 {
			if err = records.Release(); err == nil {
				continue
			}
		}
		if err != nil {
			p.out.ErrorCode, _ = errorCode(err)
			if errors.Is(err, segment.ErrOffsetOutOfRange) {
				p.setOffsets()
			}
			failed = true
			continue
		}
		p.records = records
		n += int(records.Len())
	}
	return n, failed
}

// awaitRecords waits until the partitions hold min_bytes, one of them fails,
// the time is up, or the client is gone.
func (c *conn) awaitRecords(parts []fetchPart, req *kmsg.FetchRequest, wait time.Duration) {
	w := segment.NewWaiter()
	for i := range parts {
		if l := parts[i].log; l != nil {
			l.Watch(w)
			defer l.Unwatch(w)
		}
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		// Read after Watch: what came in between is not missed.
		n, failed := readParts(parts, int(req.MaxBytes))
		if failed || n >= int(req.MinBytes) {
			return
		}
		select {
		case <-w.C:
		case <-timer.C:
			return
		case <-c.ctx.Done():
			return
		}
	}
}
