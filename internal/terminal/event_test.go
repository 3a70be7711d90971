package terminal

import (
	"bytes"
	"encoding/json"
	"testing"
)

// TestAppendFile holds the fast encoding of a file's event to encoding/json's.
func TestAppendFile(t *testing.T) {
	n, zero := int64(1<<40), int64(0)
	for _, c := range []struct {
		e    Event
		fast bool
	}{
		{Event{Event: "begin", ID: "0a", Name: "d/a file.txt", Type: "file", Size: &n}, true},
		{Event{Event: "begin", ID: "0a", Name: "<&>'", Type: "file", Size: &zero}, true},
		{Event{Event: "done", Name: "d", Type: "dir"}, true},
		{Event{Event: "done", ID: "1", Name: "x", Type: "file", Bytes: &zero, Digest: "abc"}, true},
		{Event{}, true},
		{Event{Event: "done", Name: `a"b`}, false},
		{Event{Event: "done", Name: `a\b`}, false},
		{Event{Event: "done", Name: "a\nb"}, false},
		{Event{Event: "done", Name: "größe"}, false},
		{Event{Event: "done", Name: "a\xffb"}, false},
		{Event{Event: "done", Name: "a", Digest: "\x7f"}, false},
	} {
		var want bytes.Buffer
		enc := json.NewEncoder(&want)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(c.e); err != nil {
			t.Fatal(err)
		}
		got, fast := c.e.appendFile(nil)
		if fast != c.fast || fast && !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%+v: %v\ngot  %swant %s", c.e, fast, got, want.Bytes())
		}
	}
}
