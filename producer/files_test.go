package producer_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"mft/internal/kafka"
	"mft/producer"
	"mft/protocol"
)

// defaultChunk is the chunk that an unconfigured Kafka has room for.
const defaultChunk = 255 * 4096

func TestSendTree(t *testing.T) { onEachKafka(t, 1, testSendTree) }

func testSendTree(t *testing.T, brokers []string) {
	dir := filepath.Join(t.TempDir(), "a source")
	contents := map[string][]byte{
		"empty":                       {},
		"one byte":                    {1},
		"sub/deeper/ünïcödé – 名前.txt": []byte("hello\n"),
		"sub/with space":              pattern(1000),
		"chunk-1":                     pattern(defaultChunk - 1),
		"chunk":                       pattern(defaultChunk),
		"chunk+1":                     pattern(defaultChunk + 1),
		"three chunks":                pattern(3 * defaultChunk),
	}
	for name, data := range contents {
		writeFile(t, filepath.Join(dir, filepath.FromSlash(name)), data)
	}
	if err := os.MkdirAll(filepath.Join(dir, "empty dir", "inner"), 0o750); err != nil {
		t.Fatal(err)
	}
	when := time.Date(2001, 2, 3, 4, 5, 6, 789_000_000, time.UTC)
	for _, name := range []string{"one byte", "empty dir/inner", "sub"} {
		if err := os.Chtimes(filepath.Join(dir, filepath.FromSlash(name)), when, when); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "one byte"), 0o600); err != nil {
		t.Fatal(err)
	}

	p := newProducer(t, brokers, nil)
	sum, err := p.SendFiles(t.Context(), []string{dir}, producer.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var total int64
	for _, data := range contents {
		total += int64(len(data))
	}
	if sum.Files != len(contents) || sum.Dirs != 5 || sum.Bytes != total || sum.Failed+sum.Skipped != 0 || sum.Elapsed <= 0 {
		t.Errorf("summary: %+v", sum)
	}

	seen := make(map[string]bool)
	for _, got := range newReader(t, brokers).files(len(contents) + 5) {
		name, ok := strings.CutPrefix(got.manifest.Name, "a source")
		name = strings.TrimPrefix(name, "/")
		if !ok || seen[name] {
			t.Errorf("name %q", got.manifest.Name)
		}
		seen[name] = true
		for parent := filepath.Dir(name); parent != "."; parent = filepath.Dir(parent) {
			if seen[parent] {
				t.Errorf("directory %q came before %q, which is in it", parent, name)
			}
		}
		info, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil {
			t.Error(err)
			continue
		}
		if got.manifest.Mode != protocol.ModeOf(info.Mode()) || !got.manifest.ModTime.Equal(info.ModTime()) {
			t.Errorf("%s: mode %s, time %s; want %s, %s", name, got.manifest.Mode, got.manifest.ModTime, info.Mode(), info.ModTime())
		}
		if info.IsDir() != (got.manifest.Type == protocol.TypeDir) {
			t.Errorf("%s: type %s", name, got.manifest.Type)
		}
		if !info.IsDir() && !bytes.Equal(got.data, contents[name]) {
			t.Errorf("%s: came with %d bytes, want %d", name, len(got.data), len(contents[name]))
		}
	}
	if !seen["empty dir/inner"] || !seen["empty dir"] || !seen[""] {
		t.Errorf("directories are missing: %v", seen)
	}
}

func TestNamesFollowTheArgument(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "tree", "a"), nil)
	writeFile(t, filepath.Join(dir, "tree", "b", "c"), nil)
	writeFile(t, filepath.Join(dir, "single"), nil)
	t.Chdir(filepath.Join(dir, "tree", "b"))
	slash := string(filepath.Separator)
	for _, test := range []struct {
		args []string
		want []string
	}{
		{[]string{filepath.Join(dir, "tree")}, []string{"tree/a", "tree/b/c", "tree/b/", "tree/"}},
		{[]string{filepath.Join(dir, "tree") + slash}, []string{"a", "b/c", "b/"}},
		{[]string{filepath.Join(dir, "single"), filepath.Join(dir, "tree", "b")}, []string{"single", "b/c", "b/"}},
		{[]string{"."}, []string{"c"}},
		{[]string{".."}, []string{"a", "b/c", "b/"}},
		{[]string{"./c"}, []string{"c"}},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			brokers := startBroker(t, 1)
			p := newProducer(t, brokers, nil)
			if _, err := p.SendFiles(t.Context(), test.args, producer.FileOptions{}); err != nil {
				t.Fatal(err)
			}
			got := names(newReader(t, brokers).files(len(test.want)))
			if sorted(got) != sorted(test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestWhatIsNoFileIsSkipped(t *testing.T) {
	brokers := startBroker(t, 1)
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "file"), []byte("x"))
	if err := os.Symlink("file", filepath.Join(dir, "link")); err != nil {
		t.Skip("no symbolic links here: ", err)
	}
	if err := os.Symlink("/etc", filepath.Join(dir, "dirlink")); err != nil {
		t.Fatal(err)
	}
	if err := makePipe(filepath.Join(dir, "pipe")); err != nil {
		t.Skip("no named pipes here: ", err)
	}
	want := 1
	var skipped []string
	p := newProducer(t, brokers, func(c *producer.Config) {
		c.Events.Skipped = func(name, _ string) { skipped = append(skipped, name) }
	})
	sum, err := p.SendFiles(t.Context(), []string{dir + "/"}, producer.FileOptions{})
	if err != nil || sum.Files != 3 || sum.Failed != 0 || sum.Skipped != want || len(skipped) != want || len(sum.Problems) != want {
		t.Errorf("%+v, %v, skipped %q", sum, err, skipped)
	}
}

func TestWhatCannotBeReadFails(t *testing.T) {
	brokers := startBroker(t, 1)
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "good"), []byte("x"))
	locked := writeFile(t, filepath.Join(dir, "locked"), []byte("x"))
	if err := os.Chmod(locked, 0); err != nil {
		t.Fatal(err)
	}
	want := 2
	if f, err := os.Open(locked); err == nil { // as root, for one
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		want--
	}
	missing := filepath.Join(dir, "missing")
	p := newProducer(t, brokers, nil)
	sum, err := p.SendFiles(t.Context(), []string{dir + "/", missing}, producer.FileOptions{})
	if err != nil || sum.Failed != want || sum.Files != 3-want || len(sum.Problems) != want {
		t.Errorf("%+v, %v", sum, err)
	}
	if _, err := p.SendFiles(t.Context(), []string{missing}, producer.FileOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("only a missing file: %v", err)
	}
	if _, err := p.SendFiles(t.Context(), []string{filepath.Join(dir, "good"), dir + "/../" + filepath.Base(dir) + "/good"}, producer.FileOptions{}); err == nil {
		t.Error("two files of one name were taken")
	}
}

func TestFilter(t *testing.T) {
	brokers := startBroker(t, 1)
	dir := t.TempDir()
	for _, name := range []string{"a.txt", "a.log", "sub/b.txt", "sub/deep/c.txt", "skip/d.txt", "empty/x.log"} {
		writeFile(t, filepath.Join(dir, name), nil)
	}
	r := newReader(t, brokers)
	p := newProducer(t, brokers, nil)
	for _, test := range []struct {
		options producer.FileOptions
		want    []string
	}{
		{producer.FileOptions{Include: []string{"*.txt"}, Exclude: []string{"skip"}}, []string{"a.txt", "sub/b.txt", "sub/deep/c.txt", "sub/deep/", "sub/"}},
		{producer.FileOptions{Include: []string{"sub/*.txt"}}, []string{"sub/b.txt", "sub/"}},
		{producer.FileOptions{Include: []string{"sub/**/c.*"}}, []string{"sub/deep/c.txt", "sub/deep/", "sub/"}},
		{producer.FileOptions{Exclude: []string{"**/deep", "*.log", "skip/*"}}, []string{"a.txt", "sub/b.txt", "sub/", "skip/", "empty/"}},
	} {
		if _, err := p.SendFiles(t.Context(), []string{dir + "/"}, test.options); err != nil {
			t.Fatal(err)
		}
		if got := names(r.files(len(test.want))); sorted(got) != sorted(test.want) {
			t.Errorf("%+v: got %q, want %q", test.options, got, test.want)
		}
	}
	if _, err := p.SendFiles(t.Context(), []string{dir}, producer.FileOptions{Include: []string{"[a"}}); err == nil {
		t.Error("a broken pattern was taken")
	}
}

// TestChunksFitTheTopic has topics with small and large limits.
func TestChunksFitTheTopic(t *testing.T) {
	for _, test := range []struct{ limit, chunk int }{
		{2000, 2000 - 256},
		{10_000, 2 * 4096},
		{1048588, defaultChunk},
		{16 << 20, 4 << 20},
	} {
		t.Run(fmt.Sprint(test.limit), func(t *testing.T) {
			brokers := startBroker(t, 1)
			createTopic(t, brokers, map[string]string{"max.message.bytes": fmt.Sprint(test.limit)})
			file := filepath.Join(t.TempDir(), "file")
			data := make([]byte, 2*test.chunk+1)
			rand.Read(data)
			p := newProducer(t, brokers, nil)
			r := newReader(t, brokers)
			for _, size := range []int{test.chunk - 1, test.chunk, test.chunk + 1, 2*test.chunk + 1} {
				writeFile(t, file, data[:size])
				if _, err := p.SendFiles(t.Context(), []string{file}, producer.FileOptions{}); err != nil {
					t.Fatal(err)
				}
				got := r.files(1)[0]
				if got.manifest.Chunk != int64(test.chunk) || !bytes.Equal(got.data, data[:size]) {
					t.Errorf("%d bytes: chunk %d, %d bytes came", size, got.manifest.Chunk, len(got.data))
				}
			}
		})
	}
}

func TestChangingFile(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		times  int // changes
		change func(file string) error
		failed bool
	}{
		{"grows once", 1, func(file string) error { return appendTo(file, "more") }, false},
		{"shrinks once", 1, func(file string) error { return os.Truncate(file, 10) }, false},
		{"is touched once", 1, func(file string) error { return os.Chtimes(file, time.Time{}, time.Unix(1, 0)) }, false},
		{"never rests", 1000, func(file string) error { return appendTo(file, "more") }, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			brokers := startBroker(t, 1)
			dir := t.TempDir()
			file := writeFile(t, filepath.Join(dir, "file"), pattern(2*defaultChunk))
			writeFile(t, filepath.Join(dir, "other"), pattern(100))
			changes := 0
			var told []string
			p := newProducer(t, brokers, func(c *producer.Config) {
				c.Events = producer.Events{
					Begin: func(_, name string, _ int64, _ bool) {
						if name == "file" && changes < test.times {
							changes++
							if err := test.change(file); err != nil {
								t.Error(err)
							}
						}
					},
					Retried: func(_, name string, _ error) { told = append(told, "retried "+name) },
					Failed:  func(_, name string, _ error) { told = append(told, "failed "+name) },
				}
			})
			sum, err := p.SendFiles(t.Context(), []string{dir + "/"}, producer.FileOptions{})
			if err != nil {
				t.Fatal(err)
			}
			r := newReader(t, brokers)
			if test.failed {
				if sum.Files != 1 || sum.Failed != 1 || !slices.Contains(told, "failed file") || !strings.Contains(sum.Problems[0].Reason, "changed while it was read") {
					t.Errorf("%+v, told %q", sum, told)
				}
				return
			}
			if sum.Files != 2 || sum.Failed != 0 || !slices.Equal(told, []string{"retried file"}) {
				t.Errorf("%+v, told %q", sum, told)
			}
			got := r.files(2)
			last := got[len(got)-1]
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			aborted := slices.ContainsFunc(got, func(f *received) bool { return f.manifest.Name == "file" && f.aborted != "" })
			if len(got) != 3 || !aborted || last.manifest.Name != "file" || !bytes.Equal(last.data, want) {
				t.Errorf("transfers: %q, aborted: %t", names(got), aborted)
			}
		})
	}
}

func appendTo(file, text string) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

func TestInterruptedTransferIsAborted(t *testing.T) {
	t.Parallel()
	brokers := startBroker(t, 1)
	file := writeFile(t, filepath.Join(t.TempDir(), "file"), pattern(5*defaultChunk))
	ctx, cancel := context.WithCancel(t.Context())
	p := newProducer(t, brokers, func(c *producer.Config) {
		c.Events.Begin = func(string, string, int64, bool) { cancel() }
	})
	sum, err := p.SendFiles(ctx, []string{file}, producer.FileOptions{})
	if !errors.Is(err, context.Canceled) || sum.Files != 0 {
		t.Errorf("%+v, %v", sum, err)
	}
	r := newReader(t, brokers)
	for {
		rec := r.next()
		f, err := protocol.ParseFileRecord(rec.Key, rec.Value, rec.Headers)
		if err != nil {
			t.Fatal(err)
		}
		if f.Kind == protocol.KindAbort {
			return
		}
	}
}

func TestManySmallFilesOverPartitions(t *testing.T) { onEachKafka(t, 7, testManySmallFiles) }

func testManySmallFiles(t *testing.T, brokers []string) {
	dir := t.TempDir()
	const n = 1000
	for i := range n {
		writeFile(t, filepath.Join(dir, fmt.Sprint(i%10), fmt.Sprint(i)), pattern(i))
	}
	p := newProducer(t, brokers, nil)
	sum, err := p.SendFiles(t.Context(), []string{dir + "/"}, producer.FileOptions{})
	if err != nil || sum.Files != n || sum.Dirs != 10 {
		t.Fatalf("%+v, %v", sum, err)
	}
	if got := newReader(t, brokers).files(n + 10); len(got) != n+10 {
		t.Errorf("%d transfers came", len(got))
	}
}

func TestPinnedPartitionAndDigest(t *testing.T) {
	brokers := startBroker(t, 3)
	file := writeFile(t, filepath.Join(t.TempDir(), "file"), pattern(100))
	for partition := range int32(3) {
		p := newProducer(t, brokers, func(c *producer.Config) {
			c.Partition, c.Digest, c.Acks = &partition, "sha256", producer.AcksOne
		})
		if _, err := p.SendFiles(t.Context(), []string{file}, producer.FileOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	seen := make(map[int32]int)
	r := newReader(t, brokers)
	for range 9 {
		seen[r.next().Partition]++
	}
	if len(seen) != 3 || seen[0] != 3 || seen[1] != 3 {
		t.Errorf("records per partition: %v", seen)
	}
	beyond := int32(3)
	p := newProducer(t, brokers, func(c *producer.Config) { c.Partition = &beyond })
	if _, err := p.SendFiles(t.Context(), []string{file}, producer.FileOptions{}); err == nil {
		t.Error("sent to a partition that does not exist")
	}
}

func TestRefusedRecordEndsTheCall(t *testing.T) {
	t.Parallel()
	cluster := startKafka(t)
	cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		produce := req.(*kmsg.ProduceRequest)
		resp := produce.ResponseKind().(*kmsg.ProduceResponse)
		for _, in := range produce.Topics {
			out := kmsg.NewProduceResponseTopic()
			out.Topic, out.TopicID = in.Topic, in.TopicID
			for _, part := range in.Partitions {
				p := kmsg.NewProduceResponseTopicPartition()
				p.Partition, p.ErrorCode = part.Partition, kerr.MessageTooLarge.Code
				out.Partitions = append(out.Partitions, p)
			}
			resp.Topics = append(resp.Topics, out)
		}
		return resp, nil, true
	})
	file := writeFile(t, filepath.Join(t.TempDir(), "file"), pattern(5*defaultChunk))
	p := newProducer(t, cluster.ListenAddrs(), nil)
	sum, err := p.SendFiles(t.Context(), []string{file}, producer.FileOptions{})
	refused, ok := errors.AsType[*producer.TopicError](err)
	if !ok || !errors.Is(refused, kerr.MessageTooLarge) || sum.Files != 0 || !strings.Contains(err.Error(), "max.message.bytes") {
		t.Errorf("%+v, %v", sum, err)
	}
}

func TestNobodyThere(t *testing.T) {
	file := writeFile(t, filepath.Join(t.TempDir(), "file"), nil)
	p := newProducer(t, []string{"127.0.0.1:1"}, func(c *producer.Config) { c.ConnectTimeout = 200 * time.Millisecond })
	_, err := p.SendFiles(t.Context(), []string{file}, producer.FileOptions{})
	if e, ok := errors.AsType[*kafka.UnreachableError](err); !ok || e.Err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("%v", err)
	}
}

func TestTopicIsNotCreated(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	p := newProducer(t, cluster.ListenAddrs(), func(c *producer.Config) { c.ConnectTimeout = 500 * time.Millisecond })
	_, err = p.SendLines(t.Context(), strings.NewReader("x\n"), producer.LineOptions{})
	if _, ok := errors.AsType[*producer.TopicError](err); !ok || !strings.Contains(err.Error(), "mft-admin topics create") {
		t.Errorf("%v", err)
	}
}

func TestStalledBroker(t *testing.T) {
	t.Parallel()
	cluster := startKafka(t)
	release := make(chan struct{})
	cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		cluster.SleepControl(func() { <-release })
		return nil, nil, false
	})
	file := writeFile(t, filepath.Join(t.TempDir(), "file"), pattern(100))
	p := newProducer(t, cluster.ListenAddrs(), func(c *producer.Config) { c.StallTimeout = 200 * time.Millisecond })
	_, err := p.SendFiles(t.Context(), []string{file}, producer.FileOptions{})
	close(release)
	if _, ok := errors.AsType[*producer.StallError](err); !ok {
		t.Errorf("%v", err)
	}
}

func TestCompressionFollowsTheContent(t *testing.T) {
	t.Parallel()
	random := make([]byte, 2*defaultChunk)
	rand.Read(random)
	const none, zstd = 0, 4
	for _, test := range []struct {
		name  string
		mode  producer.Compression
		data  []byte
		codec uint8
	}{
		{"auto text", producer.CompressAuto, pattern(2 * defaultChunk), zstd},
		{"auto random", producer.CompressAuto, random, none},
		{"auto of a known format", producer.CompressAuto, append([]byte("\x1f\x8b\x08"), pattern(2*defaultChunk)...), none},
		{"none", producer.CompressNone, pattern(2 * defaultChunk), none},
		{"gzip", producer.CompressGzip, pattern(defaultChunk), 1},
		{"snappy", producer.CompressSnappy, pattern(defaultChunk), 2},
		{"lz4", producer.CompressLZ4, pattern(defaultChunk), 3},
		{"zstd", producer.CompressZstd, pattern(defaultChunk), zstd},
	} {
		t.Run(test.name, func(t *testing.T) {
			brokers := startBroker(t, 1)
			p := newProducer(t, brokers, func(c *producer.Config) { c.Compression = test.mode })
			file := writeFile(t, filepath.Join(t.TempDir(), "file"), test.data)
			if _, err := p.SendFiles(t.Context(), []string{file}, producer.FileOptions{}); err != nil {
				t.Fatal(err)
			}
			got := newReader(t, brokers).files(1)[0]
			if !bytes.Equal(got.data, test.data) || got.codec.CompressionType() != test.codec {
				t.Errorf("codec %d, want %d", got.codec.CompressionType(), test.codec)
			}
		})
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := producer.Config{Brokers: []string{"127.0.0.1:1"}, Topic: topic}
	minus := int32(-1)
	for name, change := range map[string]func(*producer.Config){
		"no broker":   func(c *producer.Config) { c.Brokers = nil },
		"no topic":    func(c *producer.Config) { c.Topic = "" },
		"digest":      func(c *producer.Config) { c.Digest = "md5" },
		"acks":        func(c *producer.Config) { c.Acks = "2" },
		"compression": func(c *producer.Config) { c.Compression = "rar" },
		"partition":   func(c *producer.Config) { c.Partition = &minus },
	} {
		cfg := good
		change(&cfg)
		if p, err := producer.New(cfg); err == nil {
			t.Errorf("%s: was taken; closed: %v", name, p.Close())
		}
	}
}
