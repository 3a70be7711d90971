package consumer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// fill sends n records "v0".."vn-1", a second apart, in turn to the partitions.
func (s *sender) fill(from, to, partitions int) {
	s.t.Helper()
	for i := from; i < to; i++ {
		s.send(int32(i%partitions), &kgo.Record{Key: fmt.Appendf(nil, "k%d", i), Value: fmt.Appendf(nil, "v%d", i), Timestamp: fillTime(i)})
	}
}

func fillTime(i int) time.Time { return testTime.Add(time.Duration(i) * time.Second) }

func values(from, to int) string {
	var b strings.Builder
	for i := from; i < to; i++ {
		fmt.Fprintf(&b, "v%d\n", i)
	}
	return b.String()
}

func (s *sender) records() RecordsConfig {
	return RecordsConfig{Config: Config{Brokers: s.brokers, Topic: s.topic, Logger: testLog(s.t)}}
}

func read(t testing.TB, cfg RecordsConfig) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	var out strings.Builder
	n, err := ReadRecords(ctx, cfg, &out)
	if err != nil || ctx.Err() != nil {
		t.Fatalf("after %d records: %v, %v", n, err, ctx.Err())
	}
	return out.String()
}

func TestReadOnePartition(t *testing.T) { onBoth(t, testReadOnePartition) }

func testReadOnePartition(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "one", 1)
	if got := read(t, s.records()); got != "" {
		t.Errorf("empty topic: %q", got)
	}
	s.fill(0, 30, 1)
	zero := int32(0)
	for name, c := range map[string]struct {
		change func(*RecordsConfig)
		want   string
	}{
		"all":                 {func(*RecordsConfig) {}, values(0, 30)},
		"last 10":             {func(c *RecordsConfig) { c.Limit = 10 }, values(20, 30)},
		"last 100":            {func(c *RecordsConfig) { c.Limit = 100 }, values(0, 30)},
		"first 10":            {func(c *RecordsConfig) { c.Limit, c.From = 10, Beginning() }, values(0, 10)},
		"first 10, following": {func(c *RecordsConfig) { c.Limit, c.From, c.Follow = 10, Beginning(), true }, values(0, 10)},
		"from offset":         {func(c *RecordsConfig) { c.From = AtOffset(25) }, values(25, 30)},
		"from beyond":         {func(c *RecordsConfig) { c.From = AtOffset(99) }, ""},
		"from -3":             {func(c *RecordsConfig) { c.From = BeforeEnd(3) }, values(27, 30)},
		"from end":            {func(c *RecordsConfig) { c.From = End() }, ""},
		"from a time":         {func(c *RecordsConfig) { c.From = Since(fillTime(12)) }, values(12, 30)},
		"from a later time":   {func(c *RecordsConfig) { c.From = Since(fillTime(31)) }, ""},
		"3 from a time":       {func(c *RecordsConfig) { c.From, c.Limit = Since(fillTime(12).Add(-1)), 3 }, values(12, 15)},
		"partition":           {func(c *RecordsConfig) { c.Partition, c.Limit = &zero, 1 }, values(29, 30)},
	} {
		cfg := s.records()
		c.change(&cfg)
		if got := read(t, cfg); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	cfg := s.records()
	one := int32(1)
	cfg.Partition = &one
	if _, err := ReadRecords(t.Context(), cfg, io.Discard); err == nil {
		t.Error("a partition that is not there is read")
	}
}

func TestReadAcrossPartitions(t *testing.T) { onBoth(t, testReadAcrossPartitions) }

func testReadAcrossPartitions(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "several", 3)
	s.fill(0, 30, 3)
	cfg := s.records()
	cfg.Limit = 10
	if got := read(t, cfg); got != values(20, 30) {
		t.Errorf("last 10: %q", got)
	}
	two := int32(2)
	cfg = s.records()
	cfg.Partition, cfg.Limit = &two, 2
	if got := read(t, cfg); got != "v26\nv29\n" {
		t.Errorf("partition 2: %q", got)
	}
	if got := strings.Count(read(t, s.records()), "\n"); got != 30 {
		t.Errorf("all: %d", got)
	}
}

func TestFollow(t *testing.T) { onBoth(t, testFollow) }

func testFollow(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "follow", 2)
	s.fill(0, 20, 2)
	for _, c := range []struct {
		name   string
		change func(*RecordsConfig)
		first  string // before anything new is sent
	}{
		{"last 5", func(c *RecordsConfig) { c.Limit = 5 }, values(15, 20)},
		{"from -1", func(c *RecordsConfig) { c.From = BeforeEnd(1) }, ""},
	} {
		name := c.name
		cfg := s.records()
		cfg.Follow = true
		c.change(&cfg)
		ctx, cancel := context.WithCancel(t.Context())
		out, in := io.Pipe()
		ended := make(chan error, 1)
		go func() {
			_, err := ReadRecords(ctx, cfg, in)
			ended <- errors.Join(err, in.Close())
		}()
		lines := bufio.NewScanner(out)
		next := func() string {
			if !lines.Scan() {
				t.Fatalf("%s: the output ended: %v", name, lines.Err())
			}
			return lines.Text()
		}
		if c.first != "" {
			var got strings.Builder
			for range strings.Count(c.first, "\n") {
				got.WriteString(next() + "\n")
			}
			if got.String() != c.first {
				t.Errorf("%s: first %q, want %q", name, got.String(), c.first)
			}
		} else {
			next()
			next()
		}
		for i := range 5 {
			line := fmt.Sprintf("new %s %d", name, i)
			s.send(int32(i%2), &kgo.Record{Value: []byte(line)})
			if got := next(); got != line {
				t.Errorf("%s: %q, want %q", name, got, line)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFollowATopicThatIsNotThereYet(t *testing.T) { onBoth(t, testFollowLater) }

func testFollowLater(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "there", 1)
	s.topic = "later"
	if _, err := ReadRecords(t.Context(), s.records(), io.Discard); err == nil {
		t.Error("a missing topic is read to its end")
	}
	cfg := s.records()
	cfg.Follow = true
	told := make(chan struct{})
	cfg.Logger = zerolog.New(io.Discard).Hook(zerolog.HookFunc(func(_ *zerolog.Event, _ zerolog.Level, message string) {
		if strings.Contains(message, "does not exist yet") {
			close(told)
		}
	}))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		_, err := ReadRecords(ctx, cfg, in)
		ended <- err
	}()
	<-told
	s.createTopic(1)
	s.fill(0, 1, 1)
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "v0\n" {
		t.Errorf("%q, %v", line, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestReadAsAGroup(t *testing.T) { onBoth(t, testReadAsAGroup) }

func testReadAsAGroup(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "grouped", 1)
	s.fill(0, 20, 1)
	cfg := s.records()
	cfg.Group, cfg.Limit = "readers", 7
	if got := read(t, cfg); got != values(0, 7) {
		t.Errorf("first: %q", got)
	}
	if got := read(t, cfg); got != values(7, 14) {
		t.Errorf("second: %q", got)
	}
	cfg.Limit = 0
	if got := read(t, cfg); got != values(14, 20) {
		t.Errorf("the rest: %q", got)
	}
	if got := read(t, cfg); got != "" {
		t.Errorf("nothing is left, yet: %q", got)
	}
	committed, err := kadm.NewClient(s.client).FetchOffsets(t.Context(), "readers")
	if err != nil {
		t.Fatal(err)
	}
	if at, ok := committed.Lookup(s.topic, 0); !ok || at.At != 20 {
		t.Errorf("committed %+v", at)
	}
}

func TestReaderGoesAway(t *testing.T) {
	t.Parallel()
	s := newSender(t, otherKafka(t), "pipe", 1)
	s.fill(0, 10, 1)
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadRecords(t.Context(), s.records(), in); err != nil {
		t.Errorf("%v", err)
	}
}
