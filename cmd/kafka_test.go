package cmd_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"mft/internal/commandtest"
	"mft/internal/kafkatest"
)

// The tests in this file run the commands against Apache Kafka itself, set up as it comes; so do the scripts, see TestScripts, and, with
// three brokers that die, the tests in cluster_test.go.

// kafkaTopic is the name of a topic, and of a group, that nobody else has on the Kafka that tests share.
func kafkaTopic(t *testing.T) string { return fmt.Sprintf("%s-%d", t.Name(), time.Now().UnixNano()) }

// received are the files and directories that a receiver which was told --json has placed, and how often each.
func received(t *testing.T, outputs ...string) map[string]int {
	t.Helper()
	placed := map[string]int{}
	for _, output := range outputs {
		for line := range strings.Lines(output) {
			if !strings.HasSuffix(line, "\n") {
				continue // it was killed while it said so
			}
			var e struct{ Event, Name string }
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			if e.Event == "done" {
				placed[e.Name]++
			}
		}
	}
	return placed
}

// once fails the test unless every entry below source was placed once.
func once(t *testing.T, source string, placed map[string]int) {
	t.Helper()
	if want := len(commandtest.Tree(t, source)); len(placed) != want {
		t.Errorf("%d files and directories were placed, want %d", len(placed), want)
	}
	for name, n := range placed {
		if n != 1 {
			t.Errorf("%s was placed %d times", name, n)
		}
	}
}

// TestKafkaTree sends files of all sizes, over one partition and over several.
func TestKafkaTree(t *testing.T) {
	k := kafkatest.Shared(t)
	source := t.TempDir()
	commandtest.RandomTree(t, source, 300, 64<<10, 1)
	commandtest.RandomFile(t, filepath.Join(source, "big.bin"), 48<<20, 2)
	for name, args := range map[string][]string{"one partition": {"-p", "1"}, "four partitions": {"-p", "4"}, "small records": {"--config", "max.message.bytes=20000"}} {
		t.Run(name, func(t *testing.T) {
			out, topic := t.TempDir(), strings.NewReplacer("/", ".", " ", "_").Replace(kafkaTopic(t))
			commands.Run(t, "mft-admin", append([]string{"topics", "create", topic, "-b", k.Brokers()}, args...)...)
			commands.Run(t, "mft-produce", "-b", k.Brokers(), "-t", topic, source+string(filepath.Separator))
			done := commands.Run(t, "mft-consume", "-b", k.Brokers(), "-t", topic, "--dir", out, "--once", "--json")
			commandtest.SameTree(t, source, out)
			once(t, source, received(t, done))
			again := commands.Run(t, "mft-consume", "-b", k.Brokers(), "-t", topic, "--dir", out, "--once", "--json")
			if placed := received(t, again); len(placed) > 0 {
				t.Errorf("the second run placed %d files again", len(placed))
			}
		})
	}
}

func TestKafkaTenThousandFiles(t *testing.T) {
	k := kafkatest.Shared(t)
	source, out, topic := t.TempDir(), t.TempDir(), kafkaTopic(t)
	for i := range 10_000 {
		commandtest.RandomFile(t, filepath.Join(source, fmt.Sprintf("%02d/%04d", i%100, i)), 1<<10, uint64(i))
	}
	commands.Run(t, "mft-produce", "-b", k.Brokers(), "-t", topic, source+string(filepath.Separator))
	commands.Run(t, "mft-consume", "-b", k.Brokers(), "-t", topic, "--dir", out, "--once")
	commandtest.SameTree(t, source, out)
}

// TestKafkaRecords sends lines with each codec; they are stored so, and come back in order.
func TestKafkaRecords(t *testing.T) {
	k := kafkatest.Shared(t)
	var in strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&in, "key%d:the value of this line is %d\n", i%10, i)
	}
	codecs := map[string]uint8{"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4, "auto": 4}
	for codec, number := range codecs {
		topic := kafkaTopic(t)
		commands.Pipe(t, strings.NewReader(in.String()), "mft-produce", "-b", k.Brokers(), "-t", topic, "--key-delim", ":", "--compress", codec, "--header", "from=test")
		if got := commands.Run(t, "mft-consume", "-b", k.Brokers(), "-t", topic, "--format", "%k:%s\n"); got != in.String() {
			t.Errorf("%s: other lines came back than were sent", codec)
		}
		client, err := kgo.NewClient(kgo.SeedBrokers(k.Addrs()...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		if err != nil {
			t.Fatal(err)
		}
		for left := 2000; left > 0; {
			fetches := client.PollFetches(withDeadline(t, time.Minute))
			if err := fetches.Err(); err != nil {
				t.Fatal(err)
			}
			fetches.EachRecord(func(r *kgo.Record) {
				if left--; r.Attrs.CompressionType() != number || len(r.Headers) != 1 {
					t.Errorf("%s: record %d is stored with codec %d and headers %v", codec, r.Offset, r.Attrs.CompressionType(), r.Headers)
				}
			})
			if t.Failed() {
				break
			}
		}
		client.Close()
	}
}

// TestKafkaLiveTail: what is appended to a file on one side is shown on the other; a group goes on where it was.
func TestKafkaLiveTail(t *testing.T) {
	k := kafkatest.Shared(t)
	topic, log := kafkaTopic(t), filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(log, []byte("one\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p := commands.Start(t, nil, "mft-produce", "-b", k.Brokers(), "-t", topic, "-f", log)
	c := commands.Start(t, nil, "mft-consume", "-b", k.Brokers(), "-t", topic, "-f", "--from", "beginning")
	at := 0
	expect := func(want string) {
		t.Helper()
		line, next, err := c.Stdout.Line(withDeadline(t, time.Minute), at)
		if err != nil || line != want {
			t.Fatalf("got %q, %v, want %q\n%s\n%s", line, err, want, p.Stderr.String(), c.Stderr.String())
		}
		at = next
	}
	expect("one")
	for i := range 20 {
		f, err := os.OpenFile(log, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintln(f, "line", i); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		expect(fmt.Sprint("line ", i))
	}
	first := commands.Run(t, "mft-consume", "-b", k.Brokers(), "-t", topic, "-g", topic, "-n", "3")
	second := commands.Run(t, "mft-consume", "-b", k.Brokers(), "-t", topic, "-g", topic, "-n", "1")
	if first != "one\nline 0\nline 1\n" || second != "line 2\n" {
		t.Errorf("the group read %q, then %q", first, second)
	}
}

// TestKafkaKillClients kills the producer, the consumer and the broker at random moments; each is started again, as a user would.
func TestKafkaKillClients(t *testing.T) {
	const kills = 9
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	k := kafkatest.Start(t, 1, nil)
	source, out, topic := t.TempDir(), t.TempDir(), "files"
	commandtest.RandomTree(t, source, 1500, 64<<10, 1)
	commandtest.RandomFile(t, filepath.Join(source, "big.bin"), 64<<20, 2)
	produce := func() *commandtest.Process {
		return commands.Start(t, nil, "mft-produce", "-b", k.Brokers(), "-t", topic, source+string(filepath.Separator))
	}
	consume := func(args ...string) *commandtest.Process {
		return commands.Start(t, nil, "mft-consume", append([]string{"-b", k.Brokers(), "-t", topic, "--dir", out}, args...)...)
	}
	p, c := produce(), consume()
	for i := range kills {
		wait := time.NewTimer(time.Duration(20+rng.IntN(500)) * time.Millisecond) // the random moment
		select {
		case <-wait.C:
		case <-p.Done(): // sent it all: send it all again
			if err := p.Err(); err != nil {
				t.Fatalf("mft-produce: %v\n%s", err, p.Stderr.String())
			}
			p = produce()
			<-wait.C
		case <-c.Done():
			t.Fatalf("kill %d: mft-consume ended: %v\n%s", i, c.Err(), c.Stderr.String())
		}
		switch {
		case i%4 == 3:
			k.Kill(t, 1)
			k.Restart(t, 1)
		case i%2 == 0:
			p.KillNow()
			p = produce()
		default:
			c.KillNow()
			c = consume()
		}
	}
	if err := p.WaitFor(2 * time.Minute); err != nil {
		t.Fatalf("mft-produce: %v\n%s", err, p.Stderr.String())
	}
	c.KillNow()
	// What the killed producers left unfinished is reported, not waited for.
	last := consume("--once")
	if err := last.WaitFor(2 * time.Minute); err != nil && exitCode(err) != 3 {
		t.Fatalf("mft-consume: %v\n%s", err, last.Stderr.String())
	}
	commandtest.SameTree(t, source, out)
}

// TestKafkaEncryptedTree: Kafka stores neither a name nor a byte of what is encrypted.
func TestKafkaEncryptedTree(t *testing.T) {
	k := kafkatest.Shared(t)
	source, key := t.TempDir(), filepath.Join(t.TempDir(), "key")
	commands.Run(t, "mft-admin", "keygen", "-o", key)
	commandtest.RandomFile(t, filepath.Join(source, "sub", "a-name-to-hide"), 3<<20+1, 1)
	text := bytes.Repeat([]byte("it says the same over and over, "), 40_000)
	if err := os.WriteFile(filepath.Join(source, "another-name-to-hide"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, compress := range []string{"auto", "zstd", "none"} {
		out, topic := t.TempDir(), kafkaTopic(t)
		commands.Run(t, "mft-produce", "-b", k.Brokers(), "-t", topic, "--encrypt-key", key, "--compress", compress, source+string(filepath.Separator))
		commands.Run(t, "mft-consume", "-b", k.Brokers(), "-t", topic, "--decrypt-key", key, "--dir", out, "--once")
		commandtest.SameTree(t, source, out)
	}
	if err := commandtest.NotStored(k.Data(), "name-to-hide", "over and over"); err != nil {
		t.Error(err)
	}
	// The same in clear is found: the search can fail.
	commands.Run(t, "mft-produce", "-b", k.Brokers(), "-t", kafkaTopic(t), "--compress", "none", source+string(filepath.Separator))
	if commandtest.NotStored(k.Data(), "name-to-hide") == nil || commandtest.NotStored(k.Data(), "over and over") == nil {
		t.Error("what is sent in clear is not found in Kafka's files")
	}
}

// TestKafkaAdmin looks after topics, settings and groups of Kafka.
func TestKafkaAdmin(t *testing.T) {
	k := kafkatest.Shared(t)
	topic := kafkaTopic(t)
	admin := func(code int, want string, args ...string) {
		t.Helper()
		p := commands.Start(t, nil, "mft-admin", append(args, "-b", k.Brokers())...)
		err := p.WaitFor(time.Minute)
		if got := p.Stdout.String() + p.Stderr.String(); exitCode(err) != code || !strings.Contains(got, want) {
			t.Errorf("mft-admin %v: %v, want code %d and %q in\n%s", args, err, code, want, got)
		}
	}
	// Kafka makes the topic of its groups when it is first asked for one.
	admin(1, "there is no group nobody", "groups", "describe", "nobody")
	admin(0, "created "+topic+" (3 partitions)", "topics", "create", topic, "-p", "3", "--config", "retention.ms=86400000")
	admin(1, "already exists", "topics", "create", topic)
	admin(1, "write.caching is a setting of mft-broker", "topics", "create", topic+"-cached", "--config", "write.caching=true")
	admin(1, "The target replication factor of 3 cannot be reached", "topics", "create", topic+"-3", "--replicas", "3")
	admin(0, "changed", "configs", "set", topic, "max.message.bytes=2000000")
	admin(1, "write.caching is a setting of mft-broker", "configs", "set", topic, "write.caching=true")
	admin(1, "retention.ms", "configs", "set", topic, "retention.ms=soon")
	admin(0, "max.message.bytes    2000000   topic", "configs", "describe", topic)
	commands.Pipe(t, strings.NewReader("one\ntwo\nthree\n"), "mft-produce", "-b", k.Brokers(), "-t", topic, "-p", "1")
	commands.Run(t, "mft-consume", "-b", k.Brokers(), "-t", topic, "-g", topic, "-n", "1")
	admin(0, "1          1       1         0      3    3", "topics", "describe", topic)
	admin(0, topic, "groups", "list")
	admin(0, "lag       2\n", "groups", "describe", topic)
	admin(0, "2 records of "+topic+" to be read", "check", "-t", topic, "-g", topic)
	admin(0, "deleted "+topic, "topics", "delete", topic)
	admin(1, "there is no such topic", "topics", "delete", topic)
}

// TestKafkaCheckWithPermissions: on a Kafka with access control, mft-admin check names what this user may not do.
func TestKafkaCheckWithPermissions(t *testing.T) {
	k := kafkatest.Start(t, 1, kafkatest.Settings{
		"authorizer.class.name":          "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
		"allow.everyone.if.no.acl.found": "true",
		"auto.create.topics.enable":      "false",
	})
	client, err := kgo.NewClient(kgo.SeedBrokers(k.Addrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	adm := kadm.NewClient(client)
	ctx := withDeadline(t, time.Minute)
	acl := func(b *kadm.ACLBuilder) {
		t.Helper()
		results, err := adm.CreateACLs(ctx, b.ResourcePatternType(kadm.ACLPatternLiteral))
		if err != nil || len(results) == 0 || results[0].Err != nil {
			t.Fatal(err, results)
		}
	}
	allow := func() *kadm.ACLBuilder { return kadm.NewACLs().Allow("User:ANONYMOUS").AllowHosts("*") }
	for _, topic := range []string{"open", "readonly", "writeonly", "secret"} {
		commands.Run(t, "mft-admin", "topics", "create", topic, "-b", k.Brokers())
	}
	// What has one rule allows nothing else.
	acl(allow().Topics("readonly").Operations(kadm.OpRead, kadm.OpDescribeConfigs))
	acl(allow().Topics("writeonly").Operations(kadm.OpWrite))
	acl(kadm.NewACLs().Deny("User:ANONYMOUS").DenyHosts("*").Topics("secret").Operations(kadm.OpDescribe))
	acl(allow().Topics("new").Operations(kadm.OpDescribe))
	acl(allow().Topics("other").Operations(kadm.OpCreate, kadm.OpDescribe))
	acl(kadm.NewACLs().Deny("User:ANONYMOUS").DenyHosts("*").Groups("theirs").Operations(kadm.OpRead, kadm.OpDescribe))
	acl(allow().Clusters().Operations(kadm.OpClusterAction, kadm.OpDescribe, kadm.OpAlter))
	for _, c := range []struct {
		want string
		code int
		args []string
	}{
		{"ok       permission    open: this user may write and read", 0, []string{"-t", "open"}},
		{"FAILED   permission    readonly: this user may not write\n", 3, []string{"-t", "readonly"}},
		{"ok       permission    readonly: this user may read", 0, []string{"-t", "readonly", "--role", "receiver"}},
		{"FAILED   permission    writeonly: this user may not read\n", 3, []string{"-t", "writeonly"}},
		{"WARNING  settings      writeonly: are not to be had: ", 3, []string{"-t", "writeonly"}},
		{"FAILED   permission    secret: this user may not even see the topic", 3, []string{"-t", "secret"}},
		{"FAILED   topic         new: does not exist, and this user may not create it\n", 3, []string{"-t", "new"}},
		{"FAILED   group         theirs: this user may not use the group\n", 3, []string{"-t", "open", "-g", "theirs"}},
		{"WARNING  topic         other: does not exist, and could be created", 0, []string{"-t", "other"}},
	} {
		p := commands.Start(t, nil, "mft-admin", append([]string{"check", "-b", k.Brokers()}, c.args...)...)
		err := p.WaitFor(time.Minute)
		if got := p.Stdout.String(); exitCode(err) != c.code || !strings.Contains(got, c.want) {
			t.Errorf("check %v: %v, want code %d and %q in\n%s%s", c.args, err, c.code, c.want, got, p.Stderr.String())
		}
	}
}

// TestKafkaRepeats repeats every record of a topic, as a mirror that begins anew does: each file is placed once.
func TestKafkaRepeats(t *testing.T) {
	k := kafkatest.Shared(t)
	source, out, topic := t.TempDir(), t.TempDir(), kafkaTopic(t)
	commandtest.RandomTree(t, source, 50, 64<<10, 1)
	commandtest.RandomFile(t, filepath.Join(source, "big.bin"), 8<<20, 2)
	commands.Run(t, "mft-produce", "-b", k.Brokers(), "-t", topic, source+string(filepath.Separator))
	repeat := func() {
		t.Helper()
		client, err := kgo.NewClient(kgo.SeedBrokers(k.Addrs()...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
			kgo.ProducerBatchMaxBytes(1048588)) // Kafka's max.message.bytes, which our chunks make use of
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		ends, err := kadm.NewClient(client).ListEndOffsets(withDeadline(t, time.Minute), topic)
		if err != nil {
			t.Fatal(err)
		}
		end, _ := ends.Lookup(topic, 0)
		ctx := withDeadline(t, 2*time.Minute)
		for read := int64(0); read < end.Offset; {
			fetches := client.PollFetches(ctx)
			if err := fetches.Err(); err != nil {
				t.Fatal(err)
			}
			var again []*kgo.Record
			fetches.EachRecord(func(r *kgo.Record) {
				if read++; r.Offset < end.Offset {
					again = append(again, &kgo.Record{Topic: topic, Key: r.Key, Value: r.Value, Headers: r.Headers})
				}
			})
			if err := client.ProduceSync(ctx, again...).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	consume := func() string {
		return commands.Run(t, "mft-consume", "-b", k.Brokers(), "-t", topic, "-g", topic, "--dir", out, "--once", "--json")
	}
	repeat() // within what is received in one run
	first := consume()
	once(t, source, received(t, first))
	repeat() // and in another
	once(t, source, received(t, first, consume()))
	commandtest.SameTree(t, source, out)
}

// TestKafkaResume: a file whose producer is killed goes on where it was.
func TestKafkaResume(t *testing.T) {
	k := kafkatest.Shared(t)
	const chunks = 192
	source, out, topic, state := t.TempDir(), t.TempDir(), kafkaTopic(t), t.TempDir()
	commandtest.RandomFile(t, filepath.Join(source, "big.bin"), chunks<<20, 1)
	client, err := kgo.NewClient(kgo.SeedBrokers(k.Addrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx := withDeadline(t, 3*time.Minute)
	produce := func(args ...string) *commandtest.Process {
		return commands.Start(t, nil, "mft-produce", append([]string{"-b", k.Brokers(), "-t", topic, "--state", state, filepath.Join(source, "big.bin")}, args...)...)
	}
	commands.Run(t, "mft-admin", "topics", "create", topic, "-b", k.Brokers())
	p := produce("--limit-rate", "50MB")
	for ends(ctx, t, client, topic)[0] < chunks/2 {
		select {
		case <-p.Done():
			t.Fatalf("mft-produce ended before it was killed: %v\n%s", p.Err(), p.Stderr.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
	p.KillNow()
	p = produce()
	if err := p.WaitFor(2 * time.Minute); err != nil {
		t.Fatalf("mft-produce: %v\n%s", err, p.Stderr.String())
	}
	// A quarter more is more than may be on the way when it is killed, and less than starting anew would take.
	if end := ends(ctx, t, client, topic)[0]; end > chunks*5/4 {
		t.Errorf("%d records for %d chunks", end, chunks)
	}
	commands.Run(t, "mft-consume", "-b", k.Brokers(), "-t", topic, "--dir", out, "--once")
	commandtest.SameTree(t, source, out)
}

// TestKafkaStreams sends and receives over several connections.
func TestKafkaStreams(t *testing.T) {
	k := kafkatest.Shared(t)
	source, out, topic := t.TempDir(), t.TempDir(), kafkaTopic(t)
	commandtest.RandomTree(t, filepath.Join(source, "small"), 300, 64<<10, 1)
	commandtest.RandomFile(t, filepath.Join(source, "big.bin"), 96<<20, 2)
	commands.Run(t, "mft-admin", "topics", "create", topic, "-b", k.Brokers(), "-p", "3")
	commands.Run(t, "mft-produce", "-b", k.Brokers(), "-t", topic, "--streams", "4", source+string(filepath.Separator))
	done := commands.Run(t, "mft-consume", "-b", k.Brokers(), "-t", topic, "--streams", "4", "--dir", out, "--once", "--json")
	commandtest.SameTree(t, source, out)
	once(t, source, received(t, done))
}

// TestKafkaConfirm: --confirm ends when the files are in place, and with 3 when nobody receives them.
func TestKafkaConfirm(t *testing.T) {
	k := kafkatest.Shared(t)
	source, out, topic := t.TempDir(), t.TempDir(), kafkaTopic(t)
	commandtest.RandomTree(t, source, 30, 64<<10, 1)
	nobody := commands.Start(t, nil, "mft-produce", "-b", k.Brokers(), "-t", topic+"-nobody", "--confirm=2s", source+string(filepath.Separator))
	if err := nobody.WaitFor(time.Minute); exitCode(err) != 3 || !strings.Contains(nobody.Stderr.String(), "d000/f00029") {
		t.Errorf("nobody receives, and mft-produce ends with %v\n%s", err, nobody.Stderr.String())
	}
	c := commands.Start(t, nil, "mft-consume", "-b", k.Brokers(), "-t", topic, "--dir", out)
	commands.Run(t, "mft-produce", "-b", k.Brokers(), "-t", topic, "--confirm=2m", source+string(filepath.Separator))
	for _, line := range commandtest.Tree(t, source) {
		name, _, _ := strings.Cut(line, " ")
		if _, err := os.Stat(filepath.Join(out, name)); err != nil {
			t.Errorf("confirmed, and not there: %v", err)
		}
	}
	if err := c.Cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitFor(time.Minute); err != nil {
		t.Fatalf("mft-consume: %v\n%s", err, c.Stderr.String())
	}
	commandtest.SameTree(t, source, out)
	receipts := commands.Run(t, "mft-consume", "-b", k.Brokers(), "-t", topic+".receipts")
	if n := strings.Count(receipts, `"delivered"`); n != len(commandtest.Tree(t, source)) {
		t.Errorf("%d receipts of files that were delivered\n%.500s", n, receipts)
	}
}

// TestMoveToKafka is the move that docs/scaling.md describes: records that are still wanted are copied, receivers finish what is in the
// old broker, and everybody goes on with the new one.
func TestMoveToKafka(t *testing.T) {
	k, old := kafkatest.Shared(t), startBroker(t)
	source, out, files, lines := t.TempDir(), t.TempDir(), kafkaTopic(t), kafkaTopic(t)+"-lines"
	commandtest.RandomTree(t, filepath.Join(source, "before"), 20, 64<<10, 1)
	consume := func(brokers string) {
		t.Helper()
		commands.Run(t, "mft-consume", "-b", brokers, "-t", files, "-g", files, "--dir", out, "--once")
	}
	commands.Run(t, "mft-produce", "-b", old.Addr, "-t", files, source+string(filepath.Separator))
	commands.Pipe(t, strings.NewReader("a:one\nb:two\n:three\n"), "mft-produce", "-b", old.Addr, "-t", lines, "--key-delim", ":")

	commands.Run(t, "mft-admin", "topics", "create", files, files+".receipts", lines, "-b", k.Brokers(), "--config", "retention.ms=-1")
	consume(old.Addr)
	if got := commands.Run(t, "mft-admin", "groups", "describe", files, "-b", old.Addr); !strings.Contains(got, "lag       0\n") {
		t.Errorf("something is left in the old broker:\n%s", got)
	}
	copied := commands.Run(t, "mft-consume", "-b", old.Addr, "-t", lines, "--format", `%k\t%s\n`)
	commands.Pipe(t, strings.NewReader(copied), "mft-produce", "-b", k.Brokers(), "-t", lines, "--key-delim", "\t")
	stopBroker(t, old)

	commandtest.RandomTree(t, filepath.Join(source, "after"), 20, 64<<10, 2)
	commands.Run(t, "mft-produce", "-b", k.Brokers(), "-t", files, source+string(filepath.Separator))
	consume(k.Brokers())
	commandtest.SameTree(t, source, out)
	if got := commands.Run(t, "mft-consume", "-b", k.Brokers(), "-t", lines, "--format", `%k:%s\n`); got != "a:one\nb:two\n:three\n" {
		t.Errorf("the lines are %q", got)
	}
}
