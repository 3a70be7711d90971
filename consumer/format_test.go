package consumer

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestFormat(t *testing.T) {
	t.Parallel()
	full := &kgo.Record{
		Topic: "top", Partition: 3, Offset: 42, Timestamp: time.UnixMilli(1700000000123),
		Key: []byte("key"), Value: []byte("värld"), Headers: []kgo.RecordHeader{{Key: "a", Value: []byte("1")}, {Key: "b", Value: nil}},
	}
	null := &kgo.Record{Topic: "top", Timestamp: time.UnixMilli(0)}
	for _, c := range []struct {
		template string
		record   *kgo.Record
		want     string
	}{
		{`%s\n`, full, "värld\n"},
		{`%t/%p@%o %T`, full, "top/3@42 1700000000123"},
		{`[%k](%K) [%s](%S)`, full, "[key](3) [värld](6)"},
		{`[%k](%K) [%s](%S)`, null, "[](-1) [](-1)"},
		{`%h|`, full, "a=1,b=|"},
		{`%h|`, null, "|"},
		{`100%%\t\r\n\\\x41\0`, full, "100%\t\r\n\\A\x00"},
		{`plain`, full, "plain"},
	} {
		f, err := ParseFormat(c.template)
		if err != nil {
			t.Errorf("%s: %v", c.template, err)
			continue
		}
		if got := string(f.Append(nil, c.record)); got != c.want {
			t.Errorf("%s: %q, want %q", c.template, got, c.want)
		}
	}
	for _, bad := range []string{"", "%", `\`, "%q", `\q`, `\x4`, `\xgg`} {
		if _, err := ParseFormat(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
	if got := string(Format{}.Append([]byte("before "), full)); got != "before värld\n" {
		t.Errorf("default: %q", got)
	}
	want := `{"topic":"top","partition":3,"offset":42,"timestamp":1700000000123,"key":"key","value":"värld","headers":[{"key":"a","value":"1"},{"key":"b","value":null}]}` + "\n"
	if got := string(JSONFormat().Append(nil, full)); got != want {
		t.Errorf("JSON: %s", got)
	}
	binary := &kgo.Record{Topic: "top", Value: []byte{0xff, 0}, Timestamp: time.UnixMilli(5)}
	if got := string(JSONFormat().Append(nil, binary)); got != `{"topic":"top","partition":0,"offset":0,"timestamp":5,"key":null,"value":null,"value_base64":"/wA="}`+"\n" {
		t.Errorf("JSON of bytes: %s", got)
	}
}

func FuzzParseFormat(f *testing.F) {
	for _, s := range []string{`%s\n`, `%t %p %o %k %K %s %S %h %T %%`, `\x41\\`, `%`, `\`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, template string) {
		format, err := ParseFormat(template)
		if err != nil {
			return
		}
		format.Append(nil, &kgo.Record{})
	})
}

func TestParsePosition(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(1_700_000_000_000)
	for text, want := range map[string]Position{
		"beginning": Beginning(), "end": End(), "latest": End(), "0": AtOffset(0), "12345": AtOffset(12345), "-10": BeforeEnd(10),
		"99999999999": AtOffset(99_999_999_999), "100000000000": Since(time.UnixMilli(100_000_000_000)),
		"1700000000000": Since(now), "-1h": Since(now.Add(-time.Hour)), "-1h30m": Since(now.Add(-90 * time.Minute)),
		"2023-11-14T22:13:20Z": Since(now), "2023-11-14T23:13:20+01:00": Since(now), "2023-11-14": Since(time.Date(2023, 11, 14, 0, 0, 0, 0, time.UTC)),
	} {
		if got, err := ParsePosition(text, now); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, bad := range []string{"", "1h", "--1h", "yesterday", "2023-13-01", "1.5", "99999999999999999999"} {
		if got, err := ParsePosition(bad, now); err == nil {
			t.Errorf("%q is %+v", bad, got)
		}
	}
}
