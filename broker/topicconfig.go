package broker

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"mft/segment"
)

// topicConfig is the parsed form of a topic's configs.
type topicConfig struct {
	maxMessageBytes int
	log             segment.LogConfig
}

// configSource says where a config's value comes from.
type configSource int8

const (
	sourceDefault configSource = iota // built in
	sourceBroker                      // Config.TopicDefaults
	sourceTopic                       // set on the topic
)

// configDef is one topic config: its name as in Kafka (or, where Kafka has
// none, in Redpanda), its default, and how its value is read.
type configDef struct {
	name  string
	def   string
	typ   kmsg.ConfigType
	doc   string
	parse func(c *topicConfig, value string) error
}

// topicConfigs is the one table of topic configs: creation, defaults and
// DescribeConfigs read it. Configs that this broker has only one behaviour
// for accept only the value that says so.
var topicConfigs = [...]configDef{
	{"cleanup.policy", "delete", kmsg.ConfigTypeList,
		"What happens to old segments.", only("delete")},
	{"compression.type", "producer", kmsg.ConfigTypeString,
		"Batches are kept as their producer compressed them.", only("producer")},
	{"flush.bytes", "16777216", kmsg.ConfigTypeLong,
		"With write.caching: bytes after which the log is made durable in the background.",
		integer(1, math.MaxInt64, func(c *topicConfig, v int64) { c.log.FlushBytes = v })},
	{"flush.ms", "1000", kmsg.ConfigTypeLong,
		"With write.caching: milliseconds after which the log is made durable in the background.",
		integer(1, math.MaxInt64/int64(time.Millisecond), func(c *topicConfig, v int64) { c.log.FlushInterval = time.Duration(v) * time.Millisecond })},
	{"index.interval.bytes", "4096", kmsg.ConfigTypeInt,
		"Bytes of log for each entry of the offset index.",
		integer(1, math.MaxInt32, func(c *topicConfig, v int64) { c.log.IndexIntervalBytes = int(v) })},
	{"max.message.bytes", "1048588", kmsg.ConfigTypeInt,
		"The largest record batch that is accepted, in bytes.",
		integer(1024, 1<<30, func(c *topicConfig, v int64) { c.maxMessageBytes = int(v) })},
	{"message.timestamp.type", "CreateTime", kmsg.ConfigTypeString,
		"Records keep the time that their producer gave them.", only("CreateTime")},
	{"min.insync.replicas", "1", kmsg.ConfigTypeInt,
		"This broker is alone.", only("1")},
	{"retention.bytes", "-1", kmsg.ConfigTypeLong,
		"Everything is kept.", only("-1")},
	{"retention.ms", "-1", kmsg.ConfigTypeLong,
		"Everything is kept.", only("-1")},
	{"segment.bytes", "1073741824", kmsg.ConfigTypeInt,
		"Size of a segment file at which the next one is begun.",
		integer(1<<14, math.MaxInt32, func(c *topicConfig, v int64) { c.log.SegmentBytes = v })},
	{"write.caching", "false", kmsg.ConfigTypeBoolean,
		"Acknowledge from the page cache and make durable in the background (flush.ms, flush.bytes).",
		func(c *topicConfig, v string) error {
			b, err := strconv.ParseBool(v)
			if err != nil {
				return fmt.Errorf("%q is neither true nor false", v)
			}
			c.log.WriteCaching = b
			return nil
		}},
}

func only(value string) func(*topicConfig, string) error {
	return func(_ *topicConfig, v string) error {
		if v != value {
			return fmt.Errorf("%q is not supported, only %q is", v, value)
		}
		return nil
	}
}

func integer(least, most int64, set func(*topicConfig, int64)) func(*topicConfig, string) error {
	return func(c *topicConfig, v string) error {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < least || n > most {
			return fmt.Errorf("%q is not a whole number from %d to %d", v, least, most)
		}
		set(c, n)
		return nil
	}
}

// configValue returns a config's value and where it comes from.
func (d *configDef) value(defaults, set map[string]string) (string, configSource) {
	if v, ok := set[d.name]; ok {
		return v, sourceTopic
	}
	if v, ok := defaults[d.name]; ok {
		return v, sourceBroker
	}
	return d.def, sourceDefault
}

// parseTopicConfig reads the configs set on a topic over the broker's
// defaults. An unknown name or a bad value is an error that names it.
func parseTopicConfig(defaults, set map[string]string) (topicConfig, error) {
	var c topicConfig
	for _, m := range []map[string]string{defaults, set} {
		for name := range m {
			if !slices.ContainsFunc(topicConfigs[:], func(d configDef) bool { return d.name == name }) {
				return c, fmt.Errorf("unknown topic config %q: known are %s", name, knownTopicConfigs())
			}
		}
	}
	for i := range topicConfigs {
		d := &topicConfigs[i]
		v, _ := d.value(defaults, set)
		if err := d.parse(&c, v); err != nil {
			return c, fmt.Errorf("topic config %s: %w", d.name, err)
		}
	}
	return c, nil
}

func knownTopicConfigs() string {
	names := make([]string, len(topicConfigs))
	for i, d := range topicConfigs {
		names[i] = d.name
	}
	return strings.Join(names, ", ")
}
