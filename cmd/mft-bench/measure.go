package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"

	"mft/internal/bench"
	"mft/internal/command"
)

func newProduce(o *options) *cobra.Command {
	var (
		records        int64
		duration       time.Duration
		rate           float64
		acks, compress string
		linger         time.Duration
		text, touch    bool
		ahead          int
	)
	cmd := &cobra.Command{
		Use:   "produce -t TOPIC",
		Short: "Produce as fast as the broker takes it, and count acknowledged records",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			size, err := o.bytes()
			if err != nil {
				return err
			}
			if records < 0 || rate < 0 || ahead < 0 || records == 0 && duration <= 0 {
				return command.Usagef("produce what? give --records N or --duration TIME")
			}
			if records > 0 && !cmd.Flags().Changed("duration") {
				duration = 0
			}
			opts, err := producerOptions(acks, compress, linger, size)
			if err != nil {
				return err
			}
			return o.with(cmd, opts, func(ctx context.Context, cfg bench.Config) (any, error) {
				return bench.Produce(ctx, bench.ProduceConfig{Config: cfg, Size: size, Records: records, Duration: duration, Rate: rate, Random: !text, Touch: touch, Ahead: ahead})
			})
		},
	}
	flags := cmd.Flags()
	o.sizeFlag(cmd)
	o.clientsFlag(cmd, "produce")
	flags.Int64Var(&records, "records", 0, "produce `N` records in all (default: as many as --duration allows; with both, what comes first)")
	flags.DurationVar(&duration, "duration", 10*time.Second, "without --records: produce for this `TIME`")
	flags.Float64Var(&rate, "rate", 0, "records `A SECOND`; acknowledgements are then timed from when a record was to be sent (default: as fast as they are taken)")
	flags.IntVar(&ahead, "ahead", 0, "at most `N` records of each client under way: 1 waits for every acknowledgement (default: as many as fit its memory)")
	flags.StringVar(&acks, "acks", "all", "wait for acknowledgements: all, 1 or 0")
	flags.StringVar(&compress, "compress", "none", "compress batches: none, gzip, snappy, lz4, zstd")
	flags.DurationVar(&linger, "linger", 0, "wait this `TIME` for a batch to fill")
	flags.BoolVar(&touch, "touch", false, "first produce two records to every partition, which are not measured: brokers make files and index entries then")
	flags.BoolVar(&text, "text", false, "produce text that compresses, instead of random bytes")
	return cmd
}

func producerOptions(acks, compress string, linger time.Duration, size int) ([]kgo.Opt, error) {
	opts := []kgo.Opt{kgo.ProducerLinger(linger), kgo.ProducerBatchMaxBytes(int32(max(1_000_000, size+1024)))}
	switch acks {
	case "all":
		opts = append(opts, kgo.RequiredAcks(kgo.AllISRAcks()))
	case "1":
		opts = append(opts, kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite())
	case "0":
		opts = append(opts, kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite())
	default:
		return nil, command.Usagef("--acks %q: use all, 1 or 0", acks)
	}
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	codec, ok := codecs[compress]
	if !ok {
		return nil, command.Usagef("--compress %q: use none, gzip, snappy, lz4 or zstd", compress)
	}
	return append(opts, kgo.ProducerBatchCompression(codec)), nil
}

func newConsume(o *options) *cobra.Command {
	var records int64
	cmd := &cobra.Command{
		Use:   "consume -t TOPIC",
		Short: "Read a topic from its beginning to its present end; each client reads all of it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if records < 0 {
				return command.Usagef("--records %d: give a number above zero", records)
			}
			opts := []kgo.Opt{kgo.FetchMaxPartitionBytes(16 << 20), kgo.FetchMaxBytes(64 << 20)}
			return o.with(cmd, opts, func(ctx context.Context, cfg bench.Config) (any, error) { return bench.Consume(ctx, cfg, records) })
		},
	}
	o.clientsFlag(cmd, "consume")
	cmd.Flags().Int64Var(&records, "records", 0, "read the first `N` records only (default: all)")
	return cmd
}

func newLatency(o *options) *cobra.Command {
	var (
		rate             float64
		duration, warmUp time.Duration
		consumers        int
	)
	cmd := &cobra.Command{
		Use:   "latency -t TOPIC",
		Short: "Send at a fixed pace and measure the way from the intended sending to a consumer",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			size, err := o.bytes()
			if err != nil {
				return err
			}
			if rate <= 0 || duration <= 0 || warmUp < 0 {
				return command.Usagef("give a --rate and a --duration above zero")
			}
			if consumers < 1 || consumers > 10_000 {
				return command.Usagef("--consumers %d: use 1 to 10000", consumers)
			}
			return o.with(cmd, nil, func(ctx context.Context, cfg bench.Config) (any, error) {
				return bench.EndToEnd(ctx, bench.LatencyConfig{Config: cfg, Size: size, Rate: rate, Duration: duration, WarmUp: warmUp, Consumers: consumers})
			})
		},
	}
	flags := cmd.Flags()
	o.sizeFlag(cmd)
	flags.Float64Var(&rate, "rate", 1000, "records `A SECOND`")
	flags.DurationVar(&duration, "duration", 10*time.Second, "measure for this `TIME`")
	flags.IntVar(&consumers, "consumers", 1, "how many consumers get every record")
	flags.DurationVar(&warmUp, "warm-up", time.Second, "and run for this `TIME` before counting")
	return cmd
}

// firstAck is when the first acknowledgement came.
type firstAck struct {
	Acked time.Time `json:"acked"`
}

func newFirstAck(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "first-ack -t TOPIC",
		Short: "Wait for a broker that is yet to start, and tell when it acknowledged a first record",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.measure(cmd, nil, func(ctx context.Context, cfg bench.Config) (any, error) {
				at, err := bench.FirstAck(ctx, cfg, o.configs)
				return firstAck{at}, err
			})
		},
	}
}
