package protocol

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
)

var everyCodec = []Codec{None, Gzip, Snappy, LZ4, Zstd}

func mixedRecords(n int) []Record {
	records := make([]Record, n)
	for i := range records {
		records[i] = Record{OffsetDelta: int32(i), TimestampDelta: int64(i * i % 7), Key: fmt.Appendf(nil, "k%d", i%5), Value: bytes.Repeat([]byte{byte(i)}, i%90)}
		switch i % 4 {
		case 1:
			records[i].Value = nil
		case 2:
			records[i].Headers = []Header{{"h", []byte("v")}, {"none", nil}}
		}
	}
	return records
}

func recordsOf(t testing.TB, b Batch) (all []Record) {
	t.Helper()
	if err := b.CheckCRC(); err != nil {
		t.Fatal(err)
	}
	if err := b.Records(func(r Record) bool { all = append(all, r); return true }); err != nil {
		t.Fatal(err)
	}
	return all
}

// Recompressing changes the codec and nothing else, and back gives what was there.
func TestRecompress(t *testing.T) {
	r := NewRecoder()
	p := &BatchProducer{ID: 7, Epoch: 2, Sequence: 40}
	for _, from := range everyCodec {
		b, err := EncodeBatch(BatchOptions{Codec: from, BaseTimestamp: 1e12, Producer: p}, mixedRecords(50))
		if err != nil {
			t.Fatal(err)
		}
		for _, to := range everyCodec {
			c, err := r.Recompress(bytes.Clone(b), to)
			if err != nil {
				t.Fatal(err)
			}
			if c.Codec() != to || c.MaxTimestamp() != b.MaxTimestamp() || c.LastSequence() != b.LastSequence() || NewValidator().Validate(c) != nil {
				t.Fatalf("%v to %v: %v", from, to, c)
			}
			if got, want := fmt.Sprint(recordsOf(t, c)), fmt.Sprint(recordsOf(t, b)); got != want {
				t.Fatalf("%v to %v: other records", from, to)
			}
		}
	}
	b, err := EncodeBatch(BatchOptions{Codec: Gzip}, mixedRecords(5))
	if err != nil {
		t.Fatal(err)
	}
	b[BatchHeaderLen] ^= 0xff
	_, err = r.Recompress(b, None)
	wantBatchError(t, "damaged", err, kerr.InvalidRecord.Code)
}

// What is kept is kept as it was, at its offset and time, whatever goes; compacting twice is compacting once by both rules.
func TestCompactBatch(t *testing.T) {
	r := NewRecoder()
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 200 {
		n := 1 + rng.IntN(40)
		records := mixedRecords(n)
		b, err := EncodeBatch(BatchOptions{Codec: everyCodec[round%5], BaseOffset: 100, BaseTimestamp: 1e12, Producer: &BatchProducer{ID: 1, Sequence: 9}}, records)
		if err != nil {
			t.Fatal(err)
		}
		want := recordsOf(t, b)
		was := b
		horizon := int64(-1)
		for range 3 {
			gone := map[int32]bool{}
			for i := range n {
				gone[int32(i)] = rng.IntN(3) == 0
			}
			if round%2 == 0 {
				horizon = 2e12 + int64(round)
			}
			var left []Record
			tombstones := false
			for _, w := range want {
				if !gone[w.OffsetDelta] {
					left = append(left, w)
					tombstones = tombstones || w.Value == nil
				}
			}
			_, had := b.DeleteHorizon()
			c, err := r.Compact(b, horizon, func(rec Record) bool { return !gone[rec.OffsetDelta] })
			if err != nil {
				t.Fatal(err)
			}
			if len(left) == 0 {
				if c != nil {
					t.Fatalf("%d records left of none", c.NumRecords())
				}
				break
			}
			got := recordsOf(t, c)
			if len(got) != len(left) || c.LastOffset() != was.LastOffset() || c.LastSequence() != was.LastSequence() || c.Codec() != was.Codec() {
				t.Fatalf("%d records, want %d; %d", len(got), len(left), c.LastOffset())
			}
			latest := int64(-1)
			for i := range got {
				w, g := left[i], got[i]
				latest = max(latest, c.Timestamp(g))
				if c.Timestamp(g) != 1e12+int64(int(w.OffsetDelta)*int(w.OffsetDelta)%7) || g.OffsetDelta != w.OffsetDelta ||
					!bytes.Equal(g.Key, w.Key) || !bytes.Equal(g.Value, w.Value) || (g.Value == nil) != (w.Value == nil) || fmt.Sprint(g.Headers) != fmt.Sprint(w.Headers) {
					t.Fatalf("record %d: %v, want %v", i, g, w)
				}
			}
			if latest != c.MaxTimestamp() {
				t.Fatalf("greatest timestamp %d, want %d", c.MaxTimestamp(), latest)
			}
			if at, set := c.DeleteHorizon(); set != (had || tombstones && horizon >= 0) || set && !had && at != horizon {
				t.Fatalf("delete horizon %v %d, want %d", set, at, horizon)
			}
			b, want = c, left
		}
		e := b.Emptied()
		if len(recordsOf(t, e)) != 0 || e.LastOffset() != was.LastOffset() || e.LastSequence() != was.LastSequence() || e.MaxTimestamp() != b.MaxTimestamp() {
			t.Fatalf("emptied: %v", e)
		}
	}
}

func TestValidateKeyed(t *testing.T) {
	for _, c := range everyCodec {
		records := []Record{{Key: []byte("a")}, {Key: []byte{}}, {Key: []byte("b")}}
		b, err := EncodeBatch(BatchOptions{Codec: c}, records)
		if err != nil {
			t.Fatal(err)
		}
		if err := NewValidator().ValidateKeyed(b); err != nil {
			t.Errorf("%v: %v", c, err)
		}
		records[1].Key = nil
		if b, err = EncodeBatch(BatchOptions{Codec: c}, records); err != nil {
			t.Fatal(err)
		}
		if err := NewValidator().Validate(b); err != nil {
			t.Errorf("%v: %v", c, err)
		}
		wantBatchError(t, c.String(), NewValidator().ValidateKeyed(b), kerr.InvalidRecord.Code)
	}
}
