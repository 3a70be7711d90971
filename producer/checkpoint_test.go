package producer

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"mft/protocol"
)

func testHead() checkpointHead {
	return checkpointHead{
		Path: "/a path/with ünïcödé \xff and\nlines", Topic: "t", TopicID: bytes.Repeat([]byte{7}, 16), Partition: 3,
		Transfer: protocol.NewTransferID(), Name: "dir/name", Size: 10_000, Mode: 0o640, ModTimeSec: -5, ModTimeNano: 7,
		Chunk: 1000, Digest: protocol.DigestSHA256, Key: "0123456789abcdef", KDF: &protocol.KDF{Name: "argon2id", Salt: []byte{1}},
	}
}

// newCheckpoint makes a checkpoint in a new file, and what reads the file.
func newCheckpoint(t *testing.T) (c *checkpoint, read func() (*checkpoint, error)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c")
	file, err := openCheckpoint(path)
	if err != nil || file == nil {
		t.Fatal(file, err)
	}
	c = &checkpoint{file: file, head: testHead()}
	if err := c.begin(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.close(); err != nil {
			t.Error(err)
		}
	})
	return c, func() (*checkpoint, error) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got := &checkpoint{}
		return got, got.parse(text)
	}
}

// Chunks that are acknowledged in any order move the position only as far as
// there is no gap, together with the digest of just that.
func TestCheckpointFollowsTheAcks(t *testing.T) {
	c, read := newCheckpoint(t)
	const chunks = 10
	for i := range int64(chunks) {
		c.sending((i+1)*1000, []byte{byte(i + 1)})
	}
	c.begun(40)
	c.begun(90) // of a later run
	acked := make([]bool, chunks)
	for _, i := range rand.Perm(chunks) {
		acked[i] = true
		c.acked(int64(i)*1000, int64(i+1)*1000, int64(100+i))
		c.mu.Lock()
		c.write()
		c.mu.Unlock()
		want := int64(0)
		for want < chunks && acked[want] {
			want++
		}
		got, err := read()
		if err != nil {
			t.Fatal(err)
		}
		sum := ""
		if want > 0 {
			sum = map[bool]string{true: "0a", false: "0" + string(rune('0'+want))}[want == 10]
		}
		if got.now.Acked != want*1000 || got.now.Sum != sum || got.now.Begin != 40 {
			t.Fatalf("after %v: %+v, want %d chunks, sum %q", acked, got.now, want, sum)
		}
		if !reflect.DeepEqual(strings.ToValidUTF8(c.head.Path, "\uFFFD"), got.head.Path) {
			t.Errorf("path %q", got.head.Path)
		}
		got.head.Path = c.head.Path
		if !reflect.DeepEqual(got.head, c.head) {
			t.Errorf("head %+v, want %+v", got.head, c.head)
		}
	}
	if got, _ := read(); got.now.Last != 109 || len(c.early) != 0 || len(c.marks) != 0 {
		t.Errorf("at the end: %+v, %d chunks and %d marks left", got.now, len(c.early), len(c.marks))
	}
}

// A checkpoint that is cut or damaged anywhere says so, or gives a position that
// was written: the last one, or the one before.
func TestCheckpointDamage(t *testing.T) {
	c, read := newCheckpoint(t)
	var positions []position
	for i := range int64(3) {
		c.sending((i+1)*1000, []byte{1, byte(i)})
		c.acked(i*1000, (i+1)*1000, i)
		c.mu.Lock()
		c.write()
		positions = append(positions, c.now)
		c.mu.Unlock()
	}
	text, err := os.ReadFile(c.file.Name())
	if err != nil {
		t.Fatal(err)
	}
	whole, err := read()
	if err != nil || whole.now != positions[2] {
		t.Fatalf("whole: %+v, %v", whole, err)
	}
	check := func(what string, at int, text []byte) {
		var got checkpoint
		if err := got.parse(text); err == nil && got.now != positions[2] && got.now != positions[1] {
			t.Errorf("%s at %d: position %+v", what, at, got.now)
		} else if err == nil && !reflect.DeepEqual(got.head, whole.head) {
			t.Errorf("%s at %d: head %+v", what, at, got.head)
		}
	}
	for i := range text {
		check("cut", i, text[:i])
		for _, flip := range []byte{1, 0x20, 0x80} {
			damaged := bytes.Clone(text)
			damaged[i] ^= flip
			check("flipped", i, damaged)
		}
		zeros := append(bytes.Clone(text[:i]), make([]byte, len(text)-i)...)
		check("zeros from", i, zeros)
	}
	// A slot of another transfer's.
	other, _ := newCheckpoint(t)
	foreign := append(bytes.Clone(text[:c.at]), positions[0].encode(other.crc+1)...)
	if err := new(checkpoint).parse(foreign); err == nil {
		t.Error("a position of another checkpoint was taken")
	}
}

func TestCheckpointIsLocked(t *testing.T) {
	c, _ := newCheckpoint(t)
	path := c.file.Name()
	if file, err := openCheckpoint(path); file != nil || err != nil {
		t.Fatalf("a second one: %v, %v", file, err)
	}
	if err := removeUnlocked(path); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("a locked checkpoint was removed: %v", err)
	}
	if err := c.remove(); err != nil {
		t.Fatal(err)
	}
	c.acked(0, 1000, 1) // of what comes late
	file, err := openCheckpoint(path)
	if err != nil || file == nil {
		t.Fatal(file, err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if err := removeUnlocked(path); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("after its removal: %v", err)
	}
}

// FuzzCheckpoint: whatever is read, with CRCs that fit, is possible, and is read
// again as it is written.
func FuzzCheckpoint(f *testing.F) {
	h := testHead()
	line, crc, err := h.encode()
	if err != nil {
		f.Fatal(err)
	}
	head := bytes.TrimSuffix(bytes.SplitN(line, []byte(" "), 3)[2], []byte("\n"))
	f.Add(head, position{Seq: 3, Acked: 1000, Sum: "ab01", Begin: 1, Last: 9}.encode(crc), position{Seq: 2, Begin: -1, Last: -1}.encode(crc))
	f.Add([]byte("{}"), []byte("0 0 0 0"), []byte{})
	f.Fuzz(func(t *testing.T, head, one, two []byte) {
		head = bytes.ReplaceAll(head, []byte("\n"), nil)
		crc := crc32.Checksum(head, castagnoli)
		text := fmt.Appendf(nil, "%s %08x %s\n", checkpointMagic, crc, head)
		for _, slot := range [][]byte{one, two} {
			slot = fmt.Appendf(nil, "%-*s", positionLine-9, slot)[:positionLine-9]
			text = fmt.Appendf(append(text, slot...), "%08x\n", crc32.Update(crc, castagnoli, slot))
		}
		var c checkpoint
		if c.parse(text) != nil {
			return
		}
		if c.now.Acked < 0 || c.now.Acked > c.head.Size || c.head.Partition < 0 || c.now.Seq > math.MaxInt64 {
			t.Fatalf("impossible: %+v, %+v", c.head, c.now)
		}
		line, crc, err := c.head.encode()
		if err != nil {
			t.Fatal(err)
		}
		var again checkpoint
		if err := again.parse(append(line, c.now.encode(crc)...)); err != nil || again.now != c.now || again.crc != crc {
			t.Fatalf("%+v %+v became %+v %+v: %v", c.head, c.now, again.head, again.now, err)
		}
		if same, _, err := again.head.encode(); err != nil || !bytes.Equal(same, line) {
			t.Fatalf("%q became %q: %v", line, same, err)
		}
	})
}
