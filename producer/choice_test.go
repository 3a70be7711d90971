package producer

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"hash/crc32"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mft/protocol"
)

// batchOf is the records of a batch as the client gives them to its compressor.
func batchOf(key string, values ...[]byte) (batch []byte) {
	for i, value := range values {
		record := []byte{0}
		record = binary.AppendVarint(record, 0)
		record = binary.AppendVarint(record, int64(i))
		record = binary.AppendVarint(record, int64(len(key)))
		record = append(record, key...)
		record = binary.AppendVarint(record, int64(len(value)))
		record = append(record, value...)
		record = append(record, 0)
		batch = binary.AppendVarint(batch, int64(len(record)))
		batch = append(batch, record...)
	}
	return batch
}

func TestAutoChoosesPerFile(t *testing.T) {
	known := new(choices)
	made, err := newAutoCompressor(known)
	if err != nil {
		t.Fatal(err)
	}
	codec := func(id string, chunk []byte) kgo.CompressionCodecType {
		_, codec := made.Compress(new(bytes.Buffer), batchOf(id, chunk))
		return codec
	}
	text := bytes.Repeat([]byte("a line of some text that is easy to compress\n"), 4000)
	archive, other := string(protocol.NewTransferID()), string(protocol.NewTransferID())
	known.open(protocol.TransferID(archive)).begins(append([]byte("\x1f\x8b\x08"), text...))
	known.open(protocol.TransferID(other)).begins(text)
	if got := codec(archive, text); got != kgo.CodecNone {
		t.Errorf("a chunk of an archive went with codec %d", got)
	}
	if got := codec(other, text); got != kgo.CodecZstd {
		t.Errorf("a chunk of text went with codec %d", got)
	}
	if got := codec("somebody", text); got != kgo.CodecZstd {
		t.Errorf("text of no known file went with codec %d", got)
	}
	known.forget(protocol.TransferID(archive))
	if got := codec(archive, text); got != kgo.CodecZstd {
		t.Errorf("the archive is not forgotten: codec %d", got)
	}
}

// TestChoicePassesOver has chunks that look compressible gain nothing: fewer
// and fewer are tried, until one gains.
func TestChoicePassesOver(t *testing.T) {
	text := bytes.Repeat([]byte("some text "), 1000)
	c := &choice{}
	tried := 0
	for range 1000 {
		if c.worth(text) {
			tried++
			if c.gained(len(text), len(text)-1) {
				t.Fatal("a byte of ten thousand counts as a gain")
			}
		}
	}
	if tried < 10 || tried > 25 {
		t.Errorf("%d of 1000 chunks were tried", tried)
	}
	for !c.worth(text) {
	}
	if !c.gained(len(text), len(text)/2) || !c.worth(text) {
		t.Error("a chunk that gained is not followed by the next")
	}
}

func TestCompressedFormats(t *testing.T) {
	for head, want := range map[string]bool{
		"": false, "PK": false, "plain text of a file": false, "\x1f\x8b\x08": true, "\x89PNG\r\n\x1a\n....": true,
		"PK\x03\x04\x14\x00\x00\x00\x08\x00......": true, "PK\x03\x04\x14\x00\x00\x00\x00\x00......": false, // deflated, stored
		"\x00\x00\x00\x18ftypmp42": true, "RIFF....WEBPVP8 ": true, "RIFF....WAVEfmt ": false,
	} {
		if got := compressedFormat([]byte(head)); got != want {
			t.Errorf("%q: %t", head, got)
		}
	}
}

// FuzzFirstKey finds the key of what is a batch and survives what is none.
func FuzzFirstKey(f *testing.F) {
	f.Add([]byte("key"), []byte("value"))
	f.Add([]byte{}, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, key, rest []byte) {
		firstKey(rest)
		if got := firstKey(batchOf(string(key), rest)); !bytes.Equal(got, key) {
			t.Errorf("%q, not %q", got, key)
		}
	})
}

// BenchmarkAutoAgainstNone compresses what cannot be, chunk by chunk, beside
// the least that is done with a chunk anyway: it is copied into the request,
// and its checksum and digest are taken. ratio is the time of both over that of
// the latter alone.
func BenchmarkAutoAgainstNone(b *testing.B) {
	for name, known := range map[string]bool{"sampled": false, "recognized": true} {
		b.Run(name, func(b *testing.B) { benchmarkAuto(b, known) })
	}
}

func benchmarkAuto(b *testing.B, recognized bool) {
	chunk := make([]byte, 1<<20)
	rand.Read(chunk)
	known := new(choices)
	id := protocol.NewTransferID()
	file := known.open(id)
	if recognized {
		file.begins([]byte("\x1f\x8b\x08"))
	}
	auto, err := newAutoCompressor(known)
	if err != nil {
		b.Fatal(err)
	}
	compareAuto(b, auto, batchOf(string(id), chunk))
}

func compareAuto(b *testing.B, auto kgo.Compressor, batch []byte) {
	digest, err := protocol.NewDigest(protocol.DigestXXH3)
	if err != nil {
		b.Fatal(err)
	}
	request, scratch := make([]byte, len(batch)), new(bytes.Buffer)
	var with, without time.Duration
	var sum uint32
	send := func(batch []byte) {
		copy(request, batch)
		sum += crc32.Checksum(request, crc32.MakeTable(crc32.Castagnoli))
		digest.Write(batch)
	}
	send(batch)
	timed := func(total *time.Duration, work func()) {
		began := time.Now()
		work()
		*total += time.Since(began)
	}
	for b.Loop() { // in an order that favours neither
		for _, auto := range [...]kgo.Compressor{nil, auto, auto, nil} {
			if auto == nil {
				timed(&without, func() { send(batch) })
				continue
			}
			timed(&with, func() {
				scratch.Reset()
				packed, codec := auto.Compress(scratch, batch)
				if codec != kgo.CodecNone {
					b.Fatal("random bytes were compressed")
				}
				send(packed)
			})
		}
	}
	b.ReportMetric(with.Seconds()/without.Seconds(), "ratio")
}
