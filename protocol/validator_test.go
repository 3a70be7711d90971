package protocol

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"sync"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// sealed is a batch of the given header fields and body, with length and CRC right.
func sealed(t testing.TB, c Codec, records int32, body []byte) Batch {
	t.Helper()
	b := append(Batch{}, encode(t, BatchOptions{}, someRecords(1, 1))[:BatchHeaderLen]...)
	b = append(b, body...)
	binary.BigEndian.PutUint16(b[atAttributes:], uint16(c))
	binary.BigEndian.PutUint32(b[atLastDelta:], uint32(records-1))
	binary.BigEndian.PutUint32(b[atNumRecords:], uint32(records))
	binary.BigEndian.PutUint32(b[atLength:], uint32(len(b)-lengthCounts))
	b.setCRC()
	return b
}

// body is the records of a batch before compression.
func bodyOf(t testing.TB, records []Record) []byte {
	t.Helper()
	return bytes.Clone(encode(t, BatchOptions{}, records)[BatchHeaderLen:])
}

func wantBatchError(t *testing.T, name string, err error, code int16) {
	t.Helper()
	var be *BatchError
	if !errors.As(err, &be) || be.Code != code || be.Error() == "" {
		t.Errorf("%s: %v, want %v", name, err, kerr.ErrorForCode(code))
	}
}

func TestValidateHeader(t *testing.T) {
	corrupt, wrong := kerr.CorruptMessage.Code, kerr.InvalidRecord.Code
	codec := kerr.UnsupportedCompressionType.Code
	u16 := func(v int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(v)) }
	u32 := func(v int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(v)) }
	u64 := func(v int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(v)) }
	for _, c := range []struct {
		name  string
		at    int
		bytes []byte
		code  int16 // 0: valid
		seal  bool  // make the CRC right again
	}{
		{"untouched", 0, nil, 0, false},
		{"base offset", atBaseOffset, u64(1), wrong, false},
		{"base offset below 0", atBaseOffset, u64(-1), wrong, false},
		{"length one more", atLength, u32(0), corrupt, false}, // set below
		{"length one less", atLength, u32(0), corrupt, false}, // set below
		{"length 0", atLength, u32(0), corrupt, false},
		{"length -1", atLength, u32(-1), corrupt, false},
		{"leader epoch", atLeaderEpoch, u32(5), 0, false},
		{"magic 0", atMagic, []byte{0}, kerr.UnsupportedForMessageFormat.Code, false},
		{"magic 1", atMagic, []byte{1}, kerr.UnsupportedForMessageFormat.Code, false},
		{"magic 3", atMagic, []byte{3}, corrupt, false},
		{"CRC", atCRC, u32(1), corrupt, false},
		{"attributes, CRC wrong", atAttributes, u16(1), corrupt, false},
		{"codec 5", atAttributes, u16(5), codec, true},
		{"codec 6", atAttributes, u16(6), codec, true},
		{"codec 7", atAttributes, u16(7), codec, true},
		{"another codec", atAttributes, u16(1), wrong, true},
		{"log append time", atAttributes, u16(logAppendTimeBit), kerr.InvalidTimestamp.Code, true},
		{"transactional", atAttributes, u16(transactionalBit), 0, true},
		{"control", atAttributes, u16(controlBit), wrong, true},
		{"delete horizon", atAttributes, u16(deleteHorizonBit), wrong, true},
		{"attribute bit 7", atAttributes, u16(1 << 7), wrong, true},
		{"attribute bit 15", atAttributes, u16(1 << 15), wrong, true},
		{"last offset delta one less", atLastDelta, u32(8), wrong, true},
		{"last offset delta one more", atLastDelta, u32(10), wrong, true},
		{"last offset delta -1", atLastDelta, u32(-1), wrong, true},
		{"last offset delta greatest", atLastDelta, u32(math.MaxInt32), wrong, true},
		{"base timestamp", atBaseTimestamp, u64(77), 0, true},
		{"no base timestamp", atBaseTimestamp, u64(-1), 0, true},
		{"base timestamp greatest", atBaseTimestamp, u64(math.MaxInt64), wrong, true},
		{"max timestamp too great", atMaxTimestamp, u64(math.MaxInt64), 0, true},
		{"max timestamp too small", atMaxTimestamp, u64(-1), 0, true},
		{"no producer id", atProducerID, u64(-1), 0, true},
		{"no producer epoch", atProducerEpoch, u16(-1), wrong, true},
		{"producer epoch", atProducerEpoch, u16(9), 0, true},
		{"no base sequence", atBaseSequence, u32(-1), wrong, true},
		{"least base sequence", atBaseSequence, u32(math.MinInt32), wrong, true},
		{"greatest base sequence", atBaseSequence, u32(math.MaxInt32), 0, true},
		{"one record less", atNumRecords, u32(9), wrong, true},
		{"one record more", atNumRecords, u32(11), wrong, true},
		{"no records", atNumRecords, u32(0), wrong, true},
		{"-1 records", atNumRecords, u32(-1), wrong, true},
	} {
		for _, compression := range []Codec{None, Zstd} {
			b := encode(t, BatchOptions{Codec: compression, Producer: &BatchProducer{ID: 7, Epoch: 1, Sequence: 4}}, someRecords(10, 20))
			patch := c.bytes
			switch {
			case c.name == "length one more":
				patch = u32(len(b) - lengthCounts + 1)
			case c.name == "length one less":
				patch = u32(len(b) - lengthCounts - 1)
			case c.at == atAttributes && c.name != "another codec" && c.code != codec && c.seal:
				patch = u16(int(binary.BigEndian.Uint16(patch)) | int(compression))
			}
			copy(b[c.at:], patch)
			if c.seal {
				b.setCRC()
			}
			err := NewValidator().Validate(b)
			if c.code != 0 {
				wantBatchError(t, c.name+", "+compression.String(), err, c.code)
				continue
			}
			if err != nil || b.CheckCRC() != nil || b.MaxTimestamp() != max(b.BaseTimestamp()+6, -1) {
				t.Errorf("%s, %s: %v, max timestamp %d", c.name, compression, err, b.MaxTimestamp())
			}
		}
	}

	// Counts that agree with each other, but not with the records.
	for _, n := range []int32{1, 9, 11, math.MaxInt32} {
		b := sealed(t, None, n, bodyOf(t, someRecords(10, 20)))
		wantBatchError(t, "counts", NewValidator().Validate(b), wrong)
		if _, err := collect(b); err == nil {
			t.Errorf("Records read %d of 10", n)
		}
	}
	// A transaction needs a producer.
	b := encode(t, BatchOptions{Transactional: true}, someRecords(1, 1))
	wantBatchError(t, "transaction without producer", NewValidator().Validate(b), wrong)
}

func TestValidateLengths(t *testing.T) {
	whole := encode(t, BatchOptions{}, someRecords(2, 10))
	for n := range len(whole) {
		wantBatchError(t, "cut", NewValidator().Validate(whole[:n]), kerr.CorruptMessage.Code)
		if _, err := collect(whole[:n]); err == nil {
			t.Errorf("Records read %d of %d bytes", n, len(whole))
		}
	}
	wantBatchError(t, "one more", NewValidator().Validate(append(bytes.Clone(whole), 0)), kerr.CorruptMessage.Code)
	// Cut or lengthened inside a header that agrees, for every codec.
	for _, c := range codecs {
		b := encode(t, BatchOptions{Codec: c}, someRecords(2, 10))
		body := b[BatchHeaderLen:]
		for n := range body {
			wantBatchError(t, c.String()+" cut", NewValidator().Validate(sealed(t, c, 2, body[:n])), kerr.InvalidRecord.Code)
		}
	}
	wantBatchError(t, "bytes behind", NewValidator().Validate(sealed(t, None, 2, append(bytes.Clone(whole[BatchHeaderLen:]), 0))), kerr.InvalidRecord.Code)
	for _, c := range codecs[1:] {
		body, err := compress(nil, c, append(bytes.Clone(whole[BatchHeaderLen:]), 0))
		if err != nil {
			t.Fatal(err)
		}
		wantBatchError(t, c.String()+", bytes behind", NewValidator().Validate(sealed(t, c, 2, body)), kerr.InvalidRecord.Code)
	}
}

func TestValidateEveryBit(t *testing.T) {
	for _, c := range codecs {
		whole := encode(t, BatchOptions{Codec: c}, someRecords(3, 10))
		v := NewValidator()
		for i := range len(whole) * 8 {
			b := bytes.Clone(whole)
			b[i/8] ^= 1 << (i % 8)
			err := v.Validate(b)
			if at := i / 8; at >= atLeaderEpoch && at < atMagic {
				if err != nil {
					t.Errorf("%s, leader epoch: %v", c, err)
				}
			} else if err == nil {
				t.Errorf("%s: bit %d of byte %d flipped and not noticed", c, i%8, at)
			}
		}
	}
}

func TestValidateRecords(t *testing.T) {
	// One record of value "v", field by field.
	const good = "\x0e" + "\x00" + "\x00" + "\x00" + "\x01" + "\x02v" + "\x00"
	for _, c := range []struct {
		name, body string
		ok         bool
	}{
		{"good", good, true},
		{"attributes are ignored", "\x0e\xff\x00\x00\x01\x02v\x00", true},
		{"key and headers", "\x1a\x00\x00\x00\x02k\x02v\x04\x00\x01\x02h\x00", true},
		{"length in more bytes than needed", "\x8e\x80\x00" + good[1:], true},
		{"length 0", "\x00" + good[1:], false},
		{"length -1", "\x01" + good[1:], false},
		{"length one less", "\x0c" + good[1:], false},
		{"length one more", "\x10" + good[1:], false},
		{"length of 6 bytes", "\x8e\x80\x80\x80\x80\x00" + good[1:], false},
		{"length beyond 32 bits", "\x8e\x80\x80\x80\x7f" + good[1:], false},
		{"length greatest", "\xfe\xff\xff\xff\x0f" + good[1:], false},
		{"timestamp of 10 bytes", "\x20\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00\x01\x02v\x00", true},
		{"timestamp beyond 64 bits", "\x20\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02\x00\x01\x02v\x00", false},
		{"timestamp of 11 bytes", "\x22\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x81\x00\x00\x01\x02v\x00", false},
		{"offset delta 1", "\x0e\x00\x00\x02\x01\x02v\x00", false},
		{"offset delta -1", "\x0e\x00\x00\x01\x01\x02v\x00", false},
		{"key length -2", "\x0e\x00\x00\x00\x03\x02v\x00", false},
		{"key to the end", "\x0e\x00\x00\x00\x06\x02v\x00", false},
		{"value length -2", "\x0e\x00\x00\x00\x01\x03v\x00", false},
		{"value past the end", "\x0e\x00\x00\x00\x01\x06v\x00", false},
		{"value far past the end", "\x16\x00\x00\x00\x01\xfe\xff\xff\xff\x0f\x00\x00", false},
		{"-1 headers", "\x0e\x00\x00\x00\x01\x02v\x01", false},
		{"a header that is not there", "\x0e\x00\x00\x00\x01\x02v\x02", false},
		{"many headers", "\x16\x00\x00\x00\x01\x02v\xfe\xff\xff\xff\x0f", false},
		{"null header key", "\x12\x00\x00\x00\x01\x02v\x02\x01\x00", false},
		{"header value length -2", "\x12\x00\x00\x00\x01\x02v\x02\x00\x03", false},
		{"header past the end", "\x12\x00\x00\x00\x01\x02v\x02\x00\x02", false},
		{"nothing", "", false},
	} {
		for _, codec := range codecs {
			body, err := compress(nil, codec, []byte(c.body))
			if err != nil {
				t.Fatal(err)
			}
			b := sealed(t, codec, 1, body)
			err = NewValidator().Validate(b)
			if c.ok && err != nil {
				t.Errorf("%s, %s: %v", c.name, codec, err)
			}
			if !c.ok {
				wantBatchError(t, c.name+", "+codec.String(), err, kerr.InvalidRecord.Code)
			}
			// Records knows no rule about offsets that start above 0.
			if _, err := collect(b); (err == nil) != c.ok {
				t.Errorf("%s, %s: Records: %v", c.name, codec, err)
			}
		}
	}
}

// TestValidateBombs: small batches that grow beyond all bounds are refused
// without the memory that they ask for.
func TestValidateBombs(t *testing.T) {
	bombs := map[string]Batch{}
	// A record whose value the stream has to deliver; frames of zstd follow one another.
	record := binary.AppendVarint(nil, maxDecompressed+100)
	record = binary.AppendVarint(append(record, 0, 0, 0, 1), maxDecompressed+50)
	head, err := compress(nil, Zstd, record)
	if err != nil {
		t.Fatal(err)
	}
	zeros, err := compress(nil, Zstd, make([]byte, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	bombs["zstd"] = sealed(t, Zstd, 1, append(head, bytes.Repeat(zeros, maxDecompressed>>20+1)...))
	bombs["snappy length"] = sealed(t, Snappy, 1, []byte("\xff\xff\xff\xff\x0f\x00"))
	bombs["snappy ratio"] = sealed(t, Snappy, 1, append(binary.AppendUvarint(nil, 1<<27), make([]byte, 1000)...))
	bombs["xerial block"] = sealed(t, Snappy, 1, []byte(xerialMagic+"\x00\x00\x00\x01\x00\x00\x00\x01\x7f\xff\xff\xff\x00"))
	big, err := zstd.NewWriter(nil, zstd.WithWindowSize(64<<20), zstd.WithSingleSegment(false))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	big.Reset(&out)
	for range 70 {
		if _, err := big.Write(pattern(1 << 20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := big.Close(); err != nil {
		t.Fatal(err)
	}
	bombs["zstd window"] = sealed(t, Zstd, 1, out.Bytes())
	for name, b := range bombs {
		got := allocated(func() {
			wantBatchError(t, name, NewValidator().Validate(b), kerr.InvalidRecord.Code)
		})
		if got > 16<<20 {
			t.Errorf("%s: %d bytes allocated for a batch of %d", name, got, len(b))
		}
	}
}

// TestValidateLargeWindow accepts what a high zstd level writes, once more after a small one.
func TestValidateLargeWindow(t *testing.T) {
	records := someRecords(5, 2<<20)
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithWindowSize(maxZstdWindow), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(bodyOf(t, records)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	v := NewValidator()
	for _, b := range []Batch{
		encode(t, BatchOptions{Codec: Zstd}, records[:1]), sealed(t, Zstd, 5, out.Bytes()), encode(t, BatchOptions{Codec: Zstd}, records),
	} {
		if err := v.Validate(b); err != nil {
			t.Error(err)
		}
	}
}

// TestValidateForms: the same records in every form that clients write.
func TestValidateForms(t *testing.T) {
	records := someRecords(300, 777)
	body := bodyOf(t, records)
	xerial := []byte(xerialMagic + "\x00\x00\x00\x01\x00\x00\x00\x01")
	for at := 0; at < len(body); at += 32 << 10 {
		block := s2.EncodeSnappy(nil, body[at:min(at+32<<10, len(body))])
		xerial = append(binary.BigEndian.AppendUint32(xerial, uint32(len(block))), block...)
	}
	forms := map[string]Batch{"xerial": sealed(t, Snappy, 300, xerial)}
	for name, options := range map[string][]lz4.Option{
		"lz4 4 MiB blocks":      {lz4.BlockSizeOption(lz4.Block4Mb)},
		"lz4 block checksums":   {lz4.BlockChecksumOption(true), lz4.ChecksumOption(false)},
		"lz4 with content size": {lz4.SizeOption(uint64(len(body)))},
		"lz4 level 9":           {lz4.CompressionLevelOption(lz4.Level9)},
	} {
		var out bytes.Buffer
		w := lz4.NewWriter(&out)
		if err := w.Apply(options...); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		forms[name] = sealed(t, LZ4, 300, out.Bytes())
	}
	for _, level := range []zstd.EncoderLevel{zstd.SpeedFastest, zstd.SpeedBestCompression} {
		var out bytes.Buffer
		w, err := zstd.NewWriter(&out, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		forms["zstd stream "+level.String()] = sealed(t, Zstd, 300, out.Bytes())
	}
	v := NewValidator() // one for all: decoders are reused
	for range 3 {
		for name, b := range forms {
			if err := v.Validate(b); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if got, err := collect(b); err != nil || len(got) != 300 || !bytes.Equal(got[299].Key, records[299].Key) {
				t.Errorf("%s: Records: %d, %v", name, len(got), err)
			}
			wantBatchError(t, name+", cut", v.Validate(sealed(t, b.Codec(), 300, b[BatchHeaderLen:len(b)-50])), kerr.InvalidRecord.Code)
		}
	}
}

// TestValidateKgo validates what franz-go's producer really sends.
func TestValidateKgo(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	var mu sync.Mutex
	var sent []Batch
	cluster.ControlKey(0, func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		mu.Lock()
		defer mu.Unlock()
		for _, topic := range req.(*kmsg.ProduceRequest).Topics {
			for _, p := range topic.Partitions {
				sent = append(sent, bytes.Clone(p.Records))
			}
		}
		return nil, nil, false
	})
	v := NewValidator()
	for _, c := range []kgo.CompressionCodec{
		kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression(),
	} {
		for _, idempotent := range []bool{true, false} {
			opts := []kgo.Opt{kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.DefaultProduceTopic("t"), kgo.ProducerBatchCompression(c)}
			if !idempotent {
				opts = append(opts, kgo.DisableIdempotentWrite())
			}
			client, err := kgo.NewClient(opts...)
			if err != nil {
				t.Fatal(err)
			}
			const count, size = 500, 1000
			var records []*kgo.Record
			for range count {
				records = append(records, &kgo.Record{Key: []byte("k"), Value: pattern(size), Headers: []kgo.RecordHeader{{Key: "h", Value: []byte("v")}}})
			}
			if err := client.ProduceSync(context.Background(), records...).FirstErr(); err != nil {
				t.Fatal(err)
			}
			client.Close()
			total := int32(0)
			mu.Lock()
			for _, b := range sent {
				before := bytes.Clone(b)
				if err := v.Validate(b); err != nil {
					t.Errorf("%v, idempotent %v: %v", c, idempotent, err)
				}
				if !bytes.Equal(before, b) {
					t.Errorf("%v: a correct batch was changed", c)
				}
				got, err := collect(b)
				if err != nil || int32(len(got)) != b.NumRecords() || !bytes.Equal(got[0].Value, pattern(size)) || (b.ProducerID() >= 0) != idempotent {
					t.Errorf("%v: %d of %d records, producer %d, %v", c, len(got), b.NumRecords(), b.ProducerID(), err)
				}
				total += b.NumRecords()
			}
			sent = nil
			mu.Unlock()
			if total != count {
				t.Errorf("%v: %d of %d records seen", c, total, count)
			}
		}
	}
}

// TestValidateAllocations: none for an uncompressed batch, and for a compressed
// one a number that does not grow with its records.
func TestValidateAllocations(t *testing.T) {
	for _, c := range codecs {
		v := NewValidator()
		count := func(records int) float64 {
			b := encode(t, BatchOptions{Codec: c}, someRecords(records, 100))
			return testing.AllocsPerRun(20, func() {
				if err := v.Validate(b); err != nil {
					t.Fatal(err)
				}
			})
		}
		few, many := count(10), count(5000)
		if c == None && many != 0 {
			t.Errorf("%v allocations for an uncompressed batch", many)
		}
		if many > few+50 {
			t.Errorf("%s: %v allocations for 10 records, %v for 5000", c, few, many)
		}
	}
}

func FuzzBatch(f *testing.F) {
	for _, c := range codecs {
		f.Add([]byte(encode(f, BatchOptions{Codec: c, BaseTimestamp: 1}, someRecords(6, 9))))
	}
	b := encode(f, BatchOptions{Producer: &BatchProducer{1, 2, 3}, Transactional: true}, someRecords(1, 0))
	f.Add(append([]byte(b), b...))
	f.Add([]byte(b[:70]))
	f.Add([]byte{})
	f.Add(make([]byte, 100))
	v := NewValidator()
	f.Fuzz(func(t *testing.T, data []byte) {
		b, rest, err := NextBatch(data)
		if err != nil {
			if b != nil || len(rest) != len(data) {
				t.Fatal("a batch and an error")
			}
			return
		}
		// Law: a batch and what follows it are the whole; no prefix of it is a batch.
		if len(b)+len(rest) != len(data) || !bytes.Equal(append(bytes.Clone(b), rest...), data) {
			t.Fatal("the parts are not the whole")
		}
		for _, n := range []int{1, BatchHeaderLen - 1, BatchHeaderLen, len(b) - 1} {
			if n < len(b) {
				if _, _, err := NextBatch(b[:n]); err != ErrShortBatch {
					t.Fatalf("%d of %d bytes: %v", n, len(b), err)
				}
			}
		}
		b = bytes.Clone(b)
		sum := crc32.Checksum(b[atAttributes:], castagnoli)
		if (b.CheckCRC() == nil) != (b.CRC() == sum) {
			t.Fatal("CheckCRC is wrong")
		}
		b.setCRC()
		b.SetBaseOffset(0)
		read, readErr := collect(b)
		err = v.Validate(b)
		var be *BatchError
		if err != nil {
			if !errors.As(err, &be) || be.Code == 0 {
				t.Fatal(err)
			}
			return
		}
		// Law: what is valid can be read, and holds what it says.
		if readErr != nil || len(read) != int(b.NumRecords()) {
			t.Fatalf("%d of %d records: %v", len(read), b.NumRecords(), readErr)
		}
		latest := int64(-1)
		for i, r := range read {
			if r.OffsetDelta != int32(i) {
				t.Fatalf("record %d has offset delta %d", i, r.OffsetDelta)
			}
			latest = max(latest, b.Timestamp(r))
		}
		if latest != b.MaxTimestamp() {
			t.Fatalf("max timestamp %d, the records' is %d", b.MaxTimestamp(), latest)
		}
		// Law: valid stays valid, and validating again changes nothing.
		before := bytes.Clone(b)
		if err := v.Validate(b); err != nil || !bytes.Equal(before, b) {
			t.Fatal("validated twice: ", err)
		}
		// Law: the same records encoded again are the same records.
		again := encode(t, BatchOptions{BaseTimestamp: b.BaseTimestamp()}, read)
		if err := v.Validate(again); err != nil || again.MaxTimestamp() != latest {
			t.Fatalf("encoded again: %v, max timestamp %d of %d", err, again.MaxTimestamp(), latest)
		}
	})
}

// FuzzSkim holds the fast way over a record to the one that reads everything.
func FuzzSkim(f *testing.F) {
	b := encode(f, BatchOptions{BaseTimestamp: 1}, []Record{
		{}, {Value: []byte("v")}, {Key: []byte{}, TimestampDelta: -1}, {Key: pattern(70), Value: pattern(20_000), TimestampDelta: 100_000},
		{Headers: []Header{{Key: "k"}}}, {Value: pattern(2 << 20)},
	})
	for at := BatchHeaderLen; at < len(b); {
		c := cursor{buf: b[at:]}
		if !c.record(new(Record), false) {
			f.Fatal(c.err)
		}
		f.Add([]byte(b[at : at+c.at]))
		at += c.at
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		n, timestamp, offset, noKey := skim(data)
		if n == 0 {
			return
		}
		c, r := cursor{buf: data}, Record{}
		if !c.record(&r, false) || c.at != n || r.TimestampDelta != timestamp || r.OffsetDelta != offset || c.noKey != noKey {
			t.Fatalf("skim: %d bytes, timestamp %d, offset %d, no key %v; in full: %d bytes, %d, %d, %v, %v",
				n, timestamp, offset, noKey, c.at, r.TimestampDelta, r.OffsetDelta, c.noKey, c.err)
		}
	})
}

// TestSkim: every record without headers is skimmed, and no other.
func TestSkim(t *testing.T) {
	records := someRecords(300, 1000)
	b := encode(t, BatchOptions{}, records)
	skimmed, plain := 0, 0
	for _, r := range records {
		if len(r.Headers) == 0 {
			plain++
		}
	}
	for at := BatchHeaderLen; at < len(b); {
		c := cursor{buf: b[at:]}
		if !c.record(new(Record), false) {
			t.Fatal(c.err)
		}
		if n, _, _, _ := skim(b[at:]); n > 0 {
			skimmed++
		}
		at += c.at
	}
	if skimmed != plain {
		t.Errorf("%d records were skimmed, %d of %d have no headers", skimmed, plain, len(records))
	}
}

func BenchmarkValidate(b *testing.B) {
	for _, c := range codecs {
		b.Run(c.String(), func(b *testing.B) {
			batch := encode(b, BatchOptions{Codec: c}, kibRecords())
			v := NewValidator()
			b.SetBytes(1 << 20)
			b.ReportAllocs()
			for b.Loop() {
				if err := v.Validate(batch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("baseline-crc32c", func(b *testing.B) {
		batch := encode(b, BatchOptions{}, kibRecords())
		b.SetBytes(1 << 20)
		for b.Loop() {
			if err := batch.CheckCRC(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// kibRecords are records of 1 KiB that make a batch of about 1 MiB.
func kibRecords() []Record {
	records := make([]Record, 1023)
	for i := range records {
		records[i].Value = pattern(1024)
	}
	return records
}
