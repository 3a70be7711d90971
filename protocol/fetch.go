package protocol

import (
	"encoding/binary"
	"fmt"
	"math"
)

const keyFetch = 1

// FetchResponse is an answer to Fetch whose records stay where they are: it
// knows how many bytes of them each partition gets, and AppendFrame says where
// in the answer they go, so that they can be sent from their files.
type FetchResponse struct {
	ThrottleMillis int32
	ErrorCode      int16
	SessionID      int32
	Topics         []FetchTopic
}

// FetchTopic is named by Topic up to version 12, by TopicID from 13 on.
type FetchTopic struct {
	Topic      string
	TopicID    [16]byte
	Partitions []FetchPartition
}

// FetchPartition is one partition's part of the answer. Offsets that are not
// known are -1.
type FetchPartition struct {
	Partition        int32
	ErrorCode        int16
	HighWatermark    int64
	LastStableOffset int64
	LogStartOffset   int64
	// Aborted are the aborted transactions among the records; nil is null, for readers
	// that do not ask for committed records only.
	Aborted []AbortedTransaction
	// RecordBytes is how many bytes of records are sent.
	RecordBytes int64
}

// AbortedTransaction tells a reader of committed records whose to leave out.
type AbortedTransaction struct {
	ProducerID  int64
	FirstOffset int64
}

// FetchGap is a place in the bytes of AppendFrame where records go: before the
// byte at index At of the returned slice go Bytes bytes of the records of
// Topics[Topic].Partitions[Partition].
type FetchGap struct {
	At               int
	Bytes            int64
	Topic, Partition int
}

// AppendFrame appends the whole frame of the answer, length, header and body,
// but for the records, and to gaps one FetchGap for each partition that sends
// any, in the order of the frame. The length at the front counts the records.
// Tagged fields are not sent. version must be one that mft serves (4 to 18).
//
//	dst:   | length, header, topic, partition 0 ... | partition 1 ... | rest |
//	                                      gap 0 ----^       gap 1 ----^
//
// It fails, having appended nothing, when the frame would be longer than a
// frame can be (2 GiB) or version is not served.
func (r *FetchResponse) AppendFrame(dst []byte, gaps []FetchGap, version int16, correlationID int32) ([]byte, []FetchGap, error) {
	api, ok := LookupAPI(keyFetch)
	if !ok || !api.Serves(version) {
		return dst, gaps, fmt.Errorf("version %d of Fetch is not served", version)
	}
	e := fetchEncoder{dst: dst, gaps: gaps, version: version, flexible: api.isFlexible(version)}
	e.dst = append(e.dst, 0, 0, 0, 0)
	e.dst = AppendResponseHeader(e.dst, RequestHeader{Key: keyFetch, Version: version, CorrelationID: correlationID})
	e.response(r)
	length := int64(len(e.dst)-len(dst)-4) + e.records
	if length > math.MaxInt32 {
		return dst, gaps, fmt.Errorf("an answer to Fetch would take %d bytes: send fewer records", length)
	}
	binary.BigEndian.PutUint32(e.dst[len(dst):], uint32(length))
	return e.dst, e.gaps, nil
}

type fetchEncoder struct {
	dst      []byte
	gaps     []FetchGap
	version  int16
	flexible bool
	records  int64 // bytes in the gaps
}

func (e *fetchEncoder) response(r *FetchResponse) {
	e.int32(r.ThrottleMillis)
	if e.version >= 7 {
		e.int16(r.ErrorCode)
		e.int32(r.SessionID)
	}
	e.length(4, int64(len(r.Topics)))
	for t := range r.Topics {
		e.topic(&r.Topics[t], t)
	}
	e.tags()
}

func (e *fetchEncoder) topic(t *FetchTopic, index int) {
	if e.version <= 12 {
		e.length(2, int64(len(t.Topic)))
		e.dst = append(e.dst, t.Topic...)
	} else {
		e.dst = append(e.dst, t.TopicID[:]...)
	}
	e.length(4, int64(len(t.Partitions)))
	for p := range t.Partitions {
		e.partition(&t.Partitions[p], index, p)
	}
	e.tags()
}

func (e *fetchEncoder) partition(p *FetchPartition, topic, index int) {
	e.int32(p.Partition)
	e.int16(p.ErrorCode)
	e.int64(p.HighWatermark)
	e.int64(p.LastStableOffset)
	if e.version >= 5 {
		e.int64(p.LogStartOffset)
	}
	if p.Aborted == nil {
		e.length(4, -1)
	} else {
		e.length(4, int64(len(p.Aborted)))
	}
	for _, a := range p.Aborted {
		e.int64(a.ProducerID)
		e.int64(a.FirstOffset)
		e.tags()
	}
	if e.version >= 11 {
		e.int32(-1) // preferred read replica: none
	}
	e.length(4, p.RecordBytes)
	if p.RecordBytes > 0 {
		e.gaps = append(e.gaps, FetchGap{At: len(e.dst), Bytes: p.RecordBytes, Topic: topic, Partition: index})
		e.records += p.RecordBytes
	}
	e.tags()
}

func (e *fetchEncoder) int16(v int16) { e.dst = binary.BigEndian.AppendUint16(e.dst, uint16(v)) }
func (e *fetchEncoder) int32(v int32) { e.dst = binary.BigEndian.AppendUint32(e.dst, uint32(v)) }
func (e *fetchEncoder) int64(v int64) { e.dst = binary.BigEndian.AppendUint64(e.dst, uint64(v)) }

// length appends the length of a string (size 2), bytes or array (size 4); -1 is null.
// One beyond 32 bits makes the frame too long, which AppendFrame reports.
func (e *fetchEncoder) length(size int, n int64) {
	switch {
	case e.flexible:
		e.dst = binary.AppendUvarint(e.dst, uint64(n+1))
	case size == 2:
		e.int16(int16(n))
	default:
		e.int32(int32(n))
	}
}

// tags ends a struct with no tagged fields.
func (e *fetchEncoder) tags() {
	if e.flexible {
		e.dst = append(e.dst, 0)
	}
}
