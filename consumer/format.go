package consumer

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Format turns a record into bytes. The zero value is the value and a newline.
type Format struct {
	parts []formatPart
	json  bool
}

type formatPart func(dst []byte, r *kgo.Record) []byte

// ParseFormat reads a template in the style of kcat's -f:
//
//	%t topic      %p partition   %o offset      %T timestamp in ms since 1970, UTC
//	%k key        %K its length  %s value       %S its length (-1 for null)
//	%h headers, key=value,...    %% a percent sign
//	\n \r \t \0 \\ \xNN          newline, carriage return, tab, zero, backslash, byte in hex
//
// Nothing is added to it: end it with \n to have a record per line.
func ParseFormat(template string) (Format, error) {
	var f Format
	var literal []byte
	flush := func() {
		if text := literal; len(text) > 0 {
			f.parts = append(f.parts, func(dst []byte, _ *kgo.Record) []byte { return append(dst, text...) })
			literal = nil
		}
	}
	for i := 0; i < len(template); i++ {
		c := template[i]
		if c != '%' && c != '\\' {
			literal = append(literal, c)
			continue
		}
		if i++; i == len(template) {
			return Format{}, fmt.Errorf("format %q ends with a lone %c: double it", template, c)
		}
		if c == '\\' {
			b, used, err := escape(template[i:])
			if err != nil {
				return Format{}, fmt.Errorf("format %q: %w", template, err)
			}
			literal = append(literal, b)
			i += used - 1
			continue
		}
		if template[i] == '%' {
			literal = append(literal, '%')
			continue
		}
		part, ok := formatVerbs[template[i]]
		if !ok {
			return Format{}, fmt.Errorf("format %q: %%%c is unknown: use %%t %%p %%o %%k %%K %%s %%S %%h %%T or %%%%", template, template[i])
		}
		flush()
		f.parts = append(f.parts, part)
	}
	flush()
	if len(f.parts) == 0 {
		return Format{}, fmt.Errorf("the format is empty")
	}
	return f, nil
}

// escape reads what follows a backslash.
func escape(s string) (b byte, used int, err error) {
	switch s[0] {
	case 'n':
		return '\n', 1, nil
	case 'r':
		return '\r', 1, nil
	case 't':
		return '\t', 1, nil
	case '0':
		return 0, 1, nil
	case '\\':
		return '\\', 1, nil
	case 'x':
		if len(s) >= 3 {
			if n, err := strconv.ParseUint(s[1:3], 16, 8); err == nil {
				return byte(n), 3, nil
			}
		}
		return 0, 0, fmt.Errorf(`\x needs two hex digits`)
	}
	return 0, 0, fmt.Errorf(`\%c is unknown: use \n \r \t \0 \xNN or \\`, s[0])
}

var formatVerbs = map[byte]formatPart{
	't': func(dst []byte, r *kgo.Record) []byte { return append(dst, r.Topic...) },
	'p': func(dst []byte, r *kgo.Record) []byte { return strconv.AppendInt(dst, int64(r.Partition), 10) },
	'o': func(dst []byte, r *kgo.Record) []byte { return strconv.AppendInt(dst, r.Offset, 10) },
	'T': func(dst []byte, r *kgo.Record) []byte { return strconv.AppendInt(dst, r.Timestamp.UnixMilli(), 10) },
	'k': func(dst []byte, r *kgo.Record) []byte { return append(dst, r.Key...) },
	's': func(dst []byte, r *kgo.Record) []byte { return append(dst, r.Value...) },
	'K': func(dst []byte, r *kgo.Record) []byte { return appendLength(dst, r.Key) },
	'S': func(dst []byte, r *kgo.Record) []byte { return appendLength(dst, r.Value) },
	'h': func(dst []byte, r *kgo.Record) []byte {
		for i, h := range r.Headers {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, h.Key...)
			dst = append(dst, '=')
			dst = append(dst, h.Value...)
		}
		return dst
	},
}

func appendLength(dst, b []byte) []byte {
	if b == nil {
		return append(dst, "-1"...)
	}
	return strconv.AppendInt(dst, int64(len(b)), 10)
}

// JSONFormat is one JSON object a line:
//
//	{"topic":"t","partition":0,"offset":5,"timestamp":1700000000000,"key":"k","value":"v","headers":[{"key":"a","value":"b"}]}
//
// A key, value or header that is null is null; one that is not UTF-8 is in
// key_base64, value_base64 instead.
func JSONFormat() Format { return Format{json: true} }

type jsonRecord struct {
	Topic       string       `json:"topic"`
	Partition   int32        `json:"partition"`
	Offset      int64        `json:"offset"`
	Timestamp   int64        `json:"timestamp"`
	Key         *string      `json:"key"`
	KeyBase64   string       `json:"key_base64,omitempty"`
	Value       *string      `json:"value"`
	ValueBase64 string       `json:"value_base64,omitempty"`
	Headers     []jsonHeader `json:"headers,omitempty"`
}

type jsonHeader struct {
	Key         string  `json:"key"`
	Value       *string `json:"value"`
	ValueBase64 string  `json:"value_base64,omitempty"`
}

// jsonText is b as text, or else in base64.
func jsonText(b []byte) (text *string, encoded string) {
	switch {
	case b == nil:
		return nil, ""
	case utf8.Valid(b):
		s := string(b)
		return &s, ""
	}
	return nil, base64.StdEncoding.EncodeToString(b)
}

func appendJSON(dst []byte, r *kgo.Record) []byte {
	j := jsonRecord{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp.UnixMilli()}
	j.Key, j.KeyBase64 = jsonText(r.Key)
	j.Value, j.ValueBase64 = jsonText(r.Value)
	for _, h := range r.Headers {
		header := jsonHeader{Key: strings.ToValidUTF8(h.Key, "\uFFFD")}
		header.Value, header.ValueBase64 = jsonText(h.Value)
		j.Headers = append(j.Headers, header)
	}
	text, err := json.Marshal(j)
	if err != nil { // strings and numbers always can be
		return append(dst, err.Error()...)
	}
	return append(append(dst, text...), '\n')
}

// Append appends the record.
func (f Format) Append(dst []byte, r *kgo.Record) []byte {
	if f.json {
		return appendJSON(dst, r)
	}
	if f.parts == nil {
		return append(append(dst, r.Value...), '\n')
	}
	for _, part := range f.parts {
		dst = part(dst, r)
	}
	return dst
}
