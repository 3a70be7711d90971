package protocol

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var codecs = []Codec{None, Gzip, Snappy, LZ4, Zstd}

func someRecords(n, size int) []Record {
	records := make([]Record, n)
	for i := range records {
		records[i] = Record{
			OffsetDelta:    int32(i),
			TimestampDelta: int64(i % 7),
			Key:            fmt.Appendf(nil, "key %d", i),
			Value:          pattern(size),
		}
		switch i % 5 {
		case 1:
			records[i].Key = nil
			records[i].Headers = []Header{{"a", []byte("b")}, {"", nil}, {"c", []byte{}}}
		case 2:
			records[i].Value = nil
		case 3:
			records[i].Key, records[i].Value = []byte{}, []byte{}
		}
	}
	return records
}

func encode(t testing.TB, o BatchOptions, records []Record) Batch {
	t.Helper()
	b, err := EncodeBatch(o, records)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func collect(b Batch) (records []Record, err error) {
	err = b.Records(func(r Record) bool {
		records = append(records, r)
		return true
	})
	return records, err
}

func TestBatchAccessors(t *testing.T) {
	b := encode(t, BatchOptions{
		Codec: Zstd, BaseOffset: 100, BaseTimestamp: 1_700_000_000_000,
		Producer:      &BatchProducer{ID: 1 << 40, Epoch: 3, Sequence: math.MaxInt32 - 1},
		Transactional: true, Control: true,
	}, someRecords(8, 10))
	for _, c := range []struct {
		name      string
		got, want any
	}{
		{"base offset", b.BaseOffset(), int64(100)},
		{"last offset", b.LastOffset(), int64(107)},
		{"last offset delta", b.LastOffsetDelta(), int32(7)},
		{"leader epoch", b.PartitionLeaderEpoch(), int32(-1)},
		{"attributes", b.Attributes(), int16(0x34)},
		{"codec", b.Codec(), Zstd},
		{"transactional", b.IsTransactional(), true},
		{"control", b.IsControl(), true},
		{"timestamp type", b.TimestampType(), CreateTime},
		{"base timestamp", b.BaseTimestamp(), int64(1_700_000_000_000)},
		{"max timestamp", b.MaxTimestamp(), int64(1_700_000_000_006)},
		{"producer id", b.ProducerID(), int64(1 << 40)},
		{"producer epoch", b.ProducerEpoch(), int16(3)},
		{"base sequence", b.BaseSequence(), int32(math.MaxInt32 - 1)},
		{"last sequence", b.LastSequence(), int32(5)}, // ...46, ...47, 0, 1, ...
		{"records", b.NumRecords(), int32(8)},
		{"CRC", b.CheckCRC(), nil},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v, want %v", c.name, c.got, c.want)
		}
	}

	// What a broker sets, the CRC does not cover.
	b.SetBaseOffset(1 << 50)
	b.SetPartitionLeaderEpoch(77)
	if b.BaseOffset() != 1<<50 || b.PartitionLeaderEpoch() != 77 || b.CheckCRC() != nil {
		t.Errorf("after setting: offset %d, epoch %d, %v", b.BaseOffset(), b.PartitionLeaderEpoch(), b.CheckCRC())
	}
	b.SetMaxTimestamp(5, LogAppendTime)
	if b.MaxTimestamp() != 5 || b.TimestampType() != LogAppendTime || b.Codec() != Zstd || b.CheckCRC() != nil ||
		b.Timestamp(Record{TimestampDelta: 3}) != 5 {
		t.Errorf("log append time: %d, %d, %v", b.MaxTimestamp(), b.TimestampType(), b.CheckCRC())
	}
	b.SetMaxTimestamp(6, CreateTime)
	if b.TimestampType() != CreateTime || b.CheckCRC() != nil || b.Timestamp(Record{TimestampDelta: 3}) != 1_700_000_000_003 {
		t.Errorf("create time: %d, %v", b.TimestampType(), b.CheckCRC())
	}
	if got := encode(t, BatchOptions{}, someRecords(3, 1)); got.LastSequence() != -1 || got.ProducerID() != -1 || got.ProducerEpoch() != -1 {
		t.Errorf("without a producer: %d, %d, %d", got.LastSequence(), got.ProducerID(), got.ProducerEpoch())
	}
}

func TestNextBatch(t *testing.T) {
	var log []byte
	var want []Batch
	for _, c := range codecs {
		b := encode(t, BatchOptions{Codec: c}, someRecords(3, 50))
		want = append(want, b)
		log = append(log, b...)
	}
	rest := log
	for i := range want {
		b, next, err := NextBatch(rest)
		if err != nil || !bytes.Equal(b, want[i]) || cap(b) != len(b) || &b[0] != &rest[0] {
			t.Fatalf("batch %d: %v", i, err)
		}
		rest = next
	}
	if _, _, err := NextBatch(rest); err != io.EOF {
		t.Fatalf("at the end: %v", err)
	}
	for n := range want[0] {
		if _, rest, err := NextBatch(log[:n]); n > 0 && err != ErrShortBatch || n == 0 && err != io.EOF || len(rest) != n {
			t.Fatalf("%d of %d bytes: %v", n, len(want[0]), err)
		}
	}
	for _, c := range []struct {
		name  string
		at    int
		bytes string
		code  int16
	}{
		{"magic 0", atMagic, "\x00", kerr.UnsupportedForMessageFormat.Code},
		{"magic 1", atMagic, "\x01", kerr.UnsupportedForMessageFormat.Code},
		{"magic 3", atMagic, "\x03", kerr.CorruptMessage.Code},
		{"magic -1", atMagic, "\xff", kerr.CorruptMessage.Code},
		{"length 0", atLength, "\x00\x00\x00\x00", kerr.CorruptMessage.Code},
		{"length 48", atLength, "\x00\x00\x00\x30", kerr.CorruptMessage.Code},
		{"length -1", atLength, "\xff\xff\xff\xff", kerr.CorruptMessage.Code},
		{"length least", atLength, "\x80\x00\x00\x00", kerr.CorruptMessage.Code},
	} {
		buf := bytes.Clone(log)
		copy(buf[c.at:], c.bytes)
		var be *BatchError
		if _, _, err := NextBatch(buf); !errors.As(err, &be) || be.Code != c.code {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	zeros := make([]byte, 4096) // a preallocated tail is no batch
	if _, _, err := NextBatch(zeros); err == nil || err == ErrShortBatch {
		t.Errorf("zeros: %v", err)
	}
	// A length at the limit of 32 bits does not overflow.
	copy(log[atLength:], "\x7f\xff\xff\xff")
	if _, _, err := NextBatch(log); err != ErrShortBatch {
		t.Errorf("greatest length: %v", err)
	}
}

func TestEncodeBatchRoundTrip(t *testing.T) {
	for _, c := range codecs {
		for _, n := range []int{1, 2, 63, 64, 65, 1000} {
			want := someRecords(n, n%300)
			b := encode(t, BatchOptions{Codec: c, BaseTimestamp: 5}, want)
			if err := NewValidator().Validate(b); err != nil {
				t.Fatalf("%s, %d records: %v", c, n, err)
			}
			got, err := collect(b)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("%s, %d records: %v, %d came back", c, n, err, len(got))
			}
		}
	}
	if b, err := EncodeBatch(BatchOptions{}, nil); err == nil {
		t.Errorf("no records: %x", b)
	}
	if b, err := EncodeBatch(BatchOptions{Codec: 5}, someRecords(1, 1)); err == nil {
		t.Errorf("codec 5: %x", b)
	}
}

// TestEncodeBatchReadByKgo has franz-go read our batches.
func TestEncodeBatchReadByKgo(t *testing.T) {
	for _, c := range codecs {
		want := someRecords(20, 500)
		b := encode(t, BatchOptions{Codec: c, BaseOffset: 1000, BaseTimestamp: 1_700_000_000_000}, want)
		fetched := kmsg.NewFetchResponseTopicPartition()
		fetched.RecordBatches = b
		fetched.HighWatermark = 2000
		p, _ := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{Offset: 1000, Topic: "t"}, &fetched, kgo.DefaultDecompressor(), nil)
		if p.Err != nil || len(p.Records) != len(want) {
			t.Fatalf("%s: %v, %d records", c, p.Err, len(p.Records))
		}
		for i, r := range p.Records {
			var headers []Header
			for _, h := range r.Headers {
				headers = append(headers, Header(h))
			}
			if r.Offset != 1000+int64(i) || r.Timestamp.UnixMilli() != b.Timestamp(want[i]) ||
				!bytes.Equal(r.Key, want[i].Key) || !bytes.Equal(r.Value, want[i].Value) || len(headers) != len(want[i].Headers) {
				t.Errorf("%s: record %d is %+v", c, i, r)
			}
		}
	}
}

func TestRecordsStops(t *testing.T) {
	b := encode(t, BatchOptions{}, someRecords(10, 3))
	seen := 0
	if err := b.Records(func(Record) bool { seen++; return seen < 4 }); err != nil || seen != 4 {
		t.Fatalf("%d seen, %v", seen, err)
	}
}

// TestRecordsWithGaps reads a batch as compaction leaves it.
func TestRecordsWithGaps(t *testing.T) {
	var body []byte
	for _, d := range []int32{1, 4, 5} {
		r := appendRecord(nil, Record{OffsetDelta: d, Value: []byte("v")})
		body = append(binary.AppendVarint(body, int64(len(r))), r...)
	}
	compacted := func(last int32) Batch {
		b := append(Batch{}, encode(t, BatchOptions{}, someRecords(3, 1))[:BatchHeaderLen]...)
		b = append(b, body...)
		binary.BigEndian.PutUint32(b[atLength:], uint32(len(b)-lengthCounts))
		binary.BigEndian.PutUint32(b[atLastDelta:], uint32(last))
		b.setCRC()
		return b
	}
	got, err := collect(compacted(9))
	if err != nil || len(got) != 3 || got[1].OffsetDelta != 4 {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := collect(compacted(4)); err == nil {
		t.Error("a record behind the last offset passed")
	}
	if err := NewValidator().Validate(compacted(9)); err == nil {
		t.Error("a producer's batch with gaps passed")
	}
}

func TestCodecNames(t *testing.T) {
	for _, c := range codecs {
		if got, err := ParseCodec(c.String()); err != nil || got != c {
			t.Errorf("%s: %v, %v", c, got, err)
		}
	}
	if _, err := ParseCodec("brotli"); err == nil {
		t.Error("brotli is known")
	}
	if got := Codec(6).String(); got != "codec 6" {
		t.Error(got)
	}
}
