package producer

import (
	"slices"
	"strings"
	"testing"
)

// pieces gives its text in reads of at most n bytes.
type pieces struct {
	text string
	n    int
}

func (p *pieces) Read(b []byte) (int, error) {
	n := copy(b, p.text[:min(p.n, len(p.text))])
	p.text = p.text[n:]
	return n, nil
}

// FuzzSplitter has one law: however a text comes in, its lines are those that
// strings.Split finds, the long ones left out and told of.
func FuzzSplitter(f *testing.F) {
	f.Add("a\nbb\n\nccc", 1, 2)
	f.Add("\n", 3, 1)
	f.Add("no newline", 4, 5)
	f.Add("long line\nx\nlong again", 1, 3)
	f.Add(strings.Repeat("0123456789", 20_000)+"\nend\n", 5000, 150_000)
	f.Fuzz(func(t *testing.T, text string, piece, limit int) {
		if piece < 1 || limit < 0 || limit > 1<<20 {
			t.Skip()
		}
		var got []string
		var long []int64
		s := &splitter{
			limit: limit,
			line:  func(line []byte) { got = append(got, string(line)) },
			long:  func(line, bytes int64) { long = append(long, line, bytes) },
		}
		for in := (&pieces{text, piece}); in.text != ""; {
			if _, err := s.read(in); err != nil {
				t.Fatal(err)
			}
			s.cut()
		}
		s.flush()

		lines := strings.Split(text, "\n")
		if last := len(lines) - 1; lines[last] == "" {
			lines = lines[:last]
		}
		var want []string
		var wantLong []int64
		for i, line := range lines {
			if len(line) > limit {
				wantLong = append(wantLong, int64(i)+1, int64(len(line)))
			} else {
				want = append(want, line)
			}
		}
		if !slices.Equal(got, want) || !slices.Equal(long, wantLong) {
			t.Errorf("got %q and long %v, want %q and %v", got, long, want, wantLong)
		}
	})
}

// TestLinesStayAsTheyWere keeps lines while further ones are read.
func TestLinesStayAsTheyWere(t *testing.T) {
	var got [][]byte
	s := &splitter{limit: 1 << 20, line: func(line []byte) { got = append(got, line) }}
	text := strings.Repeat("some line\nanother\n", 20_000)
	for in := (&pieces{text, 3001}); in.text != ""; {
		if _, err := s.read(in); err != nil {
			t.Fatal(err)
		}
		s.cut()
	}
	for i, line := range got {
		if want := []string{"some line", "another"}[i%2]; string(line) != want {
			t.Fatalf("line %d is now %q", i, line)
		}
	}
}
