package protocol

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func clientID(s string) *string { return &s }

// requestFrame is req as a client sends it, without the frame's length.
func requestFrame(req kmsg.Request, id string) []byte {
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID(id)).AppendRequest(nil, req, 42)[4:]
}

// fill sets every field of a kmsg struct to something random.
func fill(v reflect.Value, rng *rand.Rand) {
	if tags, ok := v.Addr().Interface().(*kmsg.Tags); ok {
		for range rng.IntN(3) {
			tags.Set(100+rng.Uint32N(1000), pattern(rng.IntN(5)))
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Name != "Version" {
				fill(v.Field(i), rng)
			}
		}
	case reflect.Pointer:
		if rng.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem(), rng)
		} else {
			v.SetZero()
		}
	case reflect.Slice:
		n := rng.IntN(4)
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		fallthrough
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), rng)
		}
	case reflect.String:
		v.SetString(strings.Repeat("x", rng.IntN(5)*rng.IntN(50)))
	case reflect.Bool:
		v.SetBool(rng.IntN(2) == 0)
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(rng.Uint64()) >> (64 - v.Type().Bits()))
	case reflect.Uint8:
		v.SetUint(rng.Uint64() & 0xff)
	default:
		panic(v.Kind())
	}
}

func randomRequest(api API, version int16, rng *rand.Rand) kmsg.Request {
	req := kmsg.RequestForKey(api.Key)
	fill(reflect.ValueOf(req).Elem(), rng)
	req.SetVersion(version)
	return req
}

func TestAPIs(t *testing.T) {
	last := int16(-1)
	for _, api := range APIs {
		if api.Key <= last {
			t.Errorf("%s: keys are not in order", api.Name)
		}
		last = api.Key
		req := kmsg.RequestForKey(api.Key)
		if req == nil {
			t.Errorf("%s: kmsg does not know key %d", api.Name, api.Key)
			continue
		}
		if name := kmsg.NameForKey(api.Key); name != api.Name {
			t.Errorf("key %d is named %s, kmsg has %s", api.Key, api.Name, name)
		}
		if api.Min < 0 || api.Min > api.Max || api.Max > req.MaxVersion() {
			t.Errorf("%s: versions %d to %d, kmsg has up to %d", api.Name, api.Min, api.Max, req.MaxVersion())
		}
		if api.AdvertisedMin != api.Min && api.Name != "Produce" {
			t.Errorf("%s: advertised from %d, served from %d", api.Name, api.AdvertisedMin, api.Min)
		}
		for v := api.Min; v <= api.Max; v++ {
			req.SetVersion(v)
			if api.isFlexible(v) != req.IsFlexible() {
				t.Errorf("%s %d: flexible is %v, kmsg has %v", api.Name, v, api.isFlexible(v), req.IsFlexible())
			}
		}
		if got, ok := LookupAPI(api.Key); !ok || got.Name != api.Name {
			t.Errorf("%s: LookupAPI(%d) is %v, %v", api.Name, api.Key, got.Name, ok)
		}
	}
	for _, key := range []int16{-32768, -1, 4, 5, 6, 7, 17, 61, 1000, 32767} {
		if api, ok := LookupAPI(key); ok {
			t.Errorf("LookupAPI(%d) is %s", key, api.Name)
		}
	}
	if p, _ := LookupAPI(0); p.AdvertisedMin != 0 || p.Min != 3 {
		t.Error("Produce is not advertised from 0 and served from 3")
	}
}

// TestLayouts holds the layouts against kmsg's own encoding: every request it
// can write is walked to its last byte, and no cut one is let through.
func TestLayouts(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, api := range APIs {
		for v := api.Min; v <= api.Max; v++ {
			for range 5 {
				req := randomRequest(api, v, rng)
				body := req.AppendTo(nil)
				w := walker{src: body, version: v, flexible: api.isFlexible(v), budget: maxElements}
				if err := w.fields(api.body, true); err != nil {
					t.Fatalf("%s %d: %v\n%+v", api.Name, v, err, req)
				}
				if w.left() != 0 {
					t.Fatalf("%s %d: %d of %d bytes not walked\n%+v", api.Name, v, w.left(), len(body), req)
				}
				for n := range body {
					if api.body.check(body[:n], v, api.isFlexible(v)) == nil {
						t.Fatalf("%s %d: %d of %d bytes pass\n%+v", api.Name, v, n, len(body), req)
					}
				}
			}
		}
	}
}

func TestParseRequest(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, api := range APIs {
		for v := api.Min; v <= api.Max; v++ {
			req := randomRequest(api, v, rng)
			frame := requestFrame(req, "someone")
			h, got, err := ParseRequest(frame)
			if err != nil {
				t.Fatalf("%s %d: %v", api.Name, v, err)
			}
			if want := (RequestHeader{api.Key, v, 42, clientID("someone")}); !reflect.DeepEqual(h, want) {
				t.Errorf("%s %d: header %+v", api.Name, v, h)
			}
			if got.GetVersion() != v || !bytes.Equal(got.AppendTo(nil), req.AppendTo(nil)) {
				t.Errorf("%s %d: decoded as %+v, sent was %+v", api.Name, v, got, req)
			}
			if _, _, err := ParseRequest(append(frame, "trailing"...)); err != nil {
				t.Errorf("%s %d with bytes behind: %v", api.Name, v, err)
			}
		}
	}
}

func TestParseRequestClientIDs(t *testing.T) {
	req := kmsg.NewPtrListGroupsRequest()
	for _, flexible := range []int16{0, 3} {
		req.SetVersion(flexible)
		head := binary.BigEndian.AppendUint16(nil, 16)
		head = binary.BigEndian.AppendUint16(head, uint16(flexible))
		head = append(head, 0, 0, 0, 7)
		for _, c := range []struct {
			name, field string
			want        *string
			ok          bool
		}{
			{"null", "\xff\xff", nil, true},
			{"empty", "\x00\x00", clientID(""), true},
			{"short", "\x00\x02ab", clientID("ab"), true},
			{"cut", "\x00\x03ab", nil, false},
			{"cut length", "\x00", nil, false},
			{"none", "", nil, false},
		} {
			frame := append(bytes.Clone(head), c.field...)
			if c.ok && flexible == 3 {
				frame = append(frame, 1, 9, 2, 'x', 'y') // one tagged field
			}
			if c.ok {
				frame = req.AppendTo(frame)
			}
			h, _, err := ParseRequest(frame)
			var re *RequestError
			switch {
			case c.ok && (err != nil || !reflect.DeepEqual(h.ClientID, c.want)):
				t.Errorf("%s, version %d: %+v, %v", c.name, flexible, h, err)
			case !c.ok && (!errors.As(err, &re) || re.Kind != MalformedHeader || h.CorrelationID != 7):
				t.Errorf("%s, version %d: %+v, %v", c.name, flexible, h, err)
			}
		}
	}
}

func TestParseRequestRefuses(t *testing.T) {
	head := func(key, version int16, more string) []byte {
		b := binary.BigEndian.AppendUint16(nil, uint16(key))
		b = binary.BigEndian.AppendUint16(b, uint16(version))
		return append(append(b, 0, 0, 0, 9), more...)
	}
	const id = "\x00\x02me"
	for _, c := range []struct {
		name  string
		frame []byte
		kind  RequestErrorKind
		id    bool
	}{
		{"nothing", nil, MalformedHeader, false},
		{"7 bytes", head(3, 1, "")[:7], MalformedHeader, false},
		{"no client id", head(3, 1, ""), MalformedHeader, false},
		{"unknown key", head(999, 0, id), UnknownAPI, true},
		{"unknown key, cut", head(999, 0, "\x00\x09"), UnknownAPI, false},
		{"negative key", head(-1, 0, id), UnknownAPI, true},
		{"ApiVersions of the future", head(18, 99, id+"\x00\x04foo\x02x\x00"), UnsupportedVersion, true},
		{"negative version", head(18, -1, id), UnsupportedVersion, true},
		{"Produce 0", head(0, 0, id), UnsupportedVersion, true},
		{"Produce 2", head(0, 2, id), UnsupportedVersion, true},
		{"Fetch 3", head(1, 3, id), UnsupportedVersion, true},
		{"Fetch 19", head(1, 19, id), UnsupportedVersion, true},
		{"no header tags", head(12, 4, id), MalformedHeader, true},
		{"endless header tags", head(12, 4, id+"\xff\xff\xff\xff\x0f"), MalformedHeader, true},
		{"no body", head(12, 0, id), MalformedBody, true},
		{"null group", head(12, 0, id+"\xff\xff\x00\x00\x00\x00\x00\x00"), MalformedBody, true},
		{"group longer than the frame", head(12, 0, id+"\x7f\xff"), MalformedBody, true},
		{"endless tags", head(60, 0, id+"\x00"+"\x00"+"\xff\xff\xff\xff\x0f"), MalformedBody, true},
		{"endless tags in an element", head(3, 9, id+"\x00"+"\x02"+"\x02t"+"\xff\xff\xff\xff\x0f"), MalformedBody, true},
		{"endless tags in a tag", head(1, 18, id+"\x00"+strings.Repeat("\x00", 21)+"\x01\x01\x01"+"\x01\x01\x11"+
			strings.Repeat("\x00", 12)+"\xff\xff\xff\xff\x0f"), MalformedBody, true},
		{"huge array", head(3, 1, id+"\x7f\xff\xff\xff"), MalformedBody, true},
		{"huge compact array", head(3, 9, id+"\x00"+"\xff\xff\xff\xff\x0f"), MalformedBody, true},
	} {
		h, req, err := ParseRequest(c.frame)
		var re *RequestError
		if !errors.As(err, &re) || re.Kind != c.kind || req != nil {
			t.Errorf("%s: %v, want %s", c.name, err, c.kind)
			continue
		}
		if !reflect.DeepEqual(h, re.Header) {
			t.Errorf("%s: two headers, %+v and %+v", c.name, h, re.Header)
		}
		if len(c.frame) >= 8 && h.CorrelationID != 9 {
			t.Errorf("%s: correlation id %d", c.name, h.CorrelationID)
		}
		if c.id != (h.ClientID != nil) || c.id && *h.ClientID != "me" {
			t.Errorf("%s: client id %v", c.name, h.ClientID)
		}
	}
}

// TestParseRequestMemory sends what costs the decoder most for the bytes it
// takes: as many empty elements as are let through, in every array of every request.
func TestParseRequestMemory(t *testing.T) {
	const most = 64 << 20
	for _, api := range APIs {
		req := kmsg.RequestForKey(api.Key)
		req.SetVersion(api.Max)
		empty := len(req.AppendTo(nil))
		inflate(reflect.ValueOf(req).Elem(), maxElements-8, func() {
			frame := requestFrame(req, "")
			if len(frame) < empty+maxElements-8 { // an array of other versions
				return
			}
			if got := allocated(func() { _, _, _ = ParseRequest(frame) }); got > most {
				t.Errorf("%s: a frame of %d bytes made the decoder allocate %d", api.Name, len(frame), got)
			}
		})
	}
	req := kmsg.NewPtrDeleteGroupsRequest()
	for _, n := range []int{maxElements - 1, maxElements, maxElements + 1} {
		req.Groups = make([]string, n)
		if _, _, err := ParseRequest(requestFrame(req, "")); (err == nil) != (n <= maxElements) {
			t.Errorf("%d elements: %v", n, err)
		}
	}
}

// inflate calls do with each array in v, at any depth, set to n empty elements in turn.
func inflate(v reflect.Value, n int, do func()) {
	if v.Kind() != reflect.Struct {
		return
	}
	for i := range v.NumField() {
		f := v.Field(i)
		if f.Kind() != reflect.Slice || f.Type().Elem().Kind() == reflect.Uint8 {
			continue
		}
		f.Set(reflect.MakeSlice(f.Type(), n, n))
		do()
		f.Set(reflect.MakeSlice(f.Type(), 1, 1))
		inflate(f.Index(0), n, do)
		f.SetZero()
	}
}

func TestAppendResponseHeader(t *testing.T) {
	for _, c := range []struct {
		key, version int16
		want         string
	}{
		{3, 8, "\x00\x00\x01\x00"},
		{3, 9, "\x00\x00\x01\x00\x00"},
		{1, 11, "\x00\x00\x01\x00"},
		{1, 12, "\x00\x00\x01\x00\x00"},
		{18, 0, "\x00\x00\x01\x00"},
		{18, 3, "\x00\x00\x01\x00"},
		{18, 4, "\x00\x00\x01\x00"},
		{60, 0, "\x00\x00\x01\x00\x00"},
	} {
		got := AppendResponseHeader([]byte("front"), RequestHeader{Key: c.key, Version: c.version, CorrelationID: 256})
		if string(got) != "front"+c.want {
			t.Errorf("key %d version %d: %q", c.key, c.version, got)
		}
	}
}

func FuzzRequest(f *testing.F) {
	rng := rand.New(rand.NewPCG(5, 6))
	for _, api := range APIs {
		f.Add(requestFrame(randomRequest(api, api.Min, rng), "x"))
		f.Add(requestFrame(randomRequest(api, api.Max, rng), "x"))
	}
	f.Add([]byte{})
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, frame []byte) {
		sent := bytes.Clone(frame)
		h, req, err := ParseRequest(frame)
		if !bytes.Equal(sent, frame) {
			t.Fatal("the frame was changed")
		}
		var re *RequestError
		if err != nil {
			if !errors.As(err, &re) || re.Kind < MalformedHeader || re.Kind > MalformedBody || re.Error() == "" || req != nil {
				t.Fatalf("%v, %v", req, err)
			}
			return
		}
		api, ok := LookupAPI(h.Key)
		if !ok || !api.Serves(h.Version) || req.Key() != h.Key || req.GetVersion() != h.Version {
			t.Fatalf("%+v was let through as %T", h, req)
		}
		// Law: what was decoded is what its encoding decodes to.
		again := kmsg.RequestForKey(h.Key)
		again.SetVersion(h.Version)
		body := req.AppendTo(nil)
		if err := again.ReadFrom(body); err != nil {
			t.Fatalf("%T %d: %v", req, h.Version, err)
		}
		if !bytes.Equal(again.AppendTo(nil), body) {
			t.Fatalf("%T %d: %+v became %+v", req, h.Version, req, again)
		}
		// Law: the layout knows every byte of it.
		w := walker{src: body, version: h.Version, flexible: api.isFlexible(h.Version), budget: maxElements}
		if err := w.fields(api.body, true); err != nil || w.left() != 0 {
			t.Fatalf("%T %d: %v, %d bytes left", req, h.Version, err, w.left())
		}
	})
}
