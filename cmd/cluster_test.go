package cmd_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"mft/internal/commandtest"
	"mft/internal/kafkatest"
)

// ends are where the partitions of a topic end now; nil while nobody can say.
func ends(ctx context.Context, t *testing.T, client *kgo.Client, topic string) map[int32]int64 {
	t.Helper()
	listed, err := kadm.NewClient(client).ListEndOffsets(ctx, topic)
	if ctx.Err() != nil {
		t.Fatal(ctx.Err())
	}
	if err != nil {
		return nil // a broker that was killed is not known to be gone yet
	}
	at := map[int32]int64{}
	listed.Each(func(o kadm.ListedOffset) {
		if o.Err == nil {
			at[o.Partition] = o.Offset
		}
	})
	return at
}

// TestClusterBrokersDie sends 1 GiB and a thousand small files over three brokers of Apache Kafka, and receives them meanwhile, while
// brokers are killed: the leader of the partition that the large file is in, which comes back, then the coordinator of the receiver's
// group, which does not. Everything arrives, once, and equal.
func TestClusterBrokersDie(t *testing.T) {
	size := int64(1 << 30)
	if testing.Short() {
		size = 256 << 20
	}
	k := kafkatest.Start(t, 3, nil)
	source, out := t.TempDir(), t.TempDir()
	commandtest.RandomFile(t, filepath.Join(source, "big.bin"), size, 1) // is sent before what is in small
	commandtest.RandomTree(t, filepath.Join(source, "small"), 1000, 16<<10, 2)
	const topic, group = "files", "receivers"
	commands.Run(t, "mft-admin", "topics", "create", topic, "-b", k.Brokers(), "-p", "3")
	if got := commands.Run(t, "mft-admin", "topics", "describe", topic, "-b", k.Brokers()); !strings.Contains(got, "min.insync.replicas=2") {
		t.Errorf("the topic is not as a cluster's: %s", got)
	}
	ctx := withDeadline(t, 8*time.Minute)
	client, err := kgo.NewClient(kgo.SeedBrokers(k.Addrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	c := commands.Start(t, nil, "mft-consume", "-b", k.Brokers(), "-t", topic, "-g", group, "--dir", out, "--json")
	// So slowly that there is a middle.
	p := commands.Start(t, nil, "mft-produce", "-b", k.Brokers(), "-t", topic, "--limit-rate", "60MB", source+string(filepath.Separator))
	// sent waits until a share of the large file is there, in per cent, and returns the partition that it is in.
	sent := func(share int64) int32 {
		t.Helper()
		for {
			for partition, end := range ends(ctx, t, client, topic) {
				if end > share*(size>>20)/100 {
					return partition
				}
			}
			select {
			case <-p.Done():
				t.Fatalf("mft-produce ended before: %v\n%s", p.Err(), p.Stderr.String())
			case <-c.Done():
				t.Fatalf("mft-consume ended: %v\n%s", c.Err(), c.Stderr.String())
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	began := time.Now()
	tell := func(format string, args ...any) {
		t.Logf("%5.1f s: "+format, append([]any{time.Since(began).Seconds()}, args...)...)
	}
	partition := sent(20)
	leader := k.Leader(t, topic, partition)
	tell("killing broker %d, which leads partition %d; the group's coordinator is broker %d", leader, partition, k.Coordinator(t, group))
	k.Kill(t, leader)
	sent(30)
	if now := k.Leader(t, topic, partition); now == leader {
		t.Errorf("broker %d is killed and leads", leader)
	}
	tell("it goes on with broker %d", k.Leader(t, topic, partition))
	k.Restart(t, leader)
	for len(k.InSync(t, topic, partition)) < 3 {
		if ctx.Err() != nil {
			t.Fatal("the broker does not catch up")
		}
		time.Sleep(50 * time.Millisecond)
	}
	coordinator := k.Coordinator(t, group)
	tell("broker %d is back; killing broker %d, which coordinates the group", leader, coordinator)
	select {
	case <-p.Done():
		t.Errorf("mft-produce ended before: %v", p.Err())
	default:
	}
	k.Kill(t, coordinator)
	if err := p.WaitFor(4 * time.Minute); err != nil {
		t.Fatalf("mft-produce: %v\n%s", err, p.Stderr.String())
	}
	tell("all is sent")
	want := len(commandtest.Tree(t, source))
	for at, placed := 0, 0; placed < want; {
		line, next, err := c.Stdout.Line(ctx, at)
		if err != nil {
			t.Fatalf("mft-consume has placed %d of %d: %v\n%s", placed, want, err, c.Stderr.String())
		}
		if at = next; strings.Contains(line, `"event":"done"`) {
			placed++
		}
	}
	tell("all is received")
	if err := c.Cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitFor(time.Minute); err != nil {
		t.Fatalf("mft-consume: %v\n%s", err, c.Stderr.String())
	}
	once(t, source, received(t, c.Stdout.String()))
	commandtest.SameTree(t, source, out)
	// What was received is committed, on another coordinator.
	if placed := received(t, commands.Run(t, "mft-consume", "-b", k.Brokers(), "-t", topic, "-g", group, "--dir", out, "--once", "--json")); len(placed) > 0 {
		t.Errorf("the next run placed %d files again", len(placed))
	}
}

// BenchmarkScaling is 1 GiB through one mft-broker, through one broker of Apache Kafka, and through three of them with three replicas, the
// figures of docs/scaling.md. All of it is on one machine, which flatters the one and not the three.
func BenchmarkScaling(b *testing.B) {
	const size = 1 << 30
	dir := b.TempDir()
	commandtest.RandomFile(b, filepath.Join(dir, "big.bin"), size, 1)
	run := func(b *testing.B, program string, args ...string) {
		p := commands.Start(b, nil, program, append(args, "--progress", "never")...)
		if err := p.WaitFor(5 * time.Minute); err != nil {
			b.Fatalf("%s: %v\n%s", program, err, p.Stderr.String())
		}
	}
	measure := func(name, brokers string) {
		for range 3 {
			topic := fmt.Sprint("scaling", time.Now().UnixNano())
			b.Run(name+"/send", func(b *testing.B) {
				b.SetBytes(size)
				for range b.N {
					topic = fmt.Sprint("scaling", time.Now().UnixNano())
					run(b, "mft-produce", "-b", brokers, "-t", topic, filepath.Join(dir, "big.bin"))
				}
			})
			b.Run(name+"/receive", func(b *testing.B) {
				b.SetBytes(size)
				for n := range b.N {
					out := filepath.Join(dir, fmt.Sprint("out", n))
					run(b, "mft-consume", "-b", brokers, "-t", topic, "--dir", out, "--once")
					b.StopTimer()
					if err := os.RemoveAll(out); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
			})
			if out, err := exec.Command(commands.Path("mft-admin"), "topics", "delete", "-b", brokers, topic).CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
		}
	}
	measure("mft", commands.StartBroker(b, filepath.Join(dir, "data"), "").Addr)
	measure("kafka-1", kafkatest.Start(b, 1, nil).Brokers())
	measure("kafka-3", kafkatest.Start(b, 3, nil).Brokers())
}
