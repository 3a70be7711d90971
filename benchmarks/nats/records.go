package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"mft/internal/measure"
)

var (
	errEnough = errors.New("enough")
	// patient waits for room when many messages are under way, instead of failing soon.
	patient = jetstream.WithStallWait(time.Minute)
)

// produce publishes without waiting for each acknowledgement, the fastest way for one message at a time that the
// client has.
func produce(ctx context.Context, o options) (any, error) {
	if o.records == 0 && o.duration == 0 {
		return nil, errors.New("produce what? give -records or -duration")
	}
	nc, js, err := o.connect()
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	if _, err := o.open(ctx, js); err != nil {
		return nil, err
	}
	sending := ctx
	if o.duration > 0 {
		var cancel context.CancelFunc
		sending, cancel = context.WithTimeout(ctx, o.duration)
		defer cancel()
	}
	var (
		left, acked atomic.Int64
		mu          sync.Mutex
		all         = measure.NewHistogram()
	)
	left.Store(o.records)
	run := measure.Start()
	group, ctx := errgroup.WithContext(ctx)
	for i := range max(1, o.clients) {
		group.Go(func() error {
			h := measure.NewHistogram()
			err := o.publish(ctx, sending, uint64(i), &left, &acked, h)
			mu.Lock()
			defer mu.Unlock()
			all.Merge(h)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	r := run.Result(acked.Load(), acked.Load()*int64(o.size))
	r.Acks = all.Latency()
	return r, nil
}

// sent is a message whose acknowledgement is to come.
type sent struct {
	jetstream.PubAckFuture
	due time.Time
}

// publish is one client's work: sending ends it well, ctx gives up.
func (o *options) publish(ctx, sending context.Context, seed uint64, left, acked *atomic.Int64, h measure.Histogram) error {
	nc, js, err := o.connect(jetstream.WithPublishAsyncMaxPending(o.ahead()))
	if err != nil {
		return err
	}
	defer nc.Close()
	value := measure.Payload(o.size, true, seed)
	waiting := make(chan sent, o.ahead())
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { // acknowledgements come in the order of the messages
		for m := range waiting {
			select {
			case <-m.Ok():
				acked.Add(1)
				if err := h.Add(time.Since(m.due)); err != nil {
					return err
				}
			case err := <-m.Err():
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	group.Go(func() error {
		defer close(waiting)
		send := func(due time.Time) error {
			if o.records != 0 && left.Add(-1) < 0 {
				return errEnough
			}
			f, err := js.PublishAsync(o.stream, value, patient)
			if err != nil {
				return err
			}
			select {
			case waiting <- sent{f, due}:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		var err error
		if o.rate > 0 {
			err = measure.Pace(sending, o.rate/float64(max(1, o.clients)), 1<<62, send)
		} else {
			for err == nil && sending.Err() == nil {
				err = send(time.Now())
			}
		}
		if errors.Is(err, errEnough) || ctx.Err() == nil && sending.Err() != nil && errors.Is(err, sending.Err()) {
			return nil
		}
		return err
	})
	return group.Wait()
}

// consume reads all that is in the stream now, without acknowledging, as a Kafka consumer without a group does. Each
// client reads all of it.
func consume(ctx context.Context, o options) (any, error) {
	nc, js, err := o.connect()
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	stream, err := js.Stream(ctx, o.stream)
	if err != nil {
		return nil, err
	}
	info, err := stream.Info(ctx)
	if err != nil {
		return nil, err
	}
	total := int64(info.State.Msgs)
	if total == 0 {
		return nil, fmt.Errorf("stream %s is empty: produce to it first", o.stream)
	}
	if o.records > 0 {
		total = min(total, o.records)
	}
	o.size = max(1, int(info.State.Bytes/info.State.Msgs))
	var records, bytes atomic.Int64
	run := measure.Start()
	group, ctx := errgroup.WithContext(ctx)
	for range max(1, o.clients) {
		group.Go(func() error {
			n, size := int64(0), int64(0)
			defer func() { records.Add(n); bytes.Add(size) }()
			return o.receive(ctx, jetstream.DeliverAllPolicy, func() {}, func(m jetstream.Msg) (bool, error) {
				n, size = n+1, size+int64(len(m.Data()))
				return n < total, nil
			})
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return run.Result(records.Load(), bytes.Load()), nil
}

// receive hands the messages of one consumer to handle, one after the other, until it wants no more or fails. begun
// is called when the consumer is there.
func (o *options) receive(ctx context.Context, from jetstream.DeliverPolicy, begun func(), handle func(jetstream.Msg) (bool, error)) error {
	nc, js, err := o.connect()
	if err != nil {
		return err
	}
	defer nc.Close()
	consumer, err := js.CreateOrUpdateConsumer(ctx, o.stream, jetstream.ConsumerConfig{
		DeliverPolicy: from, AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true,
	})
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	ended := false // handle is called by one goroutine at a time
	end := func(err error) {
		ended = true
		select {
		case done <- err:
		default:
		}
	}
	// Messages that have been asked for; more are asked for at half of it.
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		if ended {
			return
		}
		if more, err := handle(m); err != nil || !more {
			end(err)
		}
	}, jetstream.PullMaxMessages(o.ahead()))
	if err != nil {
		return err
	}
	defer consuming.Stop()
	begun()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// endToEnd is mft-bench latency with JetStream: see there.
func endToEnd(ctx context.Context, o options) (any, error) {
	const minSize = 16
	if o.size < minSize || o.rate <= 0 || o.duration <= 0 {
		return nil, errors.New("give a -size of 16 bytes or more, a -rate and a -duration")
	}
	nc, js, err := o.connect(jetstream.WithPublishAsyncMaxPending(o.ahead()))
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	if _, err := o.open(ctx, js); err != nil {
		return nil, err
	}
	var (
		total     = int64(o.rate * (o.warmUp + o.duration).Seconds())
		countFrom atomic.Int64
		ready     sync.WaitGroup
		mu        sync.Mutex
		all       = measure.NewHistogram()
	)
	group, ctx := errgroup.WithContext(ctx)
	ready.Add(max(1, o.clients))
	for range max(1, o.clients) {
		group.Go(func() error {
			begin := sync.OnceFunc(ready.Done)
			defer begin()
			h, seen := measure.NewHistogram(), int64(0)
			err := o.receive(ctx, jetstream.DeliverNewPolicy, begin, func(m jetstream.Msg) (bool, error) {
				now, due := time.Now(), int64(binary.BigEndian.Uint64(m.Data()))
				if seen++; due >= countFrom.Load() {
					if err := h.Add(now.Sub(time.Unix(0, due))); err != nil {
						return false, err
					}
				}
				return seen < total, nil
			})
			mu.Lock()
			defer mu.Unlock()
			all.Merge(h)
			return err
		})
	}
	group.Go(func() error {
		ready.Wait()
		countFrom.Store(time.Now().Add(o.warmUp).UnixNano())
		err := measure.Pace(ctx, o.rate, total, func(due time.Time) error {
			value := make([]byte, o.size)
			binary.BigEndian.PutUint64(value, uint64(due.UnixNano()))
			_, err := js.PublishAsync(o.stream, value, patient)
			return err
		})
		if err != nil {
			return err
		}
		select {
		case <-js.PublishAsyncComplete():
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return all.Latency(), nil
}

// firstAck waits for a server that is yet to start, makes a stream and publishes a message.
func firstAck(ctx context.Context, o options) (any, error) {
	at, err := url.Parse(o.url)
	if err != nil {
		return nil, err
	}
	var dialer net.Dialer
	for {
		nc, err := dialer.DialContext(ctx, "tcp", at.Host)
		if err == nil {
			if err := nc.Close(); err != nil {
				return nil, err
			}
			break
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	nc, js, err := o.connect()
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	if _, err := o.open(ctx, js); err != nil {
		return nil, err
	}
	if _, err := js.Publish(ctx, o.stream, []byte("first")); err != nil {
		return nil, err
	}
	return struct {
		Acked time.Time `json:"acked"`
	}{time.Now()}, nil
}
