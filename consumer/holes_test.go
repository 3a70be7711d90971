package consumer

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"mft/internal/sparse"
	"mft/protocol"
)

func (u *upload) hole(from, to int64) *kgo.Record {
	return record(protocol.FileRecord{Transfer: u.id, Kind: protocol.KindChunk, Offset: from, Hole: to - from})
}

// Holes and chunks make a file in any order, twice, and overlapping.
func TestHolesInAnyOrder(t *testing.T) { onBoth(t, testHolesInAnyOrder) }

func testHolesInAnyOrder(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "holes", 1)
	random := rand.New(rand.NewPCG(3, 4))
	want := map[string]string{}
	var all []*kgo.Record
	for i := range 20 {
		u := newUpload(fmt.Sprintf("f%d", i), randomBytes(5000+i))
		clear(u.content[1000:2500])
		clear(u.content[4000:])
		if i%3 == 0 {
			u.manifest.Size = protocol.SizeUnknown
		}
		parts := []*kgo.Record{
			u.chunk(0, 1000), u.hole(1000, 2500), u.chunk(2500, 4000), u.hole(4000, int64(5000+i)), // as it is sent
			u.chunk(500, 1500), u.hole(1200, 2000), u.hole(2000, 2500), u.chunk(2000, 4500), // otherwise cut
		}
		random.Shuffle(len(parts), func(a, b int) { parts[a], parts[b] = parts[b], parts[a] })
		all = append(append(append(all, u.begin()), parts...), u.end())
		want[u.manifest.Name] = string(u.content)
	}
	empty := newUpload("zeros", make([]byte, 100))
	all = append(all, empty.begin(), empty.end(), empty.hole(0, 100))
	want["zeros"] = string(empty.content)
	s.send(0, all...)
	dir := t.TempDir()
	summary := receive(t, s.config(dir))
	equalTrees(t, dir, want)
	if summary.Files != len(want) || summary.Partly() {
		t.Errorf("summary %+v", summary)
	}
}

// A hole too large to be hashed where it comes is hashed by the placer, and one
// that no file system holds fails its file.
func TestHugeHoles(t *testing.T) {
	t.Parallel()
	s := newSender(t, startBroker(t, t.TempDir(), "127.0.0.1:0").addrs, "huge", 1)
	const size = maxHashedHole + 4096
	u := newUpload("huge", nil)
	u.manifest.Size = size + 5
	digest, err := protocol.NewDigest(protocol.DigestXXH3)
	if err != nil {
		t.Fatal(err)
	}
	if err := sparse.Zeros(digest, size); err != nil {
		t.Fatal(err)
	}
	digest.Write([]byte("hello"))
	end := protocol.End{Size: size + 5, Digest: hex.EncodeToString(digest.Sum(nil))}
	s.send(0, u.begin(), u.hole(0, size), record(protocol.FileRecord{Transfer: u.id, Kind: protocol.KindChunk, Offset: size, Data: []byte("hello")}), u.endAs(end))

	beyond := newUpload("beyond", nil)
	beyond.manifest.Size = 1<<63 - 1
	s.send(0, beyond.begin(), beyond.hole(0, 1<<63-1), beyond.endAs(protocol.End{Size: 1<<63 - 1, Digest: "00"}))
	lying := newUpload("lying", make([]byte, 100))
	lying.content[7] = 1
	s.send(0, lying.begin(), lying.hole(0, 100), lying.end())
	short := newUpload("short", make([]byte, 100))
	s.send(0, short.begin(), short.hole(0, 101), short.end())

	cfg := s.config(t.TempDir())
	summary := receive(t, cfg)
	if summary.Files != 1 || summary.Failed != 3 {
		t.Errorf("summary %+v", summary)
	}
	if info, err := os.Stat(filepath.Join(cfg.Dir, "huge")); err != nil || info.Size() != size+5 {
		t.Errorf("%v, %v", info, err)
	}
}
