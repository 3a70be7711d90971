package protocol

import (
	"bytes"
	"encoding/hex"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestFileStreamsPage reads the example in docs/file-streams.md as a receiver
// would, and compares it with what this package writes.
func TestFileStreamsPage(t *testing.T) {
	page, err := os.ReadFile("../docs/file-streams.md")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^\d+ (\S+) (mft\.\S+) (.*)$`)
	page, _, _ = bytes.Cut(page, []byte("## Receipts")) // see TestReceiptPage
	var content bytes.Buffer
	var manifest *Manifest
	seen := 0
	for _, m := range line.FindAllStringSubmatch(string(page), -1) {
		seen++
		value := []byte(strings.ReplaceAll(m[3], `\n`, "\n"))
		var headers []Header
		for h := range strings.SplitSeq(m[2], ",") {
			k, v, _ := strings.Cut(h, "=")
			headers = append(headers, Header{k, []byte(v)})
		}
		r, err := ParseFileRecord([]byte(m[1]), value, headers)
		if err != nil {
			t.Fatalf("%s: %v", m[0], err)
		}
		if _, again, _ := r.Encode(); !bytes.Equal(again, value) {
			t.Errorf("the page has %s, mft writes %s", value, again)
		}
		switch r.Kind {
		case KindBegin:
			manifest = r.Manifest
			content.Reset()
			if err := CheckName(manifest.Name); err != nil {
				t.Error(err)
			}
		case KindChunk:
			if r.Offset != int64(content.Len()) {
				t.Errorf("chunk at %d, want %d", r.Offset, content.Len())
			}
			content.Write(r.Data)
		case KindEnd:
			h, err := NewDigest(manifest.Digest)
			if err != nil {
				t.Fatal(err)
			}
			h.Write(content.Bytes())
			if r.End.Digest != "" && r.End.Digest != hex.EncodeToString(h.Sum(nil)) {
				t.Errorf("%s: digest %s, the content has %x", manifest.Name, r.End.Digest, h.Sum(nil))
			}
			if r.End.Size != manifest.Size || r.End.Size != int64(content.Len()) {
				t.Errorf("%s: sizes %d, %d and %d", manifest.Name, manifest.Size, r.End.Size, content.Len())
			}
		}
	}
	if seen != 6 {
		t.Errorf("%d records on the page, want 6", seen)
	}
}
