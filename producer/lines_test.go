package producer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"mft/producer"
	"mft/protocol"
)

func TestSendLines(t *testing.T) {
	long := strings.Repeat("x", 200_000)
	for _, test := range []struct {
		name  string
		input string
		want  []string
	}{
		{"nothing", "", nil},
		{"one line", "a\n", []string{"a"}},
		{"no newline at the end", "a\nb", []string{"a", "b"}},
		{"empty lines", "\n\na\n\n", []string{"", "", "a", ""}},
		{"carriage returns stay", "a\r\nb\r\n", []string{"a\r", "b\r"}},
		{"longer than a slab", long + "\nb\n" + long, []string{long, "b", long}},
	} {
		t.Run(test.name, func(t *testing.T) {
			brokers := startBroker(t, 1)
			p := newProducer(t, brokers, nil)
			r := newReader(t, brokers)
			for name, in := range map[string]io.Reader{
				"at once":      strings.NewReader(test.input),
				"in halves":    iotest.HalfReader(strings.NewReader(test.input)),
				"with the EOF": iotest.DataErrReader(strings.NewReader(test.input)),
			} {
				sum, err := p.SendLines(t.Context(), in, producer.LineOptions{})
				if err != nil || sum.Records != int64(len(test.want)) {
					t.Fatalf("%s: %+v, %v", name, sum, err)
				}
				if got := r.values(len(test.want)); !slices.Equal(got, test.want) {
					t.Errorf("%s: got %.200q, want %.200q", name, got, test.want)
				}
			}
		})
	}
}

func TestKeysAndHeaders(t *testing.T) { onEachKafka(t, 4, testKeysAndHeaders) }

func testKeysAndHeaders(t *testing.T, brokers []string) {
	p := newProducer(t, brokers, nil)
	r := newReader(t, brokers)
	lines := "a=1\nb=2=3\nnone\n=empty\na=4\n"
	headers := []protocol.Header{{Key: "h", Value: []byte("v")}, {Key: "h", Value: []byte("w")}}
	if _, err := p.SendLines(t.Context(), strings.NewReader(lines), producer.LineOptions{KeyDelim: "=", Headers: headers}); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	partition := make(map[string]int32)
	for range 5 {
		rec := r.next()
		key := string(rec.Key)
		if rec.Key == nil {
			key = "(null)"
		}
		got[key] += string(rec.Value) + ";"
		if was, ok := partition[key]; ok && was != rec.Partition {
			t.Errorf("key %q in partitions %d and %d", key, was, rec.Partition)
		}
		partition[key] = rec.Partition
		if len(rec.Headers) != 2 || rec.Headers[1].Key != "h" || string(rec.Headers[1].Value) != "w" {
			t.Errorf("headers: %v", rec.Headers)
		}
	}
	want := map[string]string{"a": "1;4;", "b": "2=3;", "(null)": "none;", "": "empty;"}
	for key, values := range want {
		if got[key] != values {
			t.Errorf("key %q: %q, want %q", key, got[key], values)
		}
	}
	if _, err := p.SendLines(t.Context(), strings.NewReader("x"), producer.LineOptions{Key: []byte("fixed")}); err != nil {
		t.Fatal(err)
	}
	if rec := r.next(); string(rec.Key) != "fixed" || string(rec.Value) != "x" {
		t.Errorf("fixed key: %q %q", rec.Key, rec.Value)
	}
	if _, err := p.SendLines(t.Context(), strings.NewReader("x"), producer.LineOptions{Key: []byte("k"), KeyDelim: "="}); err == nil {
		t.Error("a key and a delimiter were taken")
	}
}

func TestLongLineIsLeftOut(t *testing.T) {
	brokers := startBroker(t, 1)
	createTopic(t, brokers, map[string]string{"max.message.bytes": "2000"})
	const limit = 2000 - 256
	var failed []error
	p := newProducer(t, brokers, func(c *producer.Config) {
		c.Events.Failed = func(_, _ string, why error) { failed = append(failed, why) }
	})
	lines := []string{"a", strings.Repeat("b", limit), strings.Repeat("c", limit+1), strings.Repeat("d", 500_000), "e", strings.Repeat("f", limit+1)}
	sum, err := p.SendLines(t.Context(), iotest.HalfReader(strings.NewReader(strings.Join(lines, "\n"))), producer.LineOptions{})
	if err != nil || sum.Records != 3 || sum.Failed != 3 {
		t.Fatalf("%+v, %v", sum, err)
	}
	var told []int64
	for _, err := range failed {
		if long, ok := errors.AsType[*producer.LineTooLongError](err); ok && long.Limit == limit && long.Bytes == int64(len(lines[long.Line-1])) {
			told = append(told, long.Line)
		}
	}
	if !slices.Equal(told, []int64{3, 4, 6}) {
		t.Errorf("told of lines %v: %v", told, failed)
	}
	if got := newReader(t, brokers).values(3); !slices.Equal(got, []string{lines[0], lines[1], lines[4]}) {
		t.Errorf("other lines came")
	}
}

// TestLinesAreSentAtOnce has a source that waits for each line to arrive
// before it gives the next.
func TestLinesAreSentAtOnce(t *testing.T) {
	brokers := startBroker(t, 1)
	p := newProducer(t, brokers, nil)
	r := newReader(t, brokers)
	in, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := p.SendLines(context.Background(), in, producer.LineOptions{})
		done <- err
	}()
	for i := range 20 {
		if _, err := fmt.Fprintf(out, "line %d\n", i); err != nil {
			t.Fatal(err)
		}
		if got := string(r.next().Value); got != fmt.Sprintf("line %d", i) {
			t.Fatalf("got %q", got)
		}
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestInterruptedLinesAreFlushed(t *testing.T) {
	brokers := startBroker(t, 1)
	p := newProducer(t, brokers, nil)
	in, out := io.Pipe()
	defer out.Close() // lets the reading goroutine go
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for i := range 5000 {
			fmt.Fprintf(out, "line %d\n", i)
		}
		cancel()
	}()
	sum, err := p.SendLines(ctx, in, producer.LineOptions{})
	if err != nil || sum.Records < 4999 { // the pipe hands over the last one before it is cut
		t.Errorf("%+v, %v", sum, err)
	}
}

func TestBrokenSourceOfLines(t *testing.T) {
	brokers := startBroker(t, 1)
	p := newProducer(t, brokers, nil)
	broken := errors.New("broken")
	sum, err := p.SendLines(t.Context(), io.MultiReader(strings.NewReader("a\nb\n"), iotest.ErrReader(broken)), producer.LineOptions{})
	if !errors.Is(err, broken) || sum.Records != 2 {
		t.Errorf("%+v, %v", sum, err)
	}
}
