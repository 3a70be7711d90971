package cmd_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"mft/internal/commandtest"
	"mft/protocol"
)

// refusal sends one batch past the client's retries and returns the broker's answer.
func refusal(t *testing.T, addr, topic string, partition int32) error {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.MaxVersions(kversion.V3_0_0())) // which names topics by their names
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	batch, err := protocol.EncodeBatch(protocol.BatchOptions{BaseTimestamp: 1}, []protocol.Record{{Value: make([]byte, 64<<10)}})
	if err != nil {
		t.Fatal(err)
	}
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, 10_000
	rt, rp := kmsg.NewProduceRequestTopic(), kmsg.NewProduceRequestTopicPartition()
	rt.Topic, rp.Partition, rp.Records = topic, partition, batch
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(withDeadline(t, 30*time.Second), client.Broker(1))
	if err != nil {
		t.Fatal(err)
	}
	return kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
}

// TestDiskFullUnderLoad fills the disk under a broker that takes records, and empties it again: the broker answers KAFKA_STORAGE_ERROR, serves reads all
// the while, and goes on by itself; nothing that was acknowledged is lost.
func TestDiskFullUnderLoad(t *testing.T) {
	data, fill, free := smallDisk(t, 48<<20)
	b := commands.StartBroker(t, data, "")
	commands.Run(t, "mft-admin", "topics", "create", "-b", b.Addr, "probe")
	l := startTraffic(t, b.Addr, 2, 4, 3, 200)
	for round := range 3 {
		l.waitAcked(1000)
		fill()
		deadline := time.Now().Add(30 * time.Second)
		for {
			err := refusal(t, b.Addr, "probe", 0)
			if errors.Is(err, kerr.KafkaStorageError) {
				break
			}
			if err != nil {
				t.Fatalf("the answer on a full disk is %v", err)
			}
			if time.Now().After(deadline) {
				t.Fatal("a full disk takes batch after batch")
			}
		}
		l.check() // reads go on
		free()
		if err := refusal(t, b.Addr, "probe", 0); err != nil {
			t.Errorf("round %d: with room again the answer is %v", round, err)
		}
	}
	l.waitAcked(1000)
	l.finish()
	select {
	case <-b.Done():
		t.Fatalf("the broker ended: %v", b.Err())
	default:
	}
	verifyData(t, data, b)
}

// straceOrSkip is the path of strace, where it may trace.
func straceOrSkip(t *testing.T) string {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed: apt-get install strace")
	}
	if out, err := exec.Command(strace, "-o", os.DevNull, "true").CombinedOutput(); err != nil {
		t.Skipf("strace may trace nothing here: %v\n%s", err, out)
	}
	return strace
}

// TestFailedFsyncEndsTheBroker has the kernel, by way of strace, answer fdatasync with an I/O error: the broker acknowledges nothing more, says what
// happened and ends with 1. What was acknowledged before is there after the next start.
func TestFailedFsyncEndsTheBroker(t *testing.T) {
	strace := straceOrSkip(t)
	data := t.TempDir()
	b := commands.StartBroker(t, data, "")
	commands.Run(t, "mft-admin", "topics", "create", "-b", b.Addr, "lines")
	commands.Pipe(t, strings.NewReader("one\ntwo\n"), "mft-produce", "-b", b.Addr, "-t", "lines")

	trace := exec.Command(strace, "-f", "-o", os.DevNull, "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO", "-p", fmt.Sprint(b.Pid()))
	var attached commandtest.Output
	trace.Stderr = &attached
	if err := trace.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = trace.Wait() // it ends as the broker does
	}()
	line, _, err := attached.Line(withDeadline(t, 30*time.Second), 0)
	if err != nil || !strings.Contains(line, "attached") {
		_ = trace.Process.Kill()
		<-ended
		t.Skipf("strace may not trace the broker here: %q, %v", line, err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.DefaultProduceTopic("lines"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	acked := make(chan error, 1)
	go func() { acked <- client.ProduceSync(ctx, kgo.StringRecord("three")).FirstErr() }()
	err = b.WaitFor(30 * time.Second)
	giveUp()
	if perr := <-acked; perr == nil {
		t.Error("a record was acknowledged although it could not be made durable")
	}
	if exitCode(err) != 1 {
		t.Errorf("mft-broker ended with %v, want exit code 1", err)
	}
	if text := b.Stderr.String(); !strings.Contains(text, "input/output error") || !strings.Contains(text, "restart to recover") {
		t.Errorf("mft-broker says\n%s", text)
	}
	<-ended
	b = commands.StartBroker(t, data, b.Addr)
	if got := commands.Run(t, "mft-consume", "-b", b.Addr, "-t", "lines", "--from", "beginning"); !strings.HasPrefix(got, "one\ntwo\n") {
		t.Errorf("after the restart: %q", got)
	}
}

// TestNewerFormatIsRefused: a data directory of a later version is left as it is.
func TestNewerFormatIsRefused(t *testing.T) {
	data := t.TempDir()
	stopBroker(t, commands.StartBroker(t, data, ""))
	path := filepath.Join(data, "meta.snapshot")
	snapshot, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	binary.BigEndian.PutUint32(snapshot[8:], 99)
	body := snapshot[:len(snapshot)-4]
	binary.BigEndian.PutUint32(snapshot[len(body):], crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
	if err := os.WriteFile(path, snapshot, 0o644); err != nil {
		t.Fatal(err)
	}
	before := commandtest.Tree(t, data)
	for _, args := range [][]string{{"mft-broker", "--data", data, "--listen", "127.0.0.1:0"}, {"mft-admin", "dump", data}, {"mft-admin", "dump", "--repair", "--yes", data}} {
		p := commands.Start(t, nil, args[0], args[1:]...)
		if err := p.WaitFor(time.Minute); exitCode(err) != 1 || !strings.Contains(p.Stderr.String(), "format version 99") {
			t.Errorf("%v: %v\n%s", args, err, p.Stderr.String())
		}
	}
	after := commandtest.Tree(t, data)
	for i := range before {
		if !strings.HasPrefix(before[i], "LOCK ") && before[i] != after[i] {
			t.Errorf("%s became %s", before[i], after[i])
		}
	}
}

// TestDamageStopsTheStart: a broker that finds its state damaged does not begin to serve, and says where, and what to do.
func TestDamageStopsTheStart(t *testing.T) {
	data := t.TempDir()
	stopBroker(t, commands.StartBroker(t, data, ""))
	path := filepath.Join(data, "meta.snapshot")
	snapshot, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	snapshot[len(snapshot)/2] ^= 1
	if err := os.WriteFile(path, snapshot, 0o644); err != nil {
		t.Fatal(err)
	}
	p := commands.Start(t, nil, "mft-broker", "--data", data, "--listen", "127.0.0.1:0")
	err = p.WaitFor(time.Minute)
	text := p.Stderr.String()
	for _, want := range []string{"damaged data in " + path, "mft-admin dump --verify " + data} {
		if exitCode(err) != 1 || !strings.Contains(text, want) {
			t.Errorf("%v, no %q in\n%s", err, want, text)
		}
	}
	p = commands.Start(t, nil, "mft-admin", "dump", "--verify", data)
	if err := p.WaitFor(time.Minute); exitCode(err) != 3 || !strings.Contains(p.Stdout.String(), "damage: "+path) {
		t.Errorf("mft-admin dump: %v\n%s%s", err, p.Stdout.String(), p.Stderr.String())
	}
}

// TestDamagedSegmentIsReported flips bits in a closed segment: whoever reads there is told, by the broker where it sees it, by the checksum where only the
// client can; everything else can be read.
func TestDamagedSegmentIsReported(t *testing.T) {
	data := t.TempDir()
	b := commands.StartBroker(t, data, "")
	commands.Run(t, "mft-admin", "topics", "create", "-b", b.Addr, "letters", "-p", "2", "--config", "segment.bytes=16384")
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic("letters"),
		kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	const n = 30
	for i := range n {
		for p := range int32(2) {
			r := &kgo.Record{Partition: p, Value: fmt.Appendf(nil, "%d %02000d", i, i)}
			if err := client.ProduceSync(t.Context(), r).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	log := filepath.Join(data, "topics", "letters-0", "00000000000000000000.log")
	whole, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	batch, _, err := protocol.NextBatch(whole)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		at   int
		want string
	}{
		"a header, noticed by the broker":      {2*len(batch) + 16, "CORRUPT_MESSAGE"},
		"a record, noticed by the client":      {2*len(batch) + 100, "CRC"},
		"the first header of the segment, too": {16, "CORRUPT_MESSAGE"},
	} {
		t.Run(name, func(t *testing.T) {
			damaged := append([]byte(nil), whole...)
			damaged[tc.at] ^= 0x40
			if err := os.WriteFile(log, damaged, fs.FileMode(0o644)); err != nil {
				t.Fatal(err)
			}
			bad := int64(tc.at / len(batch))
			reader, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.KeepRetryableFetchErrors(), kgo.FetchMaxPartitionBytes(int32(len(batch))),
				kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"letters": {0: kgo.NewOffset().At(0), 1: kgo.NewOffset().At(0)}}))
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
			ctx := withDeadline(t, time.Minute)
			var next [2]int64
			told := ""
			for told == "" || next[1] < n {
				fetches := reader.PollFetches(ctx)
				if ctx.Err() != nil {
					t.Fatalf("at offsets %v, told %q", next, told)
				}
				fetches.EachError(func(_ string, partition int32, err error) {
					if partition != 0 || !strings.Contains(strings.ToUpper(err.Error()), tc.want) {
						t.Errorf("partition %d: %v", partition, err)
					}
					told = err.Error()
				})
				fetches.EachRecord(func(r *kgo.Record) {
					if want := fmt.Sprintf("%d %02000d", r.Offset, r.Offset); string(r.Value) != want || r.Offset != next[r.Partition] {
						t.Errorf("partition %d, offset %d where %d was to come: %.20q", r.Partition, r.Offset, next[r.Partition], r.Value)
					}
					next[r.Partition] = r.Offset + 1
				})
			}
			if next[0] != bad {
				t.Errorf("partition 0 was read up to %d, the damage is at %d", next[0], bad)
			}
			// Another segment of the same partition.
			got := commands.Run(t, "mft-consume", "-b", b.Addr, "-t", "letters", "-p", "0", "--from", fmt.Sprint(n-1))
			if !strings.HasPrefix(got, fmt.Sprintf("%d ", n-1)) {
				t.Errorf("the last record is %.20q", got)
			}
		})
	}
}
