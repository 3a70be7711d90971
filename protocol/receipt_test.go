package protocol

import (
	"bytes"
	"encoding/hex"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

func someReceipt() Receipt {
	return Receipt{
		Transfer: someTransfer, State: StateDelivered, Group: "inbox", Host: "b.example", Client: "mft-consume",
		Time: time.Date(2026, 2, 3, 4, 5, 7, 125e6, time.UTC), Type: TypeFile, Name: "docs/hello.txt", Path: "/srv/in/docs/hello.txt",
		Size: 13, DigestKind: DigestXXH3, Digest: "aef7d73364a11a632fc4faefcc422cb8",
	}
}

// parseEncoded parses what Encode makes.
func parseEncoded(r Receipt) (Receipt, error) {
	key, value, headers := r.Encode()
	return ParseReceipt(key, value, headers)
}

func TestReceiptRoundTrip(t *testing.T) {
	failed := Receipt{Transfer: someTransfer, State: StateFailed, Time: someReceipt().Time, Size: SizeUnknown, Reason: "a <reason> & \"more\""}
	empty := someReceipt()
	empty.Size = 0
	unsynced := someReceipt()
	unsynced.Unsynced = true
	for _, want := range []Receipt{someReceipt(), failed, empty, unsynced} {
		if got, err := parseEncoded(want); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v\nwant %+v", got, err, want)
		}
	}
}

func TestReceiptSealed(t *testing.T) {
	key, want := NewKey(), someReceipt()
	mine, err := key.transfer(someTransfer)
	if err != nil {
		t.Fatal(err)
	}
	sealed := mine.SealReceipt(want)
	_, value, _ := sealed.Encode()
	for _, secret := range []string{want.Name, "hello", "/srv", "13", want.Digest, DigestXXH3} {
		if bytes.Contains(value, []byte(`"`+secret)) || strings.Contains(string(value), `:`+secret) {
			t.Errorf("%q is in clear in %s", secret, value)
		}
	}
	got, err := parseEncoded(sealed)
	if err != nil || !got.IsSealed() || got.Group != want.Group || got.Name != "" {
		t.Fatalf("got %+v, %v", got, err)
	}
	opened, err := key.OpenReceipt(got)
	if err != nil || !reflect.DeepEqual(opened, want) {
		t.Fatalf("got %+v, %v\nwant %+v", opened, err, want)
	}
	// Whatever is changed, or of another key or transfer, does not open.
	for name, change := range map[string]func(*Receipt){
		"state":    func(r *Receipt) { r.State = StateFailed },
		"group":    func(r *Receipt) { r.Group = "other" },
		"host":     func(r *Receipt) { r.Host = "other" },
		"client":   func(r *Receipt) { r.Client = "" },
		"time":     func(r *Receipt) { r.Time = r.Time.Add(1) },
		"transfer": func(r *Receipt) { r.Transfer = NewTransferID() },
		"bit":      func(r *Receipt) { r.Sealed[40] ^= 1 },
		"cut":      func(r *Receipt) { r.Sealed = r.Sealed[:20] },
		"clear":    func(r *Receipt) { r.Sealed = nil },
	} {
		changed := got
		changed.Sealed = bytes.Clone(got.Sealed)
		change(&changed)
		if _, err := key.OpenReceipt(changed); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	if _, err := NewKey().OpenReceipt(got); err == nil {
		t.Error("another key opened it")
	}
	// An end of the same transfer is no receipt.
	s, err := key.NewSealer(someTransfer, true)
	if err != nil {
		t.Fatal(err)
	}
	end := got
	end.Sealed = s.Seal(FileRecord{Kind: KindEnd, End: &End{Size: 13}}).Sealed
	if _, err := key.OpenReceipt(end); err == nil {
		t.Error("an end opened as a receipt")
	}
}

func TestReceiptMistakes(t *testing.T) {
	key, good, headers := func() ([]byte, string, []Header) {
		r := someReceipt()
		k, v, h := r.Encode()
		return k, string(v), h
	}()
	for name, value := range map[string]string{
		"no JSON":         "{",
		"newer":           strings.Replace(good, `"v":1`, `"v":2`, 1),
		"no version":      strings.Replace(good, `"v":1,`, ``, 1),
		"other transfer":  strings.Replace(good, string(someTransfer), strings.Repeat("0", 32), 1),
		"no transfer":     strings.Replace(good, string(someTransfer), "x", 1),
		"no state":        strings.Replace(good, `"delivered"`, `""`, 1),
		"no time":         strings.Replace(good, `2026-`, ``, 1),
		"negative size":   strings.Replace(good, `"size":13`, `"size":-1`, 1),
		"sealed in clear": strings.Replace(good, `"size":13`, `"sealed":"AAAA"`, 1),
	} {
		if value == good {
			t.Fatalf("%s: nothing changed in %s", name, good)
		}
		if r, err := ParseReceipt(key, []byte(value), headers); err == nil {
			t.Errorf("%s: parsed as %+v", name, r)
		}
	}
	if _, err := ParseReceipt(key, []byte(good), headers[:0]); err == nil {
		t.Error("parsed without its kind")
	}
	if _, err := ParseReceipt(key, []byte(strings.Replace(good, `"v":1`, `"v":1,"new":[1]`, 1)), append(headers, Header{"x", nil})); err != nil {
		t.Errorf("what is unknown is to be ignored: %v", err)
	}
}

func TestTransferIDRaw(t *testing.T) {
	for _, id := range []TransferID{someTransfer, NewTransferID(), "0123456789abcdef0f1e2d3c4b5a6978"} {
		raw, ok := id.Raw()
		if !ok || hex.EncodeToString(raw[:]) != string(id) {
			t.Errorf("%s: %x", id, raw)
		}
	}
	if _, ok := TransferID("x").Raw(); ok {
		t.Error("x is an id")
	}
}

// FuzzReceipt: what parses is written again as a receipt that says the same.
func FuzzReceipt(f *testing.F) {
	r := someReceipt()
	key, value, _ := r.Encode()
	f.Add(key, value, false)
	mine, err := NewKey().transfer(someTransfer)
	if err != nil {
		f.Fatal(err)
	}
	sealed := mine.SealReceipt(r)
	key, value, _ = sealed.Encode()
	f.Add(key, value, true)
	f.Fuzz(func(t *testing.T, key, value []byte, sealed bool) {
		headers := []Header{{HeaderKind, []byte(KindReceipt)}}
		if sealed {
			headers = append(headers, Header{HeaderSealed, []byte(sealedVersion)})
		}
		got, err := ParseReceipt(key, value, headers)
		if err != nil || got.Time.Year() < 0 || got.Time.Year() > 9999 {
			return
		}
		if sealed { // what stands beside it in clear is dropped
			got = Receipt{Transfer: got.Transfer, State: got.State, Group: got.Group, Host: got.Host, Client: got.Client, Time: got.Time, Size: SizeUnknown, Sealed: got.Sealed}
		}
		again, err := parseEncoded(got)
		if err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%+v became %+v, %v", got, again, err)
		}
	})
}

// TestReceiptPage reads the receipt in docs/file-streams.md.
func TestReceiptPage(t *testing.T) {
	page, err := os.ReadFile("../docs/file-streams.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^\d+ (\S+) mft\.kind=receipt (\{.*\})$`).FindSubmatch(page)
	if m == nil {
		t.Fatal("the page shows no receipt")
	}
	r, err := ParseReceipt(m[1], m[2], []Header{{HeaderKind, []byte(KindReceipt)}})
	if err != nil {
		t.Fatal(err)
	}
	if _, value, _ := r.Encode(); !bytes.Equal(value, m[2]) {
		t.Errorf("the page has %s, mft writes %s", m[2], value)
	}
}
