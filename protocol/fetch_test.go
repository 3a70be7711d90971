package protocol

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// spliced puts the records into their gaps, as a broker does on the socket.
func spliced(head []byte, gaps []FetchGap, records func(topic, partition int) []byte) []byte {
	var frame []byte
	at := 0
	for _, g := range gaps {
		frame = append(frame, head[at:g.At]...)
		frame = append(frame, records(g.Topic, g.Partition)[:g.Bytes]...)
		at = g.At
	}
	return append(frame, head[at:]...)
}

// randomFetch is an answer to Fetch in our form and in kmsg's.
func randomFetch(rng *rand.Rand, version int16, records []byte) (FetchResponse, *kmsg.FetchResponse) {
	r := FetchResponse{ThrottleMillis: rng.Int32(), ErrorCode: int16(rng.IntN(100)), SessionID: rng.Int32()}
	k := kmsg.NewPtrFetchResponse()
	k.Version, k.ThrottleMillis, k.ErrorCode, k.SessionID = version, r.ThrottleMillis, r.ErrorCode, r.SessionID
	for range rng.IntN(4) {
		topic := FetchTopic{Topic: string(pattern(rng.IntN(200)))}
		binary.BigEndian.PutUint64(topic.TopicID[:], rng.Uint64())
		kt := kmsg.NewFetchResponseTopic()
		kt.Topic, kt.TopicID = topic.Topic, topic.TopicID
		for i := range rng.IntN(200) % 140 {
			p := FetchPartition{
				Partition: int32(i), ErrorCode: int16(rng.IntN(3)), HighWatermark: rng.Int64(),
				LastStableOffset: rng.Int64(), LogStartOffset: -1, RecordBytes: int64(rng.IntN(3) * rng.IntN(300)),
			}
			kp := kmsg.NewFetchResponseTopicPartition()
			kp.Partition, kp.ErrorCode, kp.HighWatermark, kp.LastStableOffset = p.Partition, p.ErrorCode, p.HighWatermark, p.LastStableOffset
			kp.LogStartOffset = p.LogStartOffset
			kp.RecordBatches = records[:p.RecordBytes]
			if n := rng.IntN(4); n > 0 {
				p.Aborted = []AbortedTransaction{}
				kp.AbortedTransactions = []kmsg.FetchResponseTopicPartitionAbortedTransaction{}
				for range n - 1 {
					a := AbortedTransaction{ProducerID: rng.Int64(), FirstOffset: rng.Int64()}
					ka := kmsg.NewFetchResponseTopicPartitionAbortedTransaction()
					ka.ProducerID, ka.FirstOffset = a.ProducerID, a.FirstOffset
					p.Aborted = append(p.Aborted, a)
					kp.AbortedTransactions = append(kp.AbortedTransactions, ka)
				}
			}
			topic.Partitions = append(topic.Partitions, p)
			kt.Partitions = append(kt.Partitions, kp)
		}
		r.Topics = append(r.Topics, topic)
		k.Topics = append(k.Topics, kt)
	}
	return r, k
}

// TestFetchResponse is the law: our bytes with the records put in are kmsg's bytes.
func TestFetchResponse(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	records := pattern(1000)
	api, _ := LookupAPI(keyFetch)
	for v := api.Min; v <= api.Max; v++ {
		for range 30 {
			ours, theirs := randomFetch(rng, v, records)
			head, gaps, err := ours.AppendFrame([]byte("before"), []FetchGap{{At: -1}}, v, 99)
			if err != nil {
				t.Fatal(err)
			}
			if string(head[:6]) != "before" || gaps[0].At != -1 {
				t.Fatal("what was there before is gone")
			}
			frame := spliced(head, gaps[1:], func(topic, p int) []byte {
				return theirs.Topics[topic].Partitions[p].RecordBatches
			})[6:]
			want := AppendResponseHeader(nil, RequestHeader{Key: keyFetch, Version: v, CorrelationID: 99})
			want = frameOf(theirs.AppendTo(want))
			if !bytes.Equal(frame, want) {
				t.Fatalf("version %d: %d bytes, want %d\n%x\n%x", v, len(frame), len(want), frame, want)
			}
			body, err := ReadFrame(bytes.NewReader(frame), nil, len(frame))
			if err != nil {
				t.Fatal(err)
			}
			decoded := kmsg.NewPtrFetchResponse()
			decoded.Version = v
			headerLen := 4
			if v >= 12 {
				headerLen = 5
			}
			if err := decoded.ReadFrom(body[headerLen:]); err != nil {
				t.Fatal(err)
			}
			if len(decoded.Topics) != len(theirs.Topics) || !bytes.Equal(decoded.AppendTo(nil), theirs.AppendTo(nil)) {
				t.Fatalf("version %d: decoded as %+v", v, decoded)
			}
		}
	}
}

func TestFetchResponseRefuses(t *testing.T) {
	r := FetchResponse{Topics: []FetchTopic{{Topic: "t", Partitions: []FetchPartition{
		{RecordBytes: math.MaxInt32 / 2}, {RecordBytes: math.MaxInt32 / 2}, {RecordBytes: 100},
	}}}}
	dst, gaps := []byte("x"), []FetchGap{{At: 3}}
	for name, try := range map[string]func() ([]byte, []FetchGap, error){
		"over 2 GiB": func() ([]byte, []FetchGap, error) { return r.AppendFrame(dst, gaps, 12, 1) },
		"version 3":  func() ([]byte, []FetchGap, error) { return new(FetchResponse).AppendFrame(dst, gaps, 3, 1) },
		"version 19": func() ([]byte, []FetchGap, error) { return new(FetchResponse).AppendFrame(dst, gaps, 19, 1) },
	} {
		gotDst, gotGaps, err := try()
		if err == nil || !bytes.Equal(gotDst, dst) || !reflect.DeepEqual(gotGaps, gaps) {
			t.Errorf("%s: %x, %v, %v", name, gotDst, gotGaps, err)
		}
	}
}

func BenchmarkFetchResponse(b *testing.B) {
	r := FetchResponse{Topics: []FetchTopic{{Partitions: make([]FetchPartition, 100)}}}
	for i := range r.Topics[0].Partitions {
		r.Topics[0].Partitions[i] = FetchPartition{Partition: int32(i), RecordBytes: 1 << 20}
	}
	var dst []byte
	var gaps []FetchGap
	var err error
	b.ReportAllocs()
	for b.Loop() {
		if dst, gaps, err = r.AppendFrame(dst[:0], gaps[:0], 18, 1); err != nil {
			b.Fatal(err)
		}
	}
}
