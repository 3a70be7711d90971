package kafkatest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// logging has the brokers say what they do.
const logging = `status = warn
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %p %m (%c)%n
rootLogger.level = info
rootLogger.appenderRef.out.ref = out
`

// node is one broker. Not for concurrent use.
type node struct {
	id               int
	addr, controller string // HOST:PORT
	dir              string
	java, jars       string
	janitor          *janitor

	process *exec.Cmd // nil: it does not run
	done    chan struct{}
}

func (n *node) path(name string) string { return filepath.Join(n.dir, name) }

// configure writes server.properties for one of size brokers.
func (n *node) configure(size int, voters string, wanted Settings) error {
	if err := os.Mkdir(n.dir, 0o755); err != nil {
		return err
	}
	inSync := max(1, size-1)
	settings := map[string]string{
		"process.roles":                        "broker,controller",
		"node.id":                              fmt.Sprint(n.id),
		"controller.quorum.voters":             voters,
		"listeners":                            "BROKER://" + n.addr + ",CONTROLLER://" + n.controller,
		"advertised.listeners":                 "BROKER://" + n.addr,
		"listener.security.protocol.map":       "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"inter.broker.listener.name":           "BROKER",
		"controller.listener.names":            "CONTROLLER",
		"log.dirs":                             n.path("data"),
		"default.replication.factor":           fmt.Sprint(size),
		"min.insync.replicas":                  fmt.Sprint(inSync),
		"group.initial.rebalance.delay.ms":     "0", // the default, 3 s, is for groups of many
		"log.cleaner.dedupe.buffer.size":       "4194304",
		"offsets.topic.num.partitions":         "4", // instead of 50
		"transaction.state.log.num.partitions": "4",
		"transaction.state.log.min.isr":        fmt.Sprint(inSync),
	}
	for _, topic := range []string{"offsets.topic", "transaction.state.log", "share.coordinator.state.topic"} {
		settings[topic+".replication.factor"] = fmt.Sprint(size)
	}
	maps.Copy(settings, wanted)
	return os.WriteFile(n.path("server.properties"), []byte(properties(settings)), 0o644)
}

// format makes the broker's data directory.
func (n *node) format() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	args := javaArgs(n.jars, nil, "kafka.tools.StorageTool", "format", "-t", clusterID, "-c", n.path("server.properties"))
	if out, err := exec.CommandContext(ctx, n.java, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("kafka-storage format: %w\n%s", err, out)
	}
	return nil
}

// start starts the process.
func (n *node) start() error {
	if n.process != nil {
		return fmt.Errorf("broker %d runs already", n.id)
	}
	log, err := os.OpenFile(n.path("log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	options := []string{"-Xmx384m", "-Dlog4j2.configurationFile=" + filepath.Join(filepath.Dir(n.dir), "log4j2.properties")}
	process := exec.Command(n.java, javaArgs(n.jars, options, "kafka.Kafka", n.path("server.properties"))...)
	process.Stdout, process.Stderr = log, log
	if err := errors.Join(process.Start(), log.Close()); err != nil {
		return err
	}
	n.process, n.done = process, make(chan struct{})
	done := n.done
	go func() {
		defer close(done)
		_ = process.Wait() // it is killed, or its log says why it ended
	}()
	return n.janitor.mind(process.Process.Pid)
}

// kill ends the process as kill -9 does and waits until it is gone.
func (n *node) kill() error {
	if n.process == nil {
		return nil
	}
	err := n.process.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	<-n.done
	err = errors.Join(err, n.janitor.forget(n.process.Process.Pid))
	n.process = nil
	return err
}

// awaitServing waits until the broker answers and knows of size brokers.
func (n *node) awaitServing(size int) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(n.addr), kgo.RetryBackoffFn(func(int) time.Duration { return askAgain }))
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		resp, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, client.SeedBrokers()[0])
		if err == nil && len(resp.Brokers) >= size {
			return nil
		}
		select {
		case <-time.After(askAgain):
		case <-n.done:
			return fmt.Errorf("broker %d ended", n.id)
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("it knows of %d brokers", len(resp.Brokers))
			}
			return fmt.Errorf("broker %d does not serve with %d brokers: %w", n.id, size, err)
		}
	}
}

// lastLines is the end of the broker's log.
func (n *node) lastLines() string {
	text, err := os.ReadFile(n.path("log"))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-40):], "\n")
}

// freePorts finds ports of the loopback that nobody has. They lie below those that systems give out on their own, so that no
// outgoing connection takes one while its broker is restarted.
func freePorts(n int) ([]int, error) {
	var ports []int
	var last error
	for range 100 * n {
		port := 20_000 + rand.N(12_000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			last = err
			continue
		}
		defer func() { _ = l.Close() }() // all at the end: no port is found twice
		if ports = append(ports, port); len(ports) == n {
			return ports, nil
		}
	}
	return nil, fmt.Errorf("no free ports: %w", last)
}
