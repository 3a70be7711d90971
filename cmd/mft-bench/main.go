// Command mft-bench measures a broker: mft's, or any other that speaks Kafka's
// protocol.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"

	"mft/internal/bench"
	"mft/internal/command"
)

func main() {
	command.TuneMemory(400)
	command.Main(newBench())
}

// options are what the measurements share.
type options struct {
	command.Options
	topic      string
	clients    int
	partitions int32
	replicas   int16
	configs    map[string]string
	size       string
	timeout    time.Duration
}

func newBench() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "mft-bench",
		Short: "Measure how much a broker takes and gives, and how fast: mft-broker, or any Kafka.",
		Example: `  mft-bench produce -t bench --size 1KiB --records 1000000
  mft-bench consume -t bench
  mft-bench latency -t live --rate 1000 --duration 30s
  mft-bench produce -b kafka:9092 -t bench -p 16 --acks all --json`,
	}
	flags := cmd.PersistentFlags()
	o.ClientFlags(flags)
	o.JSONFlag(flags, "the result")
	flags.StringVarP(&o.topic, "topic", "t", "", "measure with `TOPIC`, which is created when missing")
	flags.Int32VarP(&o.partitions, "partitions", "p", 1, "partitions of a topic that is created")
	flags.Int16Var(&o.replicas, "replicas", -1, "replicas of a topic that is created; -1: the broker's default")
	flags.StringToStringVar(&o.configs, "topic-config", nil, "settings of a topic that is created, `KEY=VALUE`")
	flags.DurationVar(&o.timeout, "timeout", 10*time.Minute, "give up after this `TIME`")
	cmd.AddCommand(newProduce(&o), newConsume(&o), newLatency(&o), newFirstAck(&o))
	return cmd
}

// sizeFlag adds --size.
func (o *options) sizeFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.size, "size", "1KiB", "`BYTES` of a record's value, such as 100, 10KiB, 1MiB")
}

func (o *options) clientsFlag(cmd *cobra.Command, what string) {
	cmd.Flags().IntVar(&o.clients, "clients", 1, "how many clients "+what+" side by side")
}

// bytes reads --size.
func (o *options) bytes() (int, error) {
	n, err := humanize.ParseBytes(o.size)
	if err != nil || n < 1 || n > 1<<30 {
		return 0, command.Usagef("--size %q: give a number of bytes up to 1GiB, such as 100, 10KiB or 1MiB", o.size)
	}
	return int(n), nil
}

// with creates the topic, runs a measurement and prints what it found.
func (o *options) with(cmd *cobra.Command, more []kgo.Opt, run func(context.Context, bench.Config) (any, error)) error {
	return o.measure(cmd, more, func(ctx context.Context, cfg bench.Config) (any, error) {
		if err := bench.CreateTopic(ctx, cfg, o.partitions, o.replicas, o.configs); err != nil {
			return nil, command.Hintf(err, "is a broker running at that address? name it with -b HOST:PORT")
		}
		return run(ctx, cfg)
	})
}

// measure runs a measurement and prints what it found.
func (o *options) measure(cmd *cobra.Command, more []kgo.Opt, run func(context.Context, bench.Config) (any, error)) error {
	if o.topic == "" {
		return command.Usagef("no topic: name one with -t TOPIC; it is created when missing")
	}
	if o.clients < 0 || o.clients > 10_000 {
		return command.Usagef("--clients %d: use 1 to 10000", o.clients)
	}
	if _, err := o.Load(cmd.Flags()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), o.timeout)
	defer cancel()
	cfg := bench.Config{Brokers: o.Brokers, Topic: o.topic, Clients: o.clients, Options: more}
	found, err := run(ctx, cfg)
	if err != nil {
		return err
	}
	return o.print(cmd.OutOrStdout(), found)
}

// print writes a result for people or for programs.
func (o *options) print(w io.Writer, found any) error {
	if o.JSON {
		return json.NewEncoder(w).Encode(found)
	}
	switch r := found.(type) {
	case bench.Result:
		fmt.Fprintf(w, "%s records in %.2f s: %s records/s, %.1f MB/s, %.2f s of client CPU\n",
			humanize.Comma(r.Records), r.Seconds, humanize.Comma(int64(r.PerSecond)), r.MBPerS, r.ClientCPU)
		if r.Acks != nil {
			fmt.Fprint(w, "acks: ")
			printLatency(w, r.Acks)
		}
	case firstAck:
		fmt.Fprintf(w, "first acknowledgement at %s\n", r.Acked.Format(time.RFC3339Nano))
	case *bench.Latency:
		fmt.Fprint(w, "end to end: ")
		printLatency(w, r)
	}
	return nil
}

func printLatency(w io.Writer, l *bench.Latency) {
	fmt.Fprintf(w, "p50 %.2f ms, p90 %.2f, p99 %.2f, p99.9 %.2f, p99.99 %.2f, max %.2f (%s records)\n",
		l.P50, l.P90, l.P99, l.P999, l.P9999, l.Max, humanize.Comma(l.Count))
}
