package kafkatest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	startTimeout = 2 * time.Minute // for all brokers of a cluster to serve, on a machine that does much else
	askAgain     = 50 * time.Millisecond
	clusterID    = "MkU3OEVBNTcwNTJENDM2Qg"
)

// Settings are lines of server.properties that a test wants, by name; they come before the package's own.
type Settings map[string]string

// Cluster is a running Apache Kafka of one or more brokers, each of which is a controller too (KRaft combined mode), on
// ports of the loopback. Brokers count from 1. Apart from what follows from its size, and what makes it small and quick, all is
// as Kafka's defaults are.
type Cluster struct {
	dir     string
	janitor *janitor
	nodes   []*node
}

// Start starts a cluster of n brokers, which ends with the test. With three, topics have three replicas, of which two must be in
// sync to take a record (min.insync.replicas).
func Start(t testing.TB, n int, settings Settings) *Cluster {
	t.Helper()
	requireShell(t)
	java, jars := program(t)
	c, err := start(java, jars, n, settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, node := range c.nodes {
				t.Logf("Kafka's broker %d logged last:\n%s", node.id, node.lastLines())
			}
		}
		if err := c.stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// shared is the broker of Shared.
var shared struct {
	once    sync.Once
	cluster *Cluster
	err     error
}

// Shared returns the one broker, with Kafka's defaults, that all tests of a package share; the first to ask starts it. Tests keep
// out of each other's way by the names of their topics and groups. The package's TestMain has to call StopShared.
func Shared(t testing.TB) *Cluster {
	t.Helper()
	requireShell(t)
	java, jars := program(t)
	shared.once.Do(func() { shared.cluster, shared.err = start(java, jars, 1, nil) })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.cluster
}

// StopShared ends the broker of Shared, if there is one. It belongs into TestMain, behind m.Run.
func StopShared() error {
	if shared.cluster == nil {
		return nil
	}
	return shared.cluster.stop()
}

// requireShell skips where the janitor cannot run.
func requireShell(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("sh"); err != nil || runtime.GOOS == "windows" {
		t.Skip("a Kafka broker in a test needs a Unix shell to clean up behind a test that is killed")
	}
}

func start(java, jars string, n int, settings Settings) (*Cluster, error) {
	dir, err := os.MkdirTemp("", "mft-kafka-")
	if err != nil {
		return nil, err
	}
	janitor, err := startJanitor(dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	c := &Cluster{dir: dir, janitor: janitor}
	if err := c.begin(java, jars, n, settings); err != nil {
		for _, node := range c.nodes {
			err = fmt.Errorf("%w\nbroker %d logged last:\n%s", err, node.id, node.lastLines())
		}
		return nil, errors.Join(fmt.Errorf("start of Kafka %s: %w", Version, err), c.stop())
	}
	return c, nil
}

// begin formats and starts the brokers, and waits until each knows all.
func (c *Cluster) begin(java, jars string, n int, settings Settings) error {
	if err := os.WriteFile(filepath.Join(c.dir, "log4j2.properties"), []byte(logging), 0o644); err != nil {
		return err
	}
	ports, err := freePorts(2 * n)
	if err != nil {
		return err
	}
	var voters []string
	for i := range n {
		voters = append(voters, fmt.Sprintf("%d@127.0.0.1:%d", i+1, ports[2*i+1]))
	}
	for i := range n {
		node := &node{
			id: i + 1, addr: fmt.Sprintf("127.0.0.1:%d", ports[2*i]), controller: fmt.Sprintf("127.0.0.1:%d", ports[2*i+1]),
			dir: filepath.Join(c.dir, fmt.Sprint(i+1)), java: java, jars: jars, janitor: c.janitor,
		}
		c.nodes = append(c.nodes, node)
		if err := node.configure(n, strings.Join(voters, ","), settings); err != nil {
			return err
		}
	}
	errs := make([]error, n)
	var starting sync.WaitGroup
	for i, node := range c.nodes {
		starting.Go(func() {
			if errs[i] = node.format(); errs[i] == nil {
				errs[i] = node.start()
			}
		})
	}
	starting.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, node := range c.nodes {
		if err := node.awaitServing(n); err != nil {
			return err
		}
	}
	return nil
}

// stop ends all of it; nothing is left behind.
func (c *Cluster) stop() error {
	var errs []error
	for _, node := range c.nodes {
		errs = append(errs, node.kill())
	}
	errs = append(errs, os.RemoveAll(c.dir), c.janitor.stop())
	return errors.Join(errs...)
}

// Addrs are the addresses of the brokers, in order.
func (c *Cluster) Addrs() []string {
	var addrs []string
	for _, node := range c.nodes {
		addrs = append(addrs, node.addr)
	}
	return addrs
}

// Brokers is what -b takes: the addresses of all brokers, with commas between.
func (c *Cluster) Brokers() string { return strings.Join(c.Addrs(), ",") }

// Data is a directory under which everything lies that the brokers store.
func (c *Cluster) Data() string { return c.dir }

// Kill kills a broker, as kill -9 does.
func (c *Cluster) Kill(t testing.TB, broker int) {
	t.Helper()
	if err := c.nodes[broker-1].kill(); err != nil {
		t.Fatal(err)
	}
}

// Restart starts a broker that was killed, on what it has stored, and waits until it serves.
func (c *Cluster) Restart(t testing.TB, broker int) {
	t.Helper()
	err := c.nodes[broker-1].start()
	if err == nil {
		err = c.nodes[broker-1].awaitServing(1)
	}
	if err != nil {
		t.Fatalf("broker %d: %v\n%s", broker, err, c.nodes[broker-1].lastLines())
	}
}

// Leader is the broker that leads a partition.
func (c *Cluster) Leader(t testing.TB, topic string, partition int32) int {
	t.Helper()
	var leader int32
	c.ask(t, func(ctx context.Context, a *kadm.Client) error {
		topics, err := a.ListTopics(ctx, topic)
		if err != nil {
			return err
		}
		p, ok := topics[topic].Partitions[partition]
		if !ok {
			return fmt.Errorf("topic %s has no partition %d: %w", topic, partition, topics[topic].Err)
		}
		leader = p.Leader
		return p.Err
	})
	return int(leader)
}

// Coordinator is the broker that looks after a consumer group.
func (c *Cluster) Coordinator(t testing.TB, group string) int {
	t.Helper()
	var broker int32
	c.ask(t, func(ctx context.Context, a *kadm.Client) error {
		found := a.FindGroupCoordinators(ctx, group)[group]
		broker = found.NodeID
		return found.Err
	})
	return int(broker)
}

// InSync are the brokers that have all that was acknowledged of a partition.
func (c *Cluster) InSync(t testing.TB, topic string, partition int32) []int32 {
	t.Helper()
	var isr []int32
	c.ask(t, func(ctx context.Context, a *kadm.Client) error {
		topics, err := a.ListTopics(ctx, topic)
		if err == nil {
			isr = slices.Sorted(slices.Values(topics[topic].Partitions[partition].ISR))
			err = topics[topic].Err
		}
		return err
	})
	return isr
}

// ask asks the cluster until there is an answer.
func (c *Cluster) ask(t testing.TB, what func(ctx context.Context, a *kadm.Client) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(c.Addrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for {
		err := what(ctx, kadm.NewClient(client))
		if err == nil {
			return
		}
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}

// properties is the text of a server.properties.
func properties(settings map[string]string) string {
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&text, "%s=%s\n", name, settings[name])
	}
	return text.String()
}
