// Package bench measures a broker through an ordinary Kafka client (kgo), the
// same way for mft and for any other that speaks the protocol: how many
// records a second it takes and gives, and how long one is on its way.
package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"mft/internal/measure"
)

// Config is what the measurements have in common.
type Config struct {
	Brokers []string
	Topic   string
	// Clients is how many clients work side by side, each with connections of
	// its own. At least 1.
	Clients int
	// Options are added to those of every client.
	Options []kgo.Opt
}

// Result is what a measurement of throughput found.
type Result = measure.Result

// Latency is a distribution, in milliseconds.
type Latency = measure.Latency

func (c *Config) client(more ...kgo.Opt) (*kgo.Client, error) {
	opts := append([]kgo.Opt{kgo.SeedBrokers(c.Brokers...), kgo.ClientID("mft-bench"), kgo.DisableClientMetrics(),
		// A partition whose leader is not ready is tried again soon, not in seconds.
		kgo.MetadataMinAge(100 * time.Millisecond)}, c.Options...)
	return kgo.NewClient(append(opts, more...)...)
}

// createAtOnce is how many partitions are created in one request. Kafka takes
// less than 10,000 (QuorumController.MAX_RECORDS_PER_USER_OP).
const createAtOnce = 5000

// createTimeout is how long a broker may take for one such request.
const createTimeout = time.Minute

// CreateTopic creates the topic, unless it exists, and waits until it can be
// written to. configs are topic configs by Kafka's names.
func CreateTopic(ctx context.Context, cfg Config, partitions int32, replicas int16, configs map[string]string) error {
	return createTopic(ctx, cfg, partitions, replicas, configs, createAtOnce)
}

func createTopic(ctx context.Context, cfg Config, partitions int32, replicas int16, configs map[string]string, atOnce int) error {
	cl, err := cfg.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	values := make(map[string]*string, len(configs))
	for k, v := range configs {
		values[k] = &v
	}
	adm := kadm.NewClient(cl)
	adm.SetTimeoutMillis(int32(createTimeout.Milliseconds()))
	want := int(partitions)
	_, err = adm.CreateTopic(ctx, min(partitions, int32(atOnce)), replicas, values, cfg.Topic)
	if errors.Is(err, kerr.TopicAlreadyExists) {
		want, err = 0, nil
	}
	for have := atOnce; have < want && err == nil; {
		have = min(have+atOnce, want)
		var grown kadm.CreatePartitionsResponses
		if grown, err = adm.UpdatePartitions(ctx, have, cfg.Topic); err == nil {
			err = grown.Error()
		}
	}
	if err != nil {
		return fmt.Errorf("create topic %s: %w", cfg.Topic, err)
	}
	for {
		topics, err := adm.ListTopics(ctx, cfg.Topic)
		if err != nil {
			return fmt.Errorf("look at topic %s: %w", cfg.Topic, err)
		}
		if t := topics[cfg.Topic]; t.Err == nil && len(t.Partitions) >= want && led(t) {
			// A leader that is named may not know yet that it is one.
			ends, err := adm.ListEndOffsets(ctx, cfg.Topic)
			if err == nil && ends.Error() == nil {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("topic %s has no leader yet: %w", cfg.Topic, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// led reports whether every partition has a leader.
func led(t kadm.TopicDetail) bool {
	for _, p := range t.Partitions {
		if p.Leader < 0 || p.Err != nil {
			return false
		}
	}
	return len(t.Partitions) > 0
}
