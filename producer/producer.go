// Package producer sends files, directories and lines into a topic of mft's
// broker, or of any other that speaks Kafka's protocol.
//
// A file becomes a run of records in one partition, the file stream that
// package protocol describes: the consumer can put the same file together
// again, verified. A line becomes one record.
//
// A Producer keeps a bounded number of bytes on the way and waits as long as
// its broker is away, so that its memory is flat whatever is sent and however
// slowly it is taken. What it counts as sent has been acknowledged.
package producer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"

	"mft/internal/kafka"
	"mft/internal/loopback"
	"mft/protocol"
)

const (
	// DefaultConnectTimeout is how long a Producer waits for the first answer
	// of a broker unless told otherwise.
	DefaultConnectTimeout = time.Minute

	maxBufferedBytes = 32 << 20               // bytes handed to the client and not yet acknowledged
	interruptGrace   = 3 * time.Second        // for what is on the way when a call is cancelled
	maxRetryBackoff  = time.Second            // between two attempts to reach a broker
	minMetadataAge   = 250 * time.Millisecond // between two looks at who leads a partition

	// A broker of a cluster may not know its topics for some seconds after a
	// restart. So many answers in a row that the topic does not exist, a quarter
	// of a second or more apart, are believed.
	unknownTopicRetries = 60
)

// Acks is when a record counts as sent.
type Acks string

// The values of Acks.
const (
	AcksAll  Acks = "all" // stored by every replica in sync; with mft's broker: on stable storage
	AcksOne  Acks = "1"   // written by the leader
	AcksNone Acks = "0"   // handed to the network: nothing is known about it, a lost connection loses it
)

// Config says where a Producer sends and how. Brokers and Topic are required.
type Config struct {
	Brokers []string // HOST:PORT of one or more brokers to ask first
	Topic   string   // created by the broker when missing, where it allows that

	// Partition is where everything goes; nil: each file anywhere, as a whole,
	// lines by their key, or spread when they have none.
	Partition *int32

	Acks        Acks        // "": AcksAll, with idempotent producing
	Compression Compression // "": CompressAuto
	Digest      string      // of whole files: xxh3-128 (also when empty), sha256 or blake3

	// Key encrypts files end to end, names and all; nil: they are not. Then
	// Compression, which is of the chunks before they are encrypted, is auto,
	// zstd or none. Lines are never encrypted: SendLines and Follow refuse.
	Key *protocol.Key

	// Rekey makes the key of an interrupted run again, of the same passphrase as
	// Key; nil: such a file is sent anew, unless Key is of a key file. It may be
	// called from several goroutines.
	Rekey func(protocol.KDF) (*protocol.Key, error)

	// Retries is how often a file that cannot be read, or that changes while it
	// is, is tried again, after waits that double. 0: DefaultRetries, negative:
	// not at all. What then could not be sent is on a list in StateDir: see Failed.
	Retries int

	// Limiter holds what goes over the wire to a rate; nil: nothing does.
	Limiter *kafka.Limiter

	// Streams is how many connections carry files at a time, up to MaxStreams;
	// 0: one. Stream i begins with broker i of Brokers, counted round. One file
	// stays in one partition; its chunks go over all streams, unless Acks is
	// AcksNone. Lines go over the first.
	Streams int

	// Watch is told of brokers that are away and back, for who wants to show it;
	// nil: one of the Producer's own.
	Watch *kafka.Watch

	Metadata Metadata // what is sent of files beside content, name, mode and mtime

	ClientID string // what the broker's log calls this client; "": mft-produce

	// ConnectTimeout is how long to wait for the first answer of any broker;
	// 0: DefaultConnectTimeout, negative: for ever.
	ConnectTimeout time.Duration
	// StallTimeout is how long a call may go without any acknowledgement while
	// records are on the way, before it gives up; 0: for ever.
	StallTimeout time.Duration

	// Confirm has files confirmed by who receives them: SendFiles returns when
	// that is done, and Watch takes a file for sent; nil: they are not. It has
	// no meaning for lines.
	Confirm *Confirm

	// StateDir is a directory, made when missing, where a Producer remembers
	// what outlives it; several may share one. "": nothing is remembered.
	StateDir string
	// NoResume sends every file from its beginning. Otherwise a file of more
	// than one chunk whose sending was interrupted goes on where it stopped, by
	// the same transfer id, when the same path is sent to the same topic by the
	// same name within a day. This needs a StateDir and AcksAll.
	NoResume bool

	Logger zerolog.Logger // the zero value logs nothing
	Events Events
}

// Events are told what happens to files, as it happens. A nil function is not
// called; no two are called at the same time. They must not block.
type Events struct {
	Found       func(files int, bytes int64)                // more to come: that many files with that many bytes
	Begin       func(id, name string, size int64, dir bool) // id is the transfer id
	Advance     func(id string, bytes int64)                // that many more bytes are acknowledged
	Done        func(id, digest string)                     // all of it is acknowledged; digest in hex, "" for a directory
	Failed      func(id, name string, why error)            // it will not arrive; id is "" when it never began
	Confirmed   func(id, name string, r protocol.Receipt)   // after Done or before: a receiver has it in place
	Unconfirmed func(id, name string, why error)            // it is sent, and not confirmed: ErrUnconfirmed, or a *RejectedError
	Waiting     func(files int)                             // all is sent; so many are waited for
	Skipped     func(name, reason string)                   // left out: not a regular file
	Retried     func(id, name string, why error)            // the transfer, maybe one of an earlier run, is void; the file is sent anew, by another id
	Resumed     func(id, name string, bytes int64)          // after Begin: it goes on from there, an earlier run sent what is before
}

// Producer sends into one topic. Its methods may be called one after another;
// only one may run at a time.
type Producer struct {
	cfg     Config
	log     zerolog.Logger
	client  *kgo.Client // the first of streams, which asks all that is asked
	streams *streams
	choices *choices // of auto; nil: nothing is to be chosen
	watch   *kafka.Watch
	buffers bufferPool
	owners  owners
	sealing *sealing // nil: nothing is encrypted

	topic    topicFacts   // what connect learned; zero until then
	maxBatch atomic.Int32 // bytes of one record batch, read by the client

	closeOnce sync.Once
}

// New checks cfg and makes a Producer. It does not connect: the first call
// that sends does. The Producer must be closed.
func New(cfg Config) (*Producer, error) {
	if len(cfg.Brokers) == 0 {
		return nil, errors.New("no broker given: name at least one as HOST:PORT")
	}
	if cfg.Topic == "" {
		return nil, errors.New("no topic given")
	}
	if _, err := protocol.NewDigest(cfg.Digest); err != nil {
		return nil, err
	}
	if cfg.Partition != nil && *cfg.Partition < 0 {
		return nil, fmt.Errorf("partition %d: partitions count from 0", *cfg.Partition)
	}
	if cfg.Streams < 0 || cfg.Streams > MaxStreams {
		return nil, fmt.Errorf("%d streams: use 1 to %d", cfg.Streams, MaxStreams)
	}
	if cfg.ClientID == "" {
		cfg.ClientID = "mft-produce"
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = DefaultConnectTimeout
	}
	p := &Producer{cfg: cfg, log: cfg.Logger, watch: cfg.Watch}
	if p.watch == nil {
		p.watch = kafka.NewWatch(cfg.Logger)
	}
	p.maxBatch.Store(defaultMaxBatch)

	var err error
	if p.sealing, err = newSealing(cfg.Key, cfg.Compression); err != nil {
		return nil, err
	}
	if p.sealing != nil {
		p.cfg.Compression = CompressNone // of batches
	}
	if cfg.Compression == "" || cfg.Compression == CompressAuto {
		p.choices = new(choices)
	}
	opts, err := p.clientOptions()
	if err != nil {
		return nil, err
	}
	if p.streams, err = newStreams(max(cfg.Streams, 1), cfg.Brokers, opts); err != nil {
		return nil, err
	}
	p.client = p.streams.clients[0]
	return p, nil
}

// Close ends the connections. What a call that returned without an error has
// sent is acknowledged already, so there is nothing left to flush.
func (p *Producer) Close() error {
	p.closeOnce.Do(p.streams.close)
	return nil
}

func (p *Producer) clientOptions() ([]kgo.Opt, error) {
	compressor, err := p.cfg.Compression.compressor(p.choices)
	if err != nil {
		return nil, err
	}
	opts := []kgo.Opt{
		kgo.ClientID(p.cfg.ClientID),
		kgo.Dialer(p.cfg.Limiter.Dialer(kafka.Patient(loopback.Dialer(p.log)))),
		kgo.WithHooks(p.watch),
		kgo.WithLogger(kafka.Log{Logger: p.log, Watch: p.watch}),
		kgo.DisableClientMetrics(),
		kgo.DefaultProduceTopic(p.cfg.Topic),
		kgo.AllowAutoTopicCreation(),
		kgo.RecordPartitioner(pinPartitioner{kgo.StickyKeyPartitioner(nil)}),
		kgo.ProducerBatchMaxBytesFn(func(string) int32 { return p.maxBatch.Load() }),
		kgo.MaxBufferedBytes(maxBufferedBytes),
		kgo.ProducerLinger(0),
		kgo.RetryBackoffFn(retryBackoff),
		kgo.MetadataMinAge(minMetadataAge),
		kgo.UnknownTopicRetries(unknownTopicRetries),
		kgo.ProducerOnDataLossDetected(func(topic string, partition int32) {
			p.log.Warn().Str("topic", topic).Int32("partition", partition).
				Msg("the broker has lost records of this partition that it had acknowledged; sending goes on, but what was acknowledged before may have to be sent again")
		}),
	}
	if compressor != nil {
		opts = append(opts, kgo.WithCompressor(compressor))
	} else {
		opts = append(opts, kgo.ProducerBatchCompression(kgo.NoCompression()))
	}
	switch p.cfg.Acks {
	case "", AcksAll:
		opts = append(opts, kgo.RequiredAcks(kgo.AllISRAcks()))
	case AcksOne:
		opts = append(opts, kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite())
	case AcksNone:
		opts = append(opts, kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite())
	default:
		return nil, fmt.Errorf("acks %q: use all, 1 or 0", p.cfg.Acks)
	}
	return opts, nil
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

// pinPartitioner sends a record to the partition that it already names, and
// one that names none (Partition < 0) to where spread wants it.
type pinPartitioner struct{ spread kgo.Partitioner }

func (p pinPartitioner) ForTopic(topic string) kgo.TopicPartitioner {
	return pinTopicPartitioner{p.spread.ForTopic(topic)}
}

type pinTopicPartitioner struct{ spread kgo.TopicPartitioner }

func (p pinTopicPartitioner) RequiresConsistency(r *kgo.Record) bool {
	return r.Partition >= 0 || p.spread.RequiresConsistency(r)
}

func (p pinTopicPartitioner) Partition(r *kgo.Record, n int) int {
	if r.Partition >= 0 {
		return int(r.Partition)
	}
	return p.spread.Partition(r, n)
}

func (p pinTopicPartitioner) OnNewBatch() {
	if s, ok := p.spread.(kgo.TopicPartitionerOnNewBatch); ok {
		s.OnNewBatch()
	}
}

// withGrace returns a context that ends some time after ctx does: long enough
// for what is on the way to arrive. stop releases it.
func withGrace(ctx context.Context, grace time.Duration) (_ context.Context, stop func()) {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	timer := make(chan struct{})
	go func() {
		defer cancel()
		select {
		case <-timer:
			return
		case <-ctx.Done():
		}
		t := time.NewTimer(grace)
		defer t.Stop()
		select {
		case <-timer:
		case <-t.C:
		}
	}()
	return late, func() { close(timer) }
}
