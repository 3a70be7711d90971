// Package consumer receives what package producer sends: it puts files from a
// topic into a directory (ReceiveFiles) and prints the records of a topic
// (ReadRecords). It works against mft's broker and any other that speaks
// Kafka's protocol.
//
// A file is placed whole or not at all: its records go into a temporary file
// in the hidden directory DIR/.mft-partial, its digest is checked, it is made
// durable, renamed to its name, its directory is made durable, and only then
// is the consumer group's offset committed past it. So a receiver can be
// killed at any moment, and the next one goes on with the same result.
//
// Nothing that a topic holds can leave the directory: names are checked by
// protocol.CheckName and resolved by os.Root.
package consumer

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"mft/internal/kafka"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"

	"mft/internal/loopback"
)

// DefaultConnectTimeout is how long a call that is meant to end waits for the
// first answer of a broker unless told otherwise.
const DefaultConnectTimeout = time.Minute

const (
	// fetchPartitionBytes is what one answer holds of one partition at most
	// (unless one batch is larger), fetchBytes what it holds in all. The client
	// buffers one answer per broker while the one before is being worked on, so
	// these two bound the memory.
	fetchPartitionBytes = 16 << 20
	fetchBytes          = 32 << 20

	maxRetryBackoff = time.Second            // between two attempts to reach a broker
	metadataMinAge  = 250 * time.Millisecond // between two looks at who leads a partition
	metadataMaxAge  = 30 * time.Second       // new partitions are found within this time
)

// Config says what to read, from where. Brokers and Topic are required.
type Config struct {
	Brokers  []string // HOST:PORT of one or more brokers to ask first
	Topic    string
	Group    string // consumer group; what "" means depends on the call
	ClientID string // what the broker's log calls this client; "": mft-consume

	// ConnectTimeout is how long to wait for the first answer of any broker.
	// 0: DefaultConnectTimeout for a call that ends by itself, for ever for
	// one that does not. Negative: for ever.
	ConnectTimeout time.Duration

	// Limiter holds what goes over the wire to a rate; nil: nothing does.
	Limiter *kafka.Limiter

	// Watch is told of brokers that are away and back, for who wants to show it;
	// nil: one of the call's own.
	Watch *kafka.Watch

	Logger zerolog.Logger // the zero value logs nothing
}

func (c *Config) check() error {
	if len(c.Brokers) == 0 {
		return errors.New("no broker given: name at least one as HOST:PORT")
	}
	if c.Topic == "" {
		return errors.New("no topic given")
	}
	if c.Watch == nil {
		c.Watch = kafka.NewWatch(c.Logger)
	}
	if c.ClientID == "" {
		c.ClientID = "mft-consume"
	}
	return nil
}

// clientOptions are the options of every client that this package makes.
func (c *Config) clientOptions(watch *kafka.Watch) []kgo.Opt {
	return []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...),
		kgo.ClientID(c.ClientID),
		kgo.Dialer(c.Limiter.Dialer(kafka.Patient(loopback.Dialer(c.Logger)))),
		kgo.WithHooks(watch),
		kgo.WithLogger(kafka.Log{Logger: c.Logger}),
		kgo.DisableClientMetrics(),
		kgo.RetryBackoffFn(retryBackoff),
		kgo.MetadataMinAge(metadataMinAge),
		kgo.MetadataMaxAge(metadataMaxAge),
		kgo.FetchMaxBytes(fetchBytes),
		kgo.FetchMaxPartitionBytes(fetchPartitionBytes),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		// Control records are dropped by us, not by the client: they take
		// offsets, and the last offset before the end may be one of them.
		kgo.KeepControlRecords(),
	}
}

// retryBackoff is the wait before another attempt to reach a broker: it
// doubles from 50 ms to maxRetryBackoff, with up to a fifth of jitter.
func retryBackoff(tries int) time.Duration {
	wait := maxRetryBackoff
	if tries < 6 {
		wait = min(wait, 25*time.Millisecond<<tries)
	}
	return wait - rand.N(wait/5)
}

// TopicError tells that a topic cannot be read.
type TopicError struct {
	Topic  string
	Reason string // what is wrong and what to do
	Err    error  // as the broker put it (kerr), or nil
}

func (e *TopicError) Error() string { return fmt.Sprintf("topic %s: %s", e.Topic, e.Reason) }
func (e *TopicError) Unwrap() error { return e.Err }
