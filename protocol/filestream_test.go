package protocol

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const someTransfer TransferID = "00112233445566778899aabbccddeeff"

var fileRecords = []FileRecord{
	{Transfer: someTransfer, Kind: KindBegin, Manifest: &Manifest{
		Version: 1, Name: "sub/großer <Bericht> & Co.bin", Type: TypeFile, Size: 12, Mode: 0o4755,
		ModTime: time.Date(2026, 2, 3, 4, 5, 6, 789, time.UTC), Chunk: 5, Digest: DigestXXH3, Compression: "zstd", Encryption: "x",
	}},
	{Transfer: someTransfer, Kind: KindBegin, Manifest: &Manifest{Version: 1, Name: "empty", Type: TypeDir}},
	{Transfer: someTransfer, Kind: KindBegin, Manifest: &Manifest{Version: 1, Name: "live.log", Type: TypeFile, Size: SizeUnknown}},
	{Transfer: someTransfer, Kind: KindChunk, Offset: 0, Data: []byte("hello")},
	{Transfer: someTransfer, Kind: KindChunk, Offset: math.MaxInt64 - 5, Data: []byte("hello")},
	{Transfer: someTransfer, Kind: KindChunk, Offset: 8, Hole: math.MaxInt64 - 8},
	{Transfer: someTransfer, Kind: KindBegin, Manifest: &Manifest{
		Version: 1, Name: "caf\xe9", Type: TypeFile, Owner: &Owner{1000, 0, "ann", "root"}, Xattrs: Xattrs{"user.b": {0, 255}, "user.a": {}},
	}},
	{Transfer: someTransfer, Kind: KindBegin, Manifest: &Manifest{Version: 1, Name: "link", Type: TypeSymlink, Target: "../caf\xe9", Owner: &Owner{}}},
	{Transfer: someTransfer, Kind: KindBegin, Manifest: &Manifest{Version: 1, Name: "\uf0e9", Type: TypeSymlink, Target: "größe"}},
	{Transfer: someTransfer, Kind: KindEnd, End: &End{Size: 12, Digest: "abcd"}},
	{Transfer: someTransfer, Kind: KindBegin, Manifest: &Manifest{Version: 1, Name: "live.log", Type: TypeFile, Size: SizeUnknown, Live: true, From: 1 << 40, Previous: PreviousKeep}},
	{Transfer: someTransfer, Kind: KindEnd, End: &End{}},
	{Transfer: someTransfer, Kind: KindEnd, End: &End{Size: 1, ModTime: time.Date(2026, 2, 3, 4, 5, 6, 7, time.UTC)}},
	{Transfer: someTransfer, Kind: KindAbort, Abort: &Abort{Reason: "disk gone"}},
}

func TestFileRecordRoundTrip(t *testing.T) {
	for _, want := range fileRecords {
		key, value, headers := want.Encode()
		got, err := ParseFileRecord(key, value, append([]Header{{"other", nil}}, headers...))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v\n%+v\n%+v", want.Kind, err, got, want)
		}
		// The headers of a client library do as well.
		var theirs []kgo.RecordHeader
		for _, h := range headers {
			theirs = append(theirs, kgo.RecordHeader(h))
		}
		if got, err := ParseFileRecord(key, value, theirs); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s with headers of kgo: %v", want.Kind, err)
		}
	}
}

// TestFileRecordBytes pins the format that docs/file-streams.md promises.
func TestFileRecordBytes(t *testing.T) {
	want := []string{
		`{"v":1,"name":"sub/großer <Bericht> & Co.bin","type":"file","size":12,"mode":"4755","mtime":"2026-02-03T04:05:06.000000789Z",` +
			`"chunk":5,"digest":"xxh3-128","compression":"zstd","encryption":"x"} [mft.kind=begin]`,
		`{"v":1,"name":"empty","type":"dir","size":0,"mode":"0000"} [mft.kind=begin]`,
		`{"v":1,"name":"live.log","type":"file","size":-1,"mode":"0000"} [mft.kind=begin]`,
		`hello [mft.kind=chunk mft.offset=0]`,
		`hello [mft.kind=chunk mft.offset=9223372036854775802]`,
		`{"size":9223372036854775799} [mft.kind=hole mft.offset=8]`,
		`{"v":1,"name":"caf` + "\uf0e9" + `","type":"file","size":0,"mode":"0000","owner":{"uid":1000,"gid":0,"user":"ann","group":"root"},` +
			`"xattrs":{"user.a":"","user.b":"AP8="},"raw_name":"Y2Fm6Q=="} [mft.kind=begin]`,
		`{"v":1,"name":"link","type":"symlink","size":0,"mode":"0000","target":"../caf` + "\uf0e9" + `","owner":{"uid":0,"gid":0},"raw_target":"Li4vY2Fm6Q=="} [mft.kind=begin]`,
		`{"v":1,"name":"` + "\uf0e9" + `","type":"symlink","size":0,"mode":"0000","target":"größe"} [mft.kind=begin]`,
		`{"size":12,"digest":"abcd"} [mft.kind=end]`,
		`{"v":1,"name":"live.log","type":"file","size":-1,"mode":"0000","live":true,"from":1099511627776,"previous":"keep"} [mft.kind=begin]`,
		`{"size":0} [mft.kind=end]`,
		`{"size":1,"mtime":"2026-02-03T04:05:06.000000007Z"} [mft.kind=end]`,
		`{"reason":"disk gone"} [mft.kind=abort]`,
	}
	for i, r := range fileRecords {
		key, value, headers := r.Encode()
		var names []string
		for _, h := range headers {
			names = append(names, h.Key+"="+string(h.Value))
		}
		if got := fmt.Sprintf("%s [%s]", value, strings.Join(names, " ")); got != want[i] || string(key) != string(someTransfer) {
			t.Errorf("key %s\n%s\n%s", key, got, want[i])
		}
	}
}

func TestManifestEncodesTimes(t *testing.T) {
	zone := time.FixedZone("x", 3600)
	for _, c := range []struct {
		mtime time.Time
		want  string
	}{
		{time.Date(2026, 1, 1, 0, 30, 0, 0, zone), `"mtime":"2025-12-31T23:30:00Z"`},
		{time.Unix(0, 0), `"mtime":"1970-01-01T00:00:00Z"`},
		{time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), ""},
		{time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC), ""},
		{time.Time{}, ""},
	} {
		_, value, _ := FileRecord{Kind: KindBegin, Manifest: &Manifest{ModTime: c.mtime}}.Encode()
		if !strings.Contains(string(value), c.want) || (c.want == "") != !strings.Contains(string(value), "mtime") {
			t.Errorf("%v: %s", c.mtime, value)
		}
		if !strings.Contains(string(value), `"v":1`) {
			t.Errorf("no version: %s", value)
		}
	}
}

func TestParseFileRecordRefuses(t *testing.T) {
	id := string(someTransfer)
	manifest := func(fields string) string { return `{"v":1,"name":"n","type":"file","size":1` + fields + `}` }
	for _, c := range []struct {
		name, key, value, kind, offset string // offset "-": no such header
		ok                             bool
	}{
		{"good begin", id, manifest(``), "begin", "-", true},
		{"unknown field", id, manifest(`,"colour":"red"`), "begin", "-", true},
		{"good chunk", id, "x", "chunk", "0", true},
		{"empty chunk", id, "", "chunk", "7", true},
		{"good end", id, `{"size":0,"more":[]}`, "end", "-", true},
		{"good abort", id, `{}`, "abort", "-", true},
		{"unknown kind", id, "x", "receipt", "-", false},
		{"empty kind", id, "x", "", "-", false},
		{"kind in capitals", id, manifest(``), "Begin", "-", false},
		{"no key", "", manifest(``), "begin", "-", false},
		{"key of 31", id[1:], manifest(``), "begin", "-", false},
		{"key of 33", id + "0", manifest(``), "begin", "-", false},
		{"key in capitals", strings.ToUpper(id), manifest(``), "begin", "-", false},
		{"key not hex", "g" + id[1:], manifest(``), "begin", "-", false},
		{"newer version", id, `{"v":2,"name":"n","type":"file","size":1}`, "begin", "-", false},
		{"no version", id, `{"name":"n","type":"file","size":1}`, "begin", "-", false},
		{"negative version", id, `{"v":-1,"name":"n","type":"file","size":1}`, "begin", "-", false},
		{"no size", id, `{"v":1,"name":"n","type":"file"}`, "begin", "-", false},
		{"null size", id, `{"v":1,"name":"n","type":"file","size":null}`, "begin", "-", false},
		{"size -2", id, `{"v":1,"name":"n","type":"file","size":-2}`, "begin", "-", false},
		{"size 1.5", id, `{"v":1,"name":"n","type":"file","size":1.5}`, "begin", "-", false},
		{"size beyond 64 bits", id, `{"v":1,"name":"n","type":"file","size":9223372036854775808}`, "begin", "-", false},
		{"type of the future", id, `{"v":1,"name":"n","type":"fifo","size":1}`, "begin", "-", false},
		{"link to nowhere", id, `{"v":1,"name":"n","type":"symlink","size":0}`, "begin", "-", false},
		{"link to a NUL", id, `{"v":1,"name":"n","type":"symlink","size":0,"target":"a\u0000"}`, "begin", "-", false},
		{"raw name in UTF-8", id, manifest(`,"raw_name":"bg=="`), "begin", "-", false},
		{"empty raw name", id, manifest(`,"raw_name":""`), "begin", "-", false},
		{"raw target in UTF-8", id, manifest(`,"raw_target":"bg=="`), "begin", "-", false},
		{"raw name not base64", id, manifest(`,"raw_name":"?"`), "begin", "-", false},
		{"owner beyond 32 bits", id, manifest(`,"owner":{"uid":4294967296,"gid":0}`), "begin", "-", false},
		{"negative owner", id, manifest(`,"owner":{"uid":-1,"gid":0}`), "begin", "-", false},
		{"xattrs not base64", id, manifest(`,"xattrs":{"user.a":"?"}`), "begin", "-", false},
		{"good hole", id, `{"size":1,"more":1}`, "hole", "0", true},
		{"hole without offset", id, `{"size":1}`, "hole", "-", false},
		{"empty hole", id, `{"size":0}`, "hole", "0", false},
		{"hole without value", id, ``, "hole", "0", false},
		{"hole beyond 63 bits", id, `{"size":9223372036854775807}`, "hole", "1", false},
		{"no type", id, `{"v":1,"name":"n","size":1}`, "begin", "-", false},
		{"mode not octal", id, manifest(`,"mode":"0888"`), "begin", "-", false},
		{"mode too large", id, manifest(`,"mode":"10000"`), "begin", "-", false},
		{"mode negative", id, manifest(`,"mode":"-1"`), "begin", "-", false},
		{"mtime", id, manifest(`,"mtime":"yesterday"`), "begin", "-", false},
		{"chunk size", id, manifest(`,"chunk":-1`), "begin", "-", false},
		{"live of known size", id, manifest(`,"live":true`), "begin", "-", false},
		{"from of what is not live", id, manifest(`,"from":1`), "begin", "-", false},
		{"end with mtime", id, `{"size":1,"mtime":"soon"}`, "end", "-", false},
		{"manifest null", id, `null`, "begin", "-", false},
		{"manifest list", id, `[]`, "begin", "-", false},
		{"manifest empty", id, ``, "begin", "-", false},
		{"manifest cut", id, manifest(``)[:20], "begin", "-", false},
		{"two manifests", id, manifest(``) + manifest(``), "begin", "-", false},
		{"chunk without offset", id, "x", "chunk", "-", false},
		{"empty offset", id, "x", "chunk", "", false},
		{"negative offset", id, "x", "chunk", "-1", false},
		{"signed offset", id, "x", "chunk", "+1", false},
		{"hex offset", id, "x", "chunk", "0x10", false},
		{"offset with a space", id, "x", "chunk", " 1", false},
		{"offset 2^63", id, "x", "chunk", "9223372036854775808", false},
		{"end of the chunk 2^63", id, "x", "chunk", "9223372036854775807", false},
		{"end null", id, `null`, "end", "-", false},
		{"end without size", id, `{"digest":"00"}`, "end", "-", false},
		{"end with size -1", id, `{"size":-1}`, "end", "-", false},
		{"abort not JSON", id, `bye`, "abort", "-", false},
	} {
		headers := []Header{{HeaderKind, []byte(c.kind)}}
		if c.offset != "-" {
			headers = append(headers, Header{HeaderOffset, []byte(c.offset)})
		}
		_, err := ParseFileRecord([]byte(c.key), []byte(c.value), headers)
		var fe *FileRecordError
		if c.ok != (err == nil) || !c.ok && (!errors.As(err, &fe) || string(fe.Kind) != c.kind) {
			t.Errorf("%s: %v", c.name, err)
		}
		if _, err := ParseFileRecord([]byte(c.key), []byte(c.value), append(headers, headers[0])); err == nil {
			t.Errorf("%s: passes with two kinds", c.name)
		}
	}

	var plain *NotFileRecordError
	for _, headers := range [][]Header{nil, {}, {{"kind", []byte("begin")}}, {{HeaderOffset, []byte("1")}}, {{"MFT.KIND", nil}}} {
		if _, err := ParseFileRecord([]byte(id), nil, headers); !errors.As(err, &plain) {
			t.Errorf("headers %v: %v", headers, err)
		}
	}
}

func TestNewTransferID(t *testing.T) {
	a, b := NewTransferID(), NewTransferID()
	if !a.valid() || !b.valid() || a == b {
		t.Errorf("%q and %q", a, b)
	}
}

func TestMode(t *testing.T) {
	for m := range Mode(modeBits + 1) {
		if got := ModeOf(m.FileMode()); got != m {
			t.Fatalf("%s became %s", m, got)
		}
	}
	if got := ModeOf(fs.ModeDir | fs.ModeSetgid | 0o755); got != 0o2755 || got.String() != "2755" {
		t.Errorf("directory: %s", got)
	}
}

func TestNewDigest(t *testing.T) {
	// Sums of "abc" as xxhsum -H2, sha256sum and b3sum print them.
	for kind, want := range map[string]string{
		"":           "06b05ab6733a618578af5f94892f3950",
		DigestXXH3:   "06b05ab6733a618578af5f94892f3950",
		DigestSHA256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		DigestBLAKE3: "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85",
	} {
		h, err := NewDigest(kind)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{"a", "", "bc"} {
			if _, err := h.Write([]byte(part)); err != nil {
				t.Fatal(err)
			}
		}
		if got := hex.EncodeToString(h.Sum(nil)); got != want {
			t.Errorf("%q: %s, want %s", kind, got, want)
		}
	}
	if _, err := NewDigest("md5"); err == nil {
		t.Error("md5 is known")
	}
}

func TestCheckName(t *testing.T) {
	part := strings.Repeat("p", maxNamePart)
	long := strings.Repeat(part+"/", maxName/(maxNamePart+1))[:maxName-1] // 16 parts
	for name, ok := range map[string]bool{
		"a":                 true,
		"a/b/c.txt":         true,
		"...":               true,
		"..a":               true,
		"a..":               true,
		".hidden":           true,
		" ":                 true,
		"a:b":               true,
		"C:":                true, // a file of that name is nothing special outside Windows
		"CON":               true,
		`back\slash`:        true,
		`a\b/c`:             true,
		"line\nbreak":       true,
		"ü/日本":              true,
		part:                true,
		long:                true,
		"":                  false,
		".":                 false,
		"..":                false,
		"../a":              false,
		"a/../b":            false,
		"a/..":              false,
		"a/./b":             false,
		"./a":               false,
		"a/.":               false,
		"a//b":              false,
		"a/":                false,
		"/":                 false,
		"/a":                false,
		"//host/share":      false,
		`\a`:                false,
		`\\host\share\a`:    false,
		`\\?\C:\a`:          false,
		`C:\a`:              false,
		`c:/a`:              false,
		`a\..\b`:            false,
		`..\a`:              false,
		`a/b\..`:            false,
		"a\x00b":            false,
		"\xff":              true,
		part + "p":          false,
		"a/" + part + "p/b": false,
		long + "/" + "p":    false,
	} {
		err := CheckName(name)
		var ne *NameError
		if ok != (err == nil) || !ok && (!errors.As(err, &ne) || ne.Name != name) {
			t.Errorf("%.60q: %v", name, err)
		}
	}
}

func FuzzFileRecord(f *testing.F) {
	for _, r := range fileRecords {
		key, value, _ := r.Encode()
		kind := string(r.Kind)
		if r.Hole > 0 {
			kind = "hole"
		}
		f.Add(key, value, kind, fmt.Sprint(r.Offset))
	}
	f.Add([]byte("x"), []byte(nil), "begin", "")
	f.Add([]byte(someTransfer), []byte(`{"V":1,"name":"../x","type":"dir","size":0,"mtime":"9999-12-31T23:59:59-23:59"}`), "begin", "")
	f.Add([]byte(someTransfer), []byte(`{"v":1,"name":"\ud800","type":"dir","size":0,"mode":"7","mtime":"0000-01-01T00:00:00+01:00"}`), "begin", "")
	f.Fuzz(func(t *testing.T, key, value []byte, kind, offset string) {
		headers := []Header{{HeaderKind, []byte(kind)}}
		if offset != "" {
			headers = append(headers, Header{HeaderOffset, []byte(offset)})
		}
		r, err := ParseFileRecord(key, value, headers)
		if err != nil {
			var fe *FileRecordError
			if !errors.As(err, &fe) {
				t.Fatal(err)
			}
			return
		}
		// Law: what was read is what its encoding is read as.
		k, v, h := r.Encode()
		again, err := ParseFileRecord(k, v, h)
		if err != nil {
			t.Fatalf("%s: %v", v, err)
		}
		if r.Manifest != nil {
			// A time whose year in UTC has no four digits is left out.
			if y := r.Manifest.ModTime.Year(); y < 0 || y > 9999 {
				r.Manifest.ModTime = time.Time{}
			}
			// Law: a name that passes is one below the directory, on this system as well.
			if name := r.Manifest.Name; CheckName(name) == nil {
				if !filepath.IsLocal(filepath.FromSlash(name)) && os.PathSeparator == '/' {
					t.Fatalf("%q leaves the directory", name)
				}
			}
		}
		if !reflect.DeepEqual(r, again) {
			t.Fatalf("%+v became %+v", r, again)
		}
	})
}
