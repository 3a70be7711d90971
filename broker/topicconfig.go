package broker

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"mft/protocol"
	"mft/segment"
)

// topicConfig is the parsed form of a topic's configs.
type topicConfig struct {
	maxMessageBytes int
	logAppendTime   bool
	recompress      bool           // batches of another codec than the following
	codec           protocol.Codec // when recompress
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

// topicConfigs is the one table of topic configs: creation, defaults,
// DescribeConfigs and the two AlterConfigs read it.
var topicConfigs = [...]configDef{
	{"cleanup.policy", "delete", kmsg.ConfigTypeList,
		"What happens to old segments: delete (retention.ms, retention.bytes), compact (the last record of each key stays), or compact,delete.", cleanupPolicy},
	{"compression.type", "producer", kmsg.ConfigTypeString,
		"Batches are kept as their producer compressed them, or compressed anew: uncompressed, gzip, snappy, lz4, zstd.", compressionType},
	{"delete.retention.ms", "86400000", kmsg.ConfigTypeLong,
		"With compaction: milliseconds for which records without a value stay after they were first compacted.",
		timeSpan(0, func(c *topicConfig, d time.Duration) { c.log.TombstoneRetention = d })},
	{"flush.bytes", "16777216", kmsg.ConfigTypeLong,
		"With write.caching: bytes after which the log is made durable in the background.",
		integer(1, math.MaxInt64, func(c *topicConfig, v int64) { c.log.FlushBytes = v })},
	{"flush.ms", "1000", kmsg.ConfigTypeLong,
		"With write.caching: milliseconds after which the log is made durable in the background.",
		timeSpan(1, func(c *topicConfig, d time.Duration) { c.log.FlushInterval = d })},
	{"index.interval.bytes", "4096", kmsg.ConfigTypeInt,
		"Bytes of log for each entry of the offset index.",
		integer(1, math.MaxInt32, func(c *topicConfig, v int64) { c.log.IndexIntervalBytes = int(v) })},
	{"max.message.bytes", "1048588", kmsg.ConfigTypeInt,
		"The largest record batch that is accepted, in bytes.",
		integer(1024, 1<<30, func(c *topicConfig, v int64) { c.maxMessageBytes = int(v) })},
	{"message.timestamp.type", "CreateTime", kmsg.ConfigTypeString,
		"CreateTime: records keep the time that their producer gave them. LogAppendTime: they get the broker's.", timestampType},
	{"min.cleanable.dirty.ratio", "0.5", kmsg.ConfigTypeDouble,
		"With compaction: how much of the log must not be compacted yet, from 0 to 1, before that is done.", dirtyRatio},
	{"min.compaction.lag.ms", "0", kmsg.ConfigTypeLong,
		"With compaction: milliseconds for which every record stays.",
		timeSpan(0, func(c *topicConfig, d time.Duration) { c.log.MinCompactionLag = d })},
	{"min.insync.replicas", "1", kmsg.ConfigTypeInt,
		"This broker is alone.", only("1")},
	{"retention.bytes", "-1", kmsg.ConfigTypeLong,
		"Bytes of each partition that are kept, older segments are deleted; -1: all.",
		integer(-1, math.MaxInt64, func(c *topicConfig, v int64) { c.log.RetentionBytes = orNone(v) })},
	{"retention.ms", "-1", kmsg.ConfigTypeLong,
		"Milliseconds for which records are kept, by the youngest of their segment; -1: forever.",
		integer(-1, math.MaxInt64, func(c *topicConfig, v int64) { c.log.RetentionTime = duration(orNone(v)) })},
	{"segment.bytes", "1073741824", kmsg.ConfigTypeInt,
		"Size of a segment file at which the next one is begun.",
		integer(1<<14, math.MaxInt32, func(c *topicConfig, v int64) { c.log.SegmentBytes = v })},
	{"segment.ms", "604800000", kmsg.ConfigTypeLong,
		"Milliseconds between the first and the last record of a segment file at which the next one is begun.",
		timeSpan(1, func(c *topicConfig, d time.Duration) { c.log.SegmentAge = d })},
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

// orNone turns Kafka's limits into those of a log: -1, no limit, is 0 there, and
// 0, which keeps nothing but the newest, the least above.
func orNone(v int64) int64 {
	switch v {
	case -1:
		return 0
	case 0:
		return 1
	}
	return v
}

// duration returns ms milliseconds, or the longest time there is (292 years)
// where that is less.
func duration(ms int64) time.Duration {
	if ms > math.MaxInt64/int64(time.Millisecond) {
		return math.MaxInt64
	}
	return time.Duration(ms) * time.Millisecond
}

func timeSpan(least int64, set func(*topicConfig, time.Duration)) func(*topicConfig, string) error {
	return integer(least, math.MaxInt64, func(c *topicConfig, v int64) { set(c, duration(v)) })
}

// splitList reads a comma-separated list.
func splitList(v string) []string {
	var items []string
	for item := range strings.SplitSeq(v, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

func cleanupPolicy(c *topicConfig, v string) error {
	c.log.Delete, c.log.Compact = false, false
	for _, item := range splitList(v) {
		switch item {
		case "delete":
			c.log.Delete = true
		case "compact":
			c.log.Compact = true
		default:
			return fmt.Errorf("%q is neither delete nor compact", item)
		}
	}
	if !c.log.Delete && !c.log.Compact {
		return fmt.Errorf("%q names no policy: use delete, compact, or compact,delete", v)
	}
	return nil
}

func compressionType(c *topicConfig, v string) error {
	c.recompress, c.codec = false, protocol.None
	switch v {
	case "producer":
		return nil
	case "uncompressed":
		c.recompress = true
		return nil
	}
	codec, err := protocol.ParseCodec(v)
	if err != nil || codec == protocol.None {
		return fmt.Errorf("%q is not one of producer, uncompressed, gzip, snappy, lz4, zstd", v)
	}
	c.recompress, c.codec = true, codec
	return nil
}

func timestampType(c *topicConfig, v string) error {
	if v != "CreateTime" && v != "LogAppendTime" {
		return fmt.Errorf("%q is neither CreateTime nor LogAppendTime", v)
	}
	c.logAppendTime = v == "LogAppendTime"
	return nil
}

func dirtyRatio(c *topicConfig, v string) error {
	ratio, err := strconv.ParseFloat(v, 64)
	if err != nil || !(ratio >= 0 && ratio <= 1) {
		return fmt.Errorf("%q is not a number from 0 to 1", v)
	}
	c.log.MinDirtyRatio = ratio
	return nil
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
