package bench

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// FirstAck waits until the broker can be connected to, which need not run yet,
// creates the topic, produces one record and returns when its acknowledgement
// came.
func FirstAck(ctx context.Context, cfg Config, configs map[string]string) (time.Time, error) {
	var dialer net.Dialer
	for {
		nc, err := dialer.DialContext(ctx, "tcp", cfg.Brokers[0])
		if err == nil {
			if err := nc.Close(); err != nil {
				return time.Time{}, err
			}
			break
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("nobody listens on %s: %w", cfg.Brokers[0], err)
		}
	}
	if err := CreateTopic(ctx, cfg, 1, -1, configs); err != nil {
		return time.Time{}, err
	}
	cl, err := cfg.client(kgo.DefaultProduceTopic(cfg.Topic), kgo.ProducerLinger(0))
	if err != nil {
		return time.Time{}, err
	}
	defer cl.Close()
	if err := cl.ProduceSync(ctx, &kgo.Record{Value: []byte("first")}).FirstErr(); err != nil {
		return time.Time{}, err
	}
	return time.Now(), nil
}
