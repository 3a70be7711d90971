// Command nats-bench measures a NATS JetStream server as mft-bench measures a Kafka broker: the same data, the same
// pace, the same results, by NATS's own client. It is a module of its own, so that mft does not depend on NATS.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const usage = `usage: nats-bench produce | consume | latency | first-ack [flags]     with a stream
       nats-bench put | get [flags] DIR                                with an object store`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "nats-bench:", err)
		os.Exit(1)
	}
}

// options are the flags, of which each command reads its own.
type options struct {
	url, stream string
	size        int
	records     int64
	rate        float64
	duration    time.Duration
	warmUp      time.Duration
	timeout     time.Duration
	clients     int
	most        int // messages of each client under way; 0: see ahead
	dir         string
}

func run(ctx context.Context, args []string) error {
	commands := map[string]func(context.Context, options) (any, error){
		"produce": produce, "consume": consume, "latency": endToEnd, "first-ack": firstAck, "put": put, "get": get,
	}
	if len(args) == 0 || commands[args[0]] == nil {
		return errors.New(usage)
	}
	var o options
	flags := flag.NewFlagSet("nats-bench "+args[0], flag.ContinueOnError)
	flags.StringVar(&o.url, "s", nats.DefaultURL, "`URL` of the server")
	flags.StringVar(&o.stream, "stream", "bench", "`NAME` of the stream, or of the bucket; created when missing")
	flags.IntVar(&o.size, "size", 1024, "`BYTES` of a message")
	flags.Int64Var(&o.records, "records", 0, "produce, consume, get: `N` messages or objects")
	flags.Float64Var(&o.rate, "rate", 0, "produce, latency: messages a second; 0: as fast as they are taken")
	flags.DurationVar(&o.duration, "duration", 0, "produce, latency: for this `TIME`")
	flags.DurationVar(&o.warmUp, "warm-up", time.Second, "latency: and for this `TIME` before counting")
	flags.DurationVar(&o.timeout, "timeout", 10*time.Minute, "give up after this `TIME`")
	flags.IntVar(&o.most, "ahead", 0, "messages that each client may have under way (default: by their size)")
	flags.IntVar(&o.clients, "clients", 1, "clients side by side; with latency: consumers; with put and get: objects at a time")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	o.dir = flags.Arg(0)
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	found, err := commands[args[0]](ctx, o)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(found)
}

// connect makes a connection of its own.
func (o *options) connect(more ...jetstream.JetStreamOpt) (*nats.Conn, jetstream.JetStream, error) {
	nc, err := nats.Connect(o.url, nats.Name("nats-bench"))
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(nc, more...)
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	return nc, js, nil
}

// open returns the stream, which keeps messages in files.
func (o *options) open(ctx context.Context, js jetstream.JetStream) (jetstream.Stream, error) {
	return js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: o.stream, Subjects: []string{o.stream}, Storage: jetstream.FileStorage, Replicas: 1,
	})
}

// ahead is how many messages a client has under way, so that there is always work and memory is bounded: 32 MiB, and
// together less than the 10,000 that a stream buffers as it is installed, beyond which it refuses more.
func (o *options) ahead() int {
	if o.most > 0 {
		return o.most
	}
	return max(8, min(8192, 32<<20/o.size)/max(1, o.clients))
}
