package protocol

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// testKey is a key that is the same in every run.
func testKey(fill byte) *Key { return keyOf([32]byte(bytes.Repeat([]byte{fill}, 32)), nil) }

// cheapKDF asks for as little as is allowed.
var cheapKDF = KDF{Name: kdfArgon2id, Salt: []byte("0123456789abcdef"), Time: 1, Memory: 8, Threads: 1}

func ring(t testing.TB, keys []*Key, passphrases ...string) *Keyring {
	t.Helper()
	var raw [][]byte
	for _, p := range passphrases {
		raw = append(raw, []byte(p))
	}
	r, err := NewKeyring(keys, raw)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// wireRecord is a record as a broker has it.
type wireRecord struct {
	key, value []byte
	headers    []Header
}

func onWire(r FileRecord) wireRecord {
	key, value, headers := r.Encode()
	return wireRecord{bytes.Clone(key), bytes.Clone(value), slices.Clone(headers)}
}

func (w wireRecord) clone() wireRecord {
	c := wireRecord{bytes.Clone(w.key), bytes.Clone(w.value), nil}
	for _, h := range w.headers {
		c.headers = append(c.headers, Header{h.Key, bytes.Clone(h.Value)})
	}
	return c
}

func (w wireRecord) parse() (FileRecord, error) {
	c := w.clone() // opening is in place
	return ParseFileRecord(c.key, c.value, c.headers)
}

// sealedTransfer is a small file in two chunks, one of them compressed, and
// what its records say.
func sealedTransfer(t testing.TB, key *Key, id TransferID, pad bool) (sealed []wireRecord, clear []FileRecord) {
	t.Helper()
	s, err := key.NewSealer(id, pad)
	if err != nil {
		t.Fatal(err)
	}
	zip, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	first, second := bytes.Repeat([]byte("salary "), 30), []byte("secret\x00\x00")
	frame := zip.EncodeAll(first, nil)
	size := int64(len(first) + len(second))
	clear = []FileRecord{
		{Kind: KindBegin, Manifest: &Manifest{Version: 1, Name: "payroll/january.csv", Type: TypeFile, Size: size, Mode: 0o640,
			ModTime: time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC), Chunk: int64(len(first)), Digest: DigestXXH3, Compression: CompressionZstd}},
		{Kind: KindChunk, Offset: 0, Data: first},
		{Kind: KindChunk, Offset: int64(len(first)), Data: second, Last: true},
		{Kind: KindEnd, End: &End{Size: size, Digest: "0123456789abcdef0123456789abcdef"}},
	}
	for i := range clear {
		clear[i].Transfer = id
	}
	chunk := func(c Chunk) FileRecord {
		return s.SealChunk(make([]byte, s.SealedLen(len(c.Data), 1<<20)), c)
	}
	sealed = []wireRecord{
		onWire(s.Seal(clear[0])),
		onWire(chunk(Chunk{Offset: 0, Size: len(first), Data: frame, Zstd: true})),
		onWire(chunk(Chunk{Offset: clear[2].Offset, Size: len(second), Data: second, Last: true})),
		onWire(s.Seal(clear[3])),
	}
	return sealed, clear
}

func TestSealedRoundTrip(t *testing.T) {
	for _, pad := range []bool{false, true} {
		key := testKey(1)
		sealed, want := sealedTransfer(t, key, someTransfer, pad)
		r := ring(t, []*Key{testKey(2), key})
		begin, err := sealed[0].parse()
		if err != nil {
			t.Fatal(err)
		}
		got, o, err := r.Open(begin)
		if err != nil || !reflect.DeepEqual(got, want[0]) {
			t.Fatalf("%v\n%+v\n%+v", err, got, want[0])
		}
		for i, w := range sealed[1:] {
			rec, err := w.parse()
			if err == nil {
				got, err = o.Open(rec)
			}
			if err != nil || !reflect.DeepEqual(got, want[i+1]) {
				t.Errorf("record %d: %v\n%+v\n%+v", i+1, err, got, want[i+1])
			}
		}
		s, err := key.NewSealer(someTransfer, pad)
		if err != nil {
			t.Fatal(err)
		}
		abort := FileRecord{Transfer: someTransfer, Kind: KindAbort, Abort: &Abort{Reason: "gone"}}
		rec, err := onWire(s.Seal(abort)).parse()
		if err == nil {
			got, err = o.Open(rec)
		}
		if err != nil || !reflect.DeepEqual(got, abort) {
			t.Errorf("abort: %v, %+v", err, got)
		}
	}
}

// Neither names, nor content, nor positions are in what the broker has, and
// two transfers of the same file share nothing.
func TestSealedTellsNothing(t *testing.T) {
	a, _ := sealedTransfer(t, testKey(1), someTransfer, false)
	again, _ := sealedTransfer(t, testKey(1), someTransfer, false)
	for i := range a {
		for _, h := range a[i].headers {
			if h.Key == HeaderOffset {
				t.Errorf("record %d has its offset in clear", i)
			}
		}
		var sealed []byte
		if rec, err := a[i].parse(); err == nil {
			sealed = rec.Sealed
		}
		for _, text := range []string{"payroll", "january", "salary", "secret", "0640", "xxh3"} {
			if bytes.Contains(sealed, []byte(text)) {
				t.Errorf("record %d has %q in clear", i, text)
			}
		}
		if rec, err := again[i].parse(); err != nil || bytes.Equal(rec.Sealed[:xaesNonceBytes], sealed[:xaesNonceBytes]) {
			t.Errorf("record %d was sealed twice with the same nonce (%v)", i, err)
		}
	}
	// The length of a name does not show.
	s, err := testKey(1).NewSealer(someTransfer, false)
	if err != nil {
		t.Fatal(err)
	}
	lengths := make(map[int]bool)
	for n := 1; n < 100; n++ {
		lengths[len(s.Seal(FileRecord{Kind: KindBegin, Manifest: &Manifest{Name: strings.Repeat("x", n), Type: TypeFile}}).Sealed)] = true
	}
	if len(lengths) != 1 {
		t.Errorf("names of 1 to 99 bytes give %d lengths", len(lengths))
	}
}

// openAll opens a transfer whose records may have been changed, and returns
// what it says, or the first error.
func openAll(r *Keyring, records []wireRecord) (got []FileRecord, err error) {
	var o *Opener
	for i, w := range records {
		rec, err := w.parse()
		if err != nil {
			return got, err
		}
		if i == 0 {
			rec, o, err = r.Open(rec)
		} else {
			rec, err = o.Open(rec)
		}
		if err != nil {
			return got, err
		}
		got = append(got, rec)
	}
	return got, nil
}

// Every single bit of every record, flipped, is noticed or makes no difference.
func TestSealedEveryBit(t *testing.T) {
	r := ring(t, []*Key{testKey(1)})
	sealed, want := sealedTransfer(t, testKey(1), someTransfer, true)
	flipped, unnoticed := 0, 0
	for i := range sealed {
		parts := [][]byte{sealed[i].key, sealed[i].value}
		for _, h := range sealed[i].headers {
			parts = append(parts, h.Value)
		}
		for _, part := range parts {
			for bit := range len(part) * 8 {
				part[bit/8] ^= 1 << (bit % 8)
				flipped++
				records := []wireRecord{sealed[0], sealed[i]}
				if got, err := openAll(r, records); err == nil {
					unnoticed++
					if !reflect.DeepEqual(got[0], want[0]) || i > 0 && !reflect.DeepEqual(got[1], want[i]) {
						t.Fatalf("record %d: bit %d made it say %+v", i, bit, got)
					}
				}
				part[bit/8] ^= 1 << (bit % 8)
			}
		}
	}
	// JSON has spellings that say the same: 2 for V in "v", a bit of base64 that carries nothing.
	t.Logf("%d bits flipped, %d made no difference", flipped, unnoticed)
	if unnoticed > 64 {
		t.Errorf("%d of %d flipped bits made no difference", unnoticed, flipped)
	}
}

func TestSealedRefused(t *testing.T) {
	const other TransferID = "ffeeddccbbaa99887766554433221100"
	key := testKey(1)
	mine, _ := sealedTransfer(t, key, someTransfer, false)
	theirs, _ := sealedTransfer(t, key, other, false)
	foreign, _ := sealedTransfer(t, testKey(9), someTransfer, false)
	r := ring(t, []*Key{key})
	header := func(w wireRecord, key, value string) wireRecord {
		w = w.clone()
		w.headers = slices.DeleteFunc(w.headers, func(h Header) bool { return h.Key == key })
		if value != "" {
			w.headers = append(w.headers, Header{key, []byte(value)})
		}
		return w
	}
	value := func(w wireRecord, from wireRecord) wireRecord {
		w = w.clone()
		w.value = from.value
		return w
	}
	plain := onWire(FileRecord{Transfer: someTransfer, Kind: KindChunk, Offset: 0, Data: []byte("forged")})
	for _, test := range []struct {
		name    string
		records []wireRecord
		want    string
	}{
		{"a chunk of another transfer", []wireRecord{mine[0], theirs[1]}, "belongs to transfer"},
		{"its value only", []wireRecord{mine[0], value(mine[1], theirs[1])}, "not as it was encrypted"},
		{"a begin of another transfer", []wireRecord{value(mine[0], theirs[0])}, "copied from another"},
		{"an end for a chunk", []wireRecord{mine[0], header(mine[3], HeaderKind, "chunk")}, "not as it was encrypted"},
		{"an abort made of an end", []wireRecord{mine[0], header(mine[3], HeaderKind, "abort")}, "not as it was encrypted"},
		{"an end made of a chunk", []wireRecord{mine[0], header(mine[2], HeaderKind, "end")}, "not as it was encrypted"},
		{"an unknown kind", []wireRecord{mine[0], header(mine[2], HeaderKind, "patch")}, "kind is unknown"},
		{"an offset in clear", []wireRecord{mine[0], header(mine[1], HeaderOffset, "7")}, "has a mft.offset header"},
		{"a chunk in clear", []wireRecord{mine[0], plain}, "in clear"},
		{"cut", []wireRecord{mine[0], {mine[1].key, mine[1].value[:len(mine[1].value)-1], mine[1].headers}}, "not as it was encrypted"},
		{"empty", []wireRecord{mine[0], {mine[1].key, nil, mine[1].headers}}, "too few"},
		{"a newer form", []wireRecord{mine[0], header(mine[1], HeaderSealed, "2")}, "update this mft"},
		{"of another key", []wireRecord{foreign[0]}, "none of the 1 given"},
		{"a chunk of another key", []wireRecord{mine[0], foreign[1]}, "not as it was encrypted"},
	} {
		if got, err := openAll(r, test.records); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q (%d opened)", test.name, err, test.want, len(got))
		}
	}
	_, err := openAll(ring(t, nil), mine)
	if e, ok := errors.AsType[*KeyError](err); !ok || e.Key != key.ID() || e.Given != 0 {
		t.Errorf("without a key: %v", err)
	}
}

// What the holder of a key may have written wrong is refused, too.
func TestSealedChunkRefused(t *testing.T) {
	s, err := testKey(1).NewSealer(someTransfer, false)
	if err != nil {
		t.Fatal(err)
	}
	begin := onWire(s.Seal(FileRecord{Kind: KindBegin, Manifest: &Manifest{Name: "x", Type: TypeFile, Size: 1}}))
	chunk := func(c Chunk) wireRecord {
		return onWire(s.SealChunk(make([]byte, s.SealedLen(len(c.Data), 1<<20)), c))
	}
	zip, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	r := ring(t, []*Key{testKey(1)})
	for _, test := range []struct {
		name string
		Chunk
		want string
	}{
		{"negative", Chunk{Offset: -1, Size: 1, Data: []byte("x")}, "beyond"},
		{"beyond the largest file", Chunk{Offset: math.MaxInt64, Size: 1, Data: []byte("x")}, "beyond"},
		{"another size", Chunk{Size: 2, Data: []byte("x")}, "1 bytes of content for 2"},
		{"too large", Chunk{Size: maxSealedChunk + 1, Data: []byte("x")}, "cannot be"},
		{"a hole with content", Chunk{Size: 1, Data: []byte("x"), Hole: true}, "a hole of 1 bytes with 1 of content"},
		{"an empty hole", Chunk{Hole: true}, "cannot be"},
		{"a hole too large", Chunk{Size: maxSealedHole + 1, Hole: true}, "cannot be"},
		{"compressed against its manifest", Chunk{Size: 1, Data: zip.EncodeAll([]byte("x"), nil), Zstd: true}, "its manifest says"},
	} {
		if _, err := openAll(r, []wireRecord{begin, chunk(test.Chunk)}); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
	hole := chunk(Chunk{Offset: 5, Size: maxSealedHole, Hole: true, Last: true})
	if got, err := openAll(r, []wireRecord{begin, hole}); err != nil || got[1].Hole != maxSealedHole || got[1].Offset != 5 || !got[1].Last || got[1].Data != nil {
		t.Errorf("a hole: %+v, %v", got, err)
	}
	packed := onWire(s.Seal(FileRecord{Kind: KindBegin, Manifest: &Manifest{Name: "x", Type: TypeFile, Compression: CompressionZstd}}))
	for _, test := range []struct {
		name string
		Chunk
	}{
		{"a bomb", Chunk{Size: 1, Data: zip.EncodeAll(make([]byte, 1<<20), nil), Zstd: true}},
		{"no frame", Chunk{Size: 1, Data: []byte("x"), Zstd: true}},
		{"less than it says", Chunk{Size: 2, Data: zip.EncodeAll([]byte("x"), nil), Zstd: true}},
	} {
		if _, err := openAll(r, []wireRecord{packed, chunk(test.Chunk)}); err == nil {
			t.Errorf("%s was taken", test.name)
		}
	}
}

func TestPadding(t *testing.T) {
	for n := range 5000 {
		if got := padded(n); got < n || got > n+n/8 {
			t.Fatalf("%d is padded to %d", n, got)
		}
	}
	lengths := make(map[int]bool)
	for n := 1; n <= 1<<20; n += 7 {
		lengths[padded(n)] = true
	}
	if len(lengths) > 500 {
		t.Errorf("%d lengths are left", len(lengths))
	}
	s, err := testKey(1).NewSealer(someTransfer, true)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.SealedLen(1000, 1000); got != 1000+SealedChunkOverhead {
		t.Errorf("a full chunk takes %d bytes", got)
	}
}

func TestKeyFile(t *testing.T) {
	a, b := NewKey(), NewKey()
	text := append(a.FileText(time.Now()), b.FileText(time.Now())...)
	keys, err := ParseKeys(append([]byte("# both\r\n\n"), text...))
	if err != nil || len(keys) != 2 || *keys[0] != *a || *keys[1] != *b {
		t.Fatalf("%v, %v", keys, err)
	}
	secret := base64.RawURLEncoding.EncodeToString(a.secret[:])
	if printed := fmt.Sprintf("%v %s %+v %#v", a, a, a, a); strings.Contains(printed, secret) || !strings.Contains(printed, string(a.ID())) {
		t.Errorf("printed, a key is %s", printed)
	}
	line := keyPrefix + ":" + string(a.ID()) + ":" + secret
	at, other := len(line)-20, "A"
	if line[at] == 'A' {
		other = "B"
	}
	mistyped := line[:at] + other + line[at+1:]
	for _, test := range []struct{ name, text, want string }{
		{"empty", "# nothing\n", "no key in it"},
		{"something else", "-----BEGIN PRIVATE KEY-----\n", "line 1 is no key"},
		{"newer", "#\nmft-key-2:x:y\n", "line 2: a key of a newer version"},
		{"cut", line[:len(line)-5], "cut or mistyped"},
		{"mistyped", mistyped, "does not belong to its id"},
		{"another id", strings.Replace(line, string(a.ID()), string(b.ID()), 1), "does not belong to its id"},
	} {
		_, err := ParseKeys([]byte(test.text))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), secret[:10]) {
			t.Errorf("%s: the error tells the secret: %v", test.name, err)
		}
	}
}

func TestPassphrase(t *testing.T) {
	key, err := PassphraseKey([]byte("correct horse\n"), cheapKDF)
	if err != nil {
		t.Fatal(err)
	}
	sealed, want := sealedTransfer(t, key, someTransfer, false)
	got, err := openAll(ring(t, []*Key{testKey(1)}, "wrong", "correct horse"), sealed)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %+v", err, got)
	}
	_, err = openAll(ring(t, nil, "wrong"), sealed)
	if e, ok := errors.AsType[*KeyError](err); !ok || !e.Passphrase || !strings.Contains(err.Error(), "--decrypt-passphrase-file") {
		t.Errorf("a wrong passphrase: %v", err)
	}
	if _, err := PassphraseKey([]byte(" \n"), cheapKDF); err == nil {
		t.Error("an empty passphrase was taken")
	}
	for name, change := range map[string]func(*KDF){
		"memory":  func(k *KDF) { k.Memory = kdfMaxMemory + 1 },
		"passes":  func(k *KDF) { k.Time = kdfMaxTime + 1 },
		"none":    func(k *KDF) { k.Time = 0 },
		"threads": func(k *KDF) { k.Threads = 0 },
		"salt":    func(k *KDF) { k.Salt = k.Salt[:15] },
		"name":    func(k *KDF) { k.Name = "md5" },
	} {
		kdf := cheapKDF
		change(&kdf)
		if _, err := PassphraseKey([]byte("x"), kdf); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	one, two := NewKDF(), NewKDF()
	if bytes.Equal(one.Salt, two.Salt) {
		t.Error("two salts are equal")
	}
}

// FuzzSealed changes an encrypted transfer in any way: what comes out of a
// record is nothing, or what was put into it.
func FuzzSealed(f *testing.F) {
	f.Add(byte(0), byte(0), uint16(3), []byte{1})
	f.Add(byte(1), byte(1), uint16(0), []byte{0x80})
	f.Add(byte(1), byte(2), uint16(9), []byte("abort"))
	f.Add(byte(2), byte(3), uint16(0), []byte(HeaderOffset+"=0"))
	f.Add(byte(2), byte(4), uint16(1), []byte{})
	f.Add(byte(3), byte(5), uint16(20), []byte{})
	f.Add(byte(3), byte(6), uint16(5), []byte("mft"))
	f.Add(byte(0), byte(6), uint16(1), []byte(`"x":1,`))
	keys := ring(f, []*Key{testKey(1), testKey(2)})
	f.Fuzz(func(t *testing.T, which, how byte, at uint16, with []byte) {
		sealed, want := sealedTransfer(t, testKey(1), someTransfer, true)
		others, _ := sealedTransfer(t, testKey(1), "ffeeddccbbaa99887766554433221100", true)
		i := int(which) % len(sealed)
		w := sealed[i].clone()
		flip := func(b []byte) {
			for j := range with {
				if len(b) > 0 {
					b[(int(at)+j)%len(b)] ^= with[j]
				}
			}
		}
		switch how % 8 {
		case 0:
			flip(w.value)
		case 1:
			flip(w.key)
		case 2: // another kind, or version, or name of a header
			h := &w.headers[int(at)%len(w.headers)]
			h.Value = with
		case 3: // a header more
			k, v, _ := bytes.Cut(with, []byte("="))
			w.headers = append(w.headers, Header{string(k), v})
		case 4: // a header less
			j := int(at) % len(w.headers)
			w.headers = slices.Delete(w.headers, j, j+1)
		case 5: // cut
			w.value = w.value[:int(at)%(len(w.value)+1)]
		case 6: // put in
			j := int(at) % (len(w.value) + 1)
			w.value = slices.Insert(w.value, j, with...)
		case 7: // the value of another record, of this transfer or another
			w.value = append(slices.Clone(sealed), others...)[int(at)%(2*len(sealed))].value
		}
		records := []wireRecord{w}
		if i > 0 {
			records = []wireRecord{sealed[0], w}
		}
		got, err := openAll(keys, records)
		if err != nil {
			return
		}
		last := got[len(got)-1]
		if how%8 == 7 && last.Kind == KindChunk { // two chunks in each other's place say where they belong
			i = 1 + int(last.Offset/want[2].Offset)
		}
		if !reflect.DeepEqual(last, want[i]) {
			t.Errorf("record %d came out as %+v, went in as %+v", i, last, want[i])
		}
	})
}

func BenchmarkSealChunk(b *testing.B) {
	s, err := testKey(1).NewSealer(someTransfer, true)
	if err != nil {
		b.Fatal(err)
	}
	data := make([]byte, 255*4096)
	buf := make([]byte, s.SealedLen(len(data), len(data)))
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		s.SealChunk(buf, Chunk{Size: len(data), Data: data})
	}
}

func BenchmarkOpenChunk(b *testing.B) {
	s, err := testKey(1).NewSealer(someTransfer, true)
	if err != nil {
		b.Fatal(err)
	}
	data := make([]byte, 255*4096)
	sealed := s.SealChunk(make([]byte, s.SealedLen(len(data), len(data))), Chunk{Size: len(data), Data: data})
	kept := bytes.Clone(sealed.Sealed)
	o := &Opener{transferKey: s.transferKey}
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		copy(sealed.Sealed, kept) // opening is in place
		if _, err := o.Open(sealed); err != nil {
			b.Fatal(err)
		}
	}
}
