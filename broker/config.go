package broker

import (
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"
)

// Listener is one address that the broker serves. Several listeners serve the
// same topics; a client that came in by one is told to stay on it.
type Listener struct {
	// Addr is what to listen on, "host:port"; port 0 takes a free one, an
	// empty host or 0.0.0.0 listens on every interface.
	Addr string
	// Advertised is the "host:port" that clients of this listener are told to
	// use. Empty: the address by which the client's connection came in.
	Advertised string
}

// Config says what a Broker serves and from where. Start from DefaultConfig:
// the zero value of a limit means its default, but AutoCreateTopics and Data
// have no such reading.
type Config struct {
	// Data is the data directory; it is created when missing.
	Data string
	// Listeners are opened by New, in order.
	Listeners []Listener
	// AutoCreateTopics creates a topic when a client asks for its metadata
	// and allows that.
	AutoCreateTopics bool
	// DefaultPartitions is the number of partitions of a topic whose creator
	// names none. At least 1.
	DefaultPartitions int32
	// TopicDefaults are topic configs (Kafka's names, such as
	// "write.caching") for topics that do not set them.
	TopicDefaults map[string]string
	// CleanInterval is how often retention and compaction look for work; 0
	// means every 30 s, less than 0 never.
	CleanInterval time.Duration

	// MaxFrameBytes bounds one request (Kafka's socket.request.max.bytes).
	MaxFrameBytes int
	// MaxInFlightBytes bounds the requests, of all connections together, that
	// are being read or handled (Kafka's queued.max.request.bytes).
	// Connections wait with reading further ones; a single request that is
	// longer is let in when it is alone.
	MaxInFlightBytes int64
	// MaxConnections bounds the open connections; further ones are closed at
	// once.
	MaxConnections int
	// IdleTimeout closes a connection on which nothing has moved for so long.
	IdleTimeout time.Duration
	// DrainTimeout bounds how long Run waits, when stopping, for answers that
	// clients are still owed.
	DrainTimeout time.Duration
	// GroupInitialRebalanceDelay is how long the first rebalance of an empty
	// group waits for more members (Kafka's
	// group.initial.rebalance.delay.ms; 0 here).
	GroupInitialRebalanceDelay time.Duration

	// Logger receives the broker's log; the zero value is silent.
	Logger zerolog.Logger
	// Clock is the time source of groups and logs; nil means time.Now.
	Clock func() time.Time

	holdTimeout time.Duration // for tests; see inFlight
}

// DefaultConfig is a broker on the loopback interface's standard port with
// its data in ./mft-data.
func DefaultConfig() Config {
	return Config{
		Data:              "mft-data",
		Listeners:         []Listener{{Addr: "127.0.0.1:9999"}},
		AutoCreateTopics:  true,
		DefaultPartitions: 1,
		Logger:            zerolog.Nop(),
	}
}

const (
	defaultMaxFrameBytes    = 100 << 20
	defaultMaxInFlightBytes = 256 << 20
	defaultMaxConnections   = 10_000
	defaultIdleTimeout      = 10 * time.Minute
	defaultDrainTimeout     = 5 * time.Second

	// maxPartitions bounds the partitions of one topic, so that a typing
	// error does not fill the disk with directories.
	maxPartitions = 10_000
)

// withDefaults fills what is unset and refuses what cannot be served.
func (c Config) withDefaults() (Config, error) {
	if c.Data == "" {
		return c, errors.New("no data directory is set: name one, such as ./mft-data")
	}
	if len(c.Listeners) == 0 {
		return c, errors.New("no listener is set: name at least one address, such as 127.0.0.1:9999")
	}
	if c.DefaultPartitions == 0 {
		c.DefaultPartitions = 1
	}
	if c.DefaultPartitions < 0 || c.DefaultPartitions > maxPartitions {
		return c, fmt.Errorf("default partitions %d: choose 1 to %d", c.DefaultPartitions, maxPartitions)
	}
	if _, err := parseTopicConfig(c.TopicDefaults, nil); err != nil {
		return c, fmt.Errorf("topic defaults: %w", err)
	}
	if c.MaxFrameBytes <= 0 {
		c.MaxFrameBytes = defaultMaxFrameBytes
	}
	if c.MaxInFlightBytes <= 0 {
		c.MaxInFlightBytes = defaultMaxInFlightBytes
	}
	if c.holdTimeout <= 0 {
		c.holdTimeout = defaultHoldTimeout
	}
	if c.MaxConnections <= 0 {
		c.MaxConnections = defaultMaxConnections
	}
	if c.IdleTimeout <= 0 {
		c.IdleTimeout = defaultIdleTimeout
	}
	if c.DrainTimeout <= 0 {
		c.DrainTimeout = defaultDrainTimeout
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	return c, nil
}
