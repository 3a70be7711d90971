package system

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Broker is a broker with a way of making things durable.
type Broker struct {
	Name   string // of tables and of -systems: mft, mft-cached, kafka, kafka-fsync, nats, nats-always
	System string // mft, kafka or nats
	// Fsync says that an acknowledgement means the record is on stable storage, not in the page cache.
	Fsync bool
	// TopicConfig are the settings of topics that make it so.
	TopicConfig map[string]string
}

// Brokers are all of them, in the order of tables.
var Brokers = []Broker{
	{Name: "mft", System: "mft", Fsync: true},
	{Name: "mft-cached", System: "mft", TopicConfig: map[string]string{"write.caching": "true"}},
	{Name: "kafka", System: "kafka"},
	{Name: "kafka-fsync", System: "kafka", Fsync: true, TopicConfig: map[string]string{"flush.messages": "1"}},
	{Name: "nats", System: "nats"},
	{Name: "nats-always", System: "nats", Fsync: true},
}

// Kafka says whether it speaks Kafka's protocol.
func (b Broker) Kafka() bool { return b.System != "nats" }

// Settings tells what is set, for the results.
func (b Broker) Settings() string {
	switch b.Name {
	case "mft":
		return "as installed: fsync before every ack"
	case "mft-cached":
		return "topics with write.caching=true: acks from the page cache"
	case "kafka":
		return "KRaft, one broker, " + strings.Join(kafkaJVM, " ") + "; as installed: acks from the page cache"
	case "kafka-fsync":
		return "the same, topics with flush.messages=1: fsync before every ack"
	case "nats":
		return "JetStream, file storage; as installed: acks from the page cache, fsync every two minutes"
	default:
		return "the same, sync_interval: always"
	}
}

// Server is a running broker.
type Server struct {
	*Process
	Broker
	Addr string
	Data string // directory
}

// Start starts a broker with data in dir, and waits until it can be connected to.
func (t *Tools) Start(ctx context.Context, b Broker, dir string) (*Server, error) {
	s, err := t.Begin(ctx, b, dir, "")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := s.waitListening(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%s does not start: %w", b.Name, err), s.Stop())
	}
	return s, nil
}

// Begin starts a broker that is to listen on addr, or on a free port, without waiting for anything.
func (t *Tools) Begin(ctx context.Context, b Broker, dir, addr string) (s *Server, err error) {
	s = &Server{Broker: b, Addr: addr, Data: filepath.Join(dir, "data")}
	if addr == "" {
		if s.Addr, err = FreeAddr(); err != nil {
			return nil, err
		}
	}
	var c Command
	switch b.System {
	case "mft":
		c = Command{Path: t.Command("mft-broker"), Args: []string{"--data", s.Data, "--listen", s.Addr, "--log-level", "warn"}}
	case "kafka":
		c, err = t.kafkaCommand(dir, s.Data, s.Addr)
	case "nats":
		c, err = t.natsCommand(dir, s.Data, s.Addr, b.Fsync)
	}
	if err != nil {
		return nil, err
	}
	c.Dir = dir
	s.Process, err = c.Start(ctx)
	return s, err
}

// Stop stops the broker in its own way.
func (s *Server) Stop() error { return s.Process.Stop(30 * time.Second) }

func (s *Server) waitListening(ctx context.Context) error {
	var dialer net.Dialer
	for {
		nc, err := dialer.DialContext(ctx, "tcp", s.Addr)
		if err == nil {
			return nc.Close()
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-s.Done():
			return errors.Join(errors.New("it ended"), s.Wait())
		case <-ctx.Done():
			return fmt.Errorf("nobody listens on %s%s", s.Addr, s.log.quote())
		}
	}
}

// FreeAddr returns an address of the loopback interface that nobody listens on.
func FreeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}

// kafkaJVM are the options of Kafka's own start script, and the heap of 1 GiB that it starts brokers with.
var kafkaJVM = []string{"-Xms1g", "-Xmx1g", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent"}

// JavaTool is a command of one of Kafka's own tools, with the heap that their start scripts give.
func (t *Tools) JavaTool(class string, args ...string) Command {
	flags := []string{"-Xmx512m", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-cp", t.Jars, class}
	return Command{Path: t.Java, Args: append(flags, args...)}
}

func (t *Tools) kafkaCommand(dir, data, addr string) (Command, error) {
	controller, err := FreeAddr()
	if err != nil {
		return Command{}, err
	}
	if _, err := os.Stat(data); errors.Is(err, os.ErrNotExist) { // else it starts again
		err = os.CopyFS(data, os.DirFS(t.Format))
		if err != nil {
			return Command{}, err
		}
	}
	file := filepath.Join(dir, "server.properties")
	if err := os.WriteFile(file, []byte(kafkaProperties(data, addr, controller)), 0o644); err != nil {
		return Command{}, err
	}
	args := append(append([]string{}, kafkaJVM...), "-Djava.awt.headless=true", "-cp", t.Jars, "kafka.Kafka", file)
	return Command{Path: t.Java, Args: args}, nil
}

// kafkaProperties is Kafka's config/server.properties of one KRaft node, with what one node alone needs.
func kafkaProperties(data, addr, controller string) string {
	return strings.Join([]string{
		"process.roles=broker,controller",
		"node.id=1",
		"controller.quorum.voters=1@" + controller,
		"listeners=PLAINTEXT://" + addr + ",CONTROLLER://" + controller,
		"advertised.listeners=PLAINTEXT://" + addr,
		"controller.listener.names=CONTROLLER",
		"listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
		"num.network.threads=3",
		"num.io.threads=8",
		"log.dirs=" + data,
		"offsets.topic.replication.factor=1",
		"transaction.state.log.replication.factor=1",
		"transaction.state.log.min.isr=1",
		"share.coordinator.state.topic.replication.factor=1",
		"share.coordinator.state.topic.min.isr=1",
		"group.initial.rebalance.delay.ms=0",
		"",
	}, "\n")
}

// formatKafka has Kafka format a directory, of which brokers get copies. It is not part of their start.
func formatKafka(ctx context.Context, t *Tools, data string) error {
	work, err := os.MkdirTemp(filepath.Dir(data), "format-")
	if err != nil {
		return err
	}
	file := filepath.Join(work, "server.properties")
	if err := os.WriteFile(file, []byte(kafkaProperties(data, "127.0.0.1:1", "127.0.0.1:2")), 0o644); err != nil {
		return err
	}
	_, err = t.JavaTool("kafka.tools.StorageTool", "format", "-t", "bWZ0LWJlbmNobWFya3MtMQ", "-c", file).Run(ctx)
	return errors.Join(err, os.RemoveAll(work))
}

func (t *Tools) natsCommand(dir, data, addr string, fsync bool) (Command, error) {
	config := fmt.Sprintf("listen: %q\nmax_payload: 8MB\njetstream {\n  store_dir: %q\n", addr, data)
	if fsync {
		config += "  sync_interval: always\n"
	}
	file := filepath.Join(dir, "nats.conf")
	if err := os.WriteFile(file, []byte(config+"}\n"), 0o644); err != nil {
		return Command{}, err
	}
	return Command{Path: filepath.Join(t.NATS, "nats-server"), Args: []string{"-c", file}}, nil
}
