package producer

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"encoding/base64"
	"os"
	"testing"
)

func TestLooksCompressible(t *testing.T) {
	random := make([]byte, 1<<20)
	rand.Read(random)
	source, err := os.ReadFile("transfer.go")
	if err != nil {
		t.Fatal(err)
	}
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	text := []byte(base64.StdEncoding.EncodeToString(random))
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		data []byte
		want bool
	}{
		{"nothing", nil, false},
		{"little", source[:100], false},
		{"source text", source, true},
		{"zeros", make([]byte, 4096), true},
		{"base64", text, true},
		{"random", random, false},
		{"a little random", random[:autoMinBytes], false},
		{"gzip", zipped.Bytes(), false},
		{"random with text at its end", append(random[:100_000:100_000], source...), true},
	} {
		if got := looksCompressible(test.data); got != test.want {
			t.Errorf("%s: %t, want %t", test.name, got, test.want)
		}
	}
}

// BenchmarkAutoOnRandom is what looking costs where nothing is to be gained,
// for one chunk.
func BenchmarkAutoOnRandom(b *testing.B) {
	random := make([]byte, 1<<20)
	rand.Read(random)
	b.SetBytes(int64(len(random)))
	for b.Loop() {
		if looksCompressible(random) {
			b.Fatal("random bytes look compressible")
		}
	}
}

func TestChunkSize(t *testing.T) {
	for limit, want := range map[int32]int{
		minBatch: minBatch - recordOverhead, 4096: 4096 - recordOverhead, 5000: 4096,
		defaultMaxBatch: 255 * 4096, maxBatchWanted: maxChunk, 1 << 30: maxChunk,
	} {
		if got := chunkSize(limit, 0); got != want {
			t.Errorf("%d: chunk %d, want %d", limit, got, want)
		}
	}
}

func TestBufferPool(t *testing.T) {
	var p bufferPool
	for _, n := range []int{0, 1, 4095, 4096, 4097, 8192, 8193, maxChunk - 1, maxChunk} {
		b := p.get(n)
		if len(b.data) != n || cap(b.data) < n || cap(b.data) > max(4096, 2*n) {
			t.Errorf("%d bytes: len %d, cap %d", n, len(b.data), cap(b.data))
		}
		p.put(b)
		if b = p.get(n); len(b.data) != n {
			t.Errorf("%d bytes again: len %d", n, len(b.data))
		}
	}
}
