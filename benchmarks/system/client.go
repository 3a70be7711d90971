package system

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// Load is what a client is to do with a topic.
type Load struct {
	Topic      string
	Partitions int
	Size       int // bytes of a record's value
	Records    int64
	Duration   time.Duration
	WarmUp     time.Duration // of Latency
	Rate       float64       // records a second; 0: as many as possible
	Clients    int           // side by side
	Ahead      int           // records that each may have under way; 0: as many as it likes
	// Touch has every partition get a record before it is measured. JetStream has no partitions.
	Touch bool
}

// maxRecord is set where records come near the megabyte that brokers take as they are installed.
const maxRecord = 4 << 20

// Client is the command that measures a broker: produce, consume, latency or first-ack. The same program does it for all that
// speak Kafka's protocol.
func (t *Tools) Client(b Broker, addr, what string, l Load) Command {
	l.Clients, l.Partitions = max(1, l.Clients), max(1, l.Partitions)
	if !b.Kafka() {
		return t.natsClient(addr, what, l)
	}
	args := []string{what, "-b", addr, "-t", l.Topic, "--json", "-p", strconv.Itoa(l.Partitions)}
	config := maps.Clone(b.TopicConfig)
	if l.Size > maxRecord/8 {
		if config == nil {
			config = make(map[string]string)
		}
		config["max.message.bytes"] = strconv.Itoa(maxRecord)
	}
	for _, k := range slices.Sorted(maps.Keys(config)) {
		args = append(args, "--topic-config", k+"="+config[k])
	}
	switch what {
	case "produce":
		args = append(args, "--size", strconv.Itoa(l.Size), "--clients", strconv.Itoa(l.Clients), "--acks", "all")
		if l.Ahead > 0 {
			args = append(args, "--ahead", strconv.Itoa(l.Ahead))
		}
		if l.Touch {
			args = append(args, "--touch")
		}
		if l.Records > 0 {
			args = append(args, "--records", strconv.FormatInt(l.Records, 10))
		}
	case "consume":
		args = append(args, "--clients", strconv.Itoa(l.Clients), "--records", strconv.FormatInt(l.Records, 10))
	case "latency":
		args = append(args, "--size", strconv.Itoa(l.Size), "--consumers", strconv.Itoa(l.Clients), "--warm-up", l.WarmUp.String())
	}
	if what == "produce" || what == "latency" {
		if l.Rate > 0 {
			args = append(args, "--rate", fmt.Sprint(l.Rate))
		}
		if l.Duration > 0 {
			args = append(args, "--duration", l.Duration.String())
		}
	}
	return Command{Path: t.Command("mft-bench"), Args: args}
}

func (t *Tools) natsClient(addr, what string, l Load) Command {
	return Command{Path: filepath.Join(t.NATS, "nats-bench"), Args: []string{
		what, "-s", "nats://" + addr, "-stream", l.Topic,
		"-size", strconv.Itoa(max(1, l.Size)), "-records", strconv.FormatInt(l.Records, 10), "-rate", fmt.Sprint(l.Rate),
		"-duration", l.Duration.String(), "-warm-up", l.WarmUp.String(), "-clients", strconv.Itoa(l.Clients), "-ahead", strconv.Itoa(l.Ahead),
	}}
}
