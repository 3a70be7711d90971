package config

import (
	"fmt"
	"math"
	"path"
	"regexp"
	"strings"

	"gopkg.in/yaml.v3"
)

// topicConfigs are the topic settings that broker.topic_defaults may hold, by
// Kafka's names.
var topicConfigs = []string{
	"cleanup.policy", "compression.type", "delete.retention.ms", "flush.bytes", "flush.ms", "index.interval.bytes", "max.message.bytes",
	"message.timestamp.type", "min.cleanable.dirty.ratio", "min.compaction.lag.ms", "retention.bytes", "retention.ms", "segment.bytes",
	"segment.ms", "write.caching",
}

// maxStreams is what producer and consumer take.
const maxStreams = 32

// readConfig reads the form of this version.
func readConfig(r *reader, root *mapping, cfg *Config) {
	root.take("broker", func(v value) { readBroker(newMapping(r, v.node, v.key), &cfg.Broker) })
	root.take("brokers", func(v value) {
		for _, item := range v.items() {
			cfg.Brokers = append(cfg.Brokers, item.address())
		}
	})
	root.take("state", func(v value) { cfg.State = v.string() })
	root.take("transfers", func(v value) {
		names := map[string]int{}
		for _, item := range v.items() {
			t := readTransfer(newMapping(r, item.node, item.key))
			if line, ok := names[t.Name]; ok && t.Name != "" {
				r.fail(t.Line, item.key+".name", "%q is the name of the transfer in line %d too: give each its own", t.Name, line)
			}
			names[t.Name] = t.Line
			cfg.Transfers = append(cfg.Transfers, t)
		}
	})
	root.done("broker", "brokers", "state", "transfers")
}

func readBroker(m *mapping, b *Broker) {
	m.take("listen", func(v value) {
		for _, item := range v.items() {
			b.Listen = append(b.Listen, readListener(item))
		}
	})
	m.take("data", func(v value) { b.Data = v.string() })
	m.take("auto_create_topics", func(v value) { on := v.bool(); b.AutoCreateTopics = &on })
	m.take("default_partitions", func(v value) { b.DefaultPartitions = int32(v.int(1, 10_000)) })
	m.take("log_level", func(v value) { b.LogLevel = v.oneOf("trace", "debug", "info", "warn", "error", "off") })
	m.take("log_format", func(v value) { b.LogFormat = v.oneOf("console", "json") })
	m.take("topic_defaults", func(v value) { b.TopicDefaults = readTopicDefaults(newMapping(v.r, v.node, v.key)) })
	m.later("tls", "auth", "metrics", "dashboard", "quotas")
	m.done("listen", "data", "auto_create_topics", "default_partitions", "topic_defaults", "log_level", "log_format")
}

// readListener reads "host:port", or a mapping of address and advertised.
func readListener(v value) (l Listener) {
	if v.node.Tag == "!!str" || v.node.Tag == "!!int" {
		l.Address = v.address()
		return l
	}
	m := newMapping(v.r, v.node, v.key)
	m.take("address", func(v value) { l.Address = v.address() })
	m.take("advertised", func(v value) { l.Advertised = v.address() })
	m.later("tls", "auth")
	m.done("address", "advertised")
	if l.Address == "" {
		v.fail("a listener needs an address: write address: HOST:PORT")
	}
	return l
}

func readTopicDefaults(m *mapping) map[string]string {
	defaults := map[string]string{}
	for _, name := range topicConfigs {
		m.take(name, func(v value) {
			switch name {
			case "write.caching":
				defaults[name] = fmt.Sprint(v.bool())
			case "cleanup.policy":
				defaults[name] = strings.Join(v.strings(), ",")
			case "compression.type":
				defaults[name] = v.oneOf("producer", "uncompressed", "gzip", "snappy", "lz4", "zstd")
			case "message.timestamp.type":
				defaults[name] = v.oneOf("CreateTime", "LogAppendTime")
			case "min.cleanable.dirty.ratio":
				defaults[name] = v.string()
			case "retention.bytes", "retention.ms":
				defaults[name] = fmt.Sprint(v.int(-1, math.MaxInt64))
			case "delete.retention.ms", "min.compaction.lag.ms":
				defaults[name] = fmt.Sprint(v.int(0, math.MaxInt64))
			default:
				defaults[name] = fmt.Sprint(v.int(1, math.MaxInt64))
			}
		})
	}
	m.done(topicConfigs...)
	return defaults
}

var topicName = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

// readTopic checks a topic's name by Kafka's rule.
func readTopic(v value) string {
	s := v.string()
	if !topicName.MatchString(s) || s == "." || s == ".." {
		v.fail("%q cannot be a topic: use up to 249 letters, digits, '.', '_' and '-'", s)
	}
	return s
}

func readTransfer(m *mapping) (t Transfer) {
	t.Line = m.node.Line
	m.take("name", func(v value) { t.Name = v.string() })
	m.take("topic", func(v value) { t.Topic = readTopic(v) })
	m.take("group", func(v value) { t.Group = v.string() })
	m.take("streams", func(v value) { t.Streams = int(v.int(1, maxStreams)) })
	m.take("compression", func(v value) { t.Compression = v.oneOf("none", "auto", "zstd", "lz4", "snappy", "gzip") })
	m.take("digest", func(v value) { t.Digest = v.oneOf("xxh3-128", "sha256", "blake3") })
	m.take("acks", func(v value) { t.Acks = v.oneOf("all", "1", "0") })
	m.take("source", func(v value) { t.Source = readSource(v) })
	m.take("destination", func(v value) { t.Destination = readDestination(v) })
	m.take("confirm", func(v value) { t.Confirm = readConfirm(v) })
	m.take("encryption", func(v value) { t.Encryption = readEncryption(v) })
	m.take("limit", func(v value) { t.Limit = readLimit(v) })
	m.take("resume", func(v value) { on := v.bool(); t.Resume = &on })
	m.take("retries", func(v value) { n := int(v.int(0, 1000)); t.Retries = &n })
	m.done("name", "topic", "group", "streams", "compression", "digest", "acks", "confirm", "encryption", "limit", "resume", "retries", "source", "destination")

	switch {
	case t.Name == "" && t.Topic == "":
		m.fail("a transfer needs a name or a topic: write name: NAME")
	case t.Name == "":
		t.Name = t.Topic
	case t.Topic == "":
		if !topicName.MatchString(t.Name) {
			m.fail("the name %q cannot be a topic: write topic: TOPIC", t.Name)
		}
		t.Topic = t.Name
	}
	if t.Source == nil && t.Destination == nil {
		m.fail("a transfer needs a source (what mft-produce sends), a destination (where mft-consume writes), or both")
	}
	if t.Streams > 1 && t.Source != nil && t.Source.Follow {
		m.fail("only files go over several streams: remove streams, or source.follow")
	}
	if t.Confirm != nil && t.Source != nil && t.Source.Follow {
		m.fail("only files are confirmed: remove confirm, or source.follow")
	}
	if t.Confirm != nil && t.Source != nil && t.Source.Realtime {
		m.fail("what grows has no end that could be confirmed: remove confirm, or source.realtime")
	}
	if t.Encryption != nil && t.Source != nil && t.Source.Follow {
		m.fail("only files are encrypted: remove encryption, or source.follow")
	}
	if t.Encryption != nil {
		switch t.Compression {
		case "lz4", "snappy", "gzip":
			m.fail("what is encrypted is compressed by zstd: write compression: auto, zstd or none, not %s", t.Compression)
		}
	}
	return t
}

// readConfirm reads a truth, a time, or a mapping.
func readConfirm(v value) *Confirm {
	c := &Confirm{}
	wait := func(v value) { d := v.duration(); c.Timeout = &d }
	if v.node.Kind == yaml.MappingNode {
		m := newMapping(v.r, v.node, v.key)
		m.take("timeout", wait)
		m.take("group", func(v value) { c.Group = v.string() })
		m.done("timeout", "group")
		return c
	}
	switch v.node.Tag {
	case "!!bool":
		if !v.bool() {
			return nil
		}
	default:
		wait(v)
	}
	return c
}

// readEncryption reads a key file, a list of them, or a mapping.
func readEncryption(v value) *Encryption {
	e := &Encryption{}
	if v.node.Kind != yaml.MappingNode {
		e.Keys = v.strings()
		return e
	}
	m := newMapping(v.r, v.node, v.key)
	m.take("key", func(v value) { e.Keys = v.strings() })
	m.take("passphrase_file", func(v value) { e.PassphraseFiles = v.strings() })
	m.take("accept_plain", func(v value) { e.AcceptPlain = v.bool() })
	m.done("key", "passphrase_file", "accept_plain")
	if len(e.Keys)+len(e.PassphraseFiles) == 0 {
		v.fail("encryption needs a key: write key: FILE, or passphrase_file: FILE")
	}
	return e
}

// readSource reads a path, a list of paths, or a mapping.
func readSource(v value) *Source {
	s := &Source{}
	if v.node.Tag != "!!map" {
		s.Paths = v.strings()
		return s
	}
	m := newMapping(v.r, v.node, v.key)
	m.take("path", func(v value) { s.Paths = append(s.Paths, v.strings()...) })
	m.take("paths", func(v value) { s.Paths = append(s.Paths, v.strings()...) })
	m.take("include", func(v value) { s.Include = readGlobs(v) })
	m.take("exclude", func(v value) { s.Exclude = readGlobs(v) })
	m.take("owner", func(v value) { s.Owner = v.bool() })
	m.take("xattrs", func(v value) { s.Xattrs = v.bool() })
	m.take("follow", func(v value) { s.Follow = v.bool() })
	m.take("realtime", func(v value) { s.Realtime = v.bool() })
	readWatch(m, s)
	m.done("path", "include", "exclude", "owner", "xattrs", "follow", "realtime", "watch", "done_marker", "settle", "scan_every", "after")
	if len(s.Paths) == 0 {
		v.fail("a source needs a path: write path: FILE_OR_DIRECTORY")
	}
	if s.Follow && s.Realtime {
		v.fail("follow sends the lines of a growing file as records, realtime the file itself: remove one of them")
	}
	if s.Follow && len(s.Paths) != 1 {
		v.fail("follow needs exactly one path, that of the growing file")
	}
	if s.Realtime && s.Watch != nil {
		v.fail("realtime mirrors files while they grow, watch sends them when they are complete: choose one")
	}
	if s.Follow && s.Watch != nil {
		v.fail("follow sends the lines of a file, watch sends files of directories: choose one")
	}
	return s
}

// readWatch reads watch: true and what belongs to it.
func readWatch(m *mapping, s *Source) {
	var (
		w    Watch
		on   bool
		only string // the first key that needs watch
	)
	m.take("watch", func(v value) { on = v.bool() })
	take := func(name string, read func(value)) {
		m.take(name, func(v value) {
			if read(v); only == "" {
				only = name
			}
		})
	}
	take("done_marker", func(v value) {
		if w.DoneMarker = v.string(); strings.ContainsAny(w.DoneMarker, `/\`) {
			v.fail("give the end of a name, as .done")
		}
	})
	take("settle", func(v value) { w.Settle = v.duration() })
	take("scan_every", func(v value) { w.ScanEvery = v.duration() })
	take("after", func(v value) {
		w.After = v.string()
		if dir, move := strings.CutPrefix(w.After, "move="); w.After != "keep" && w.After != "delete" && (!move || dir == "") {
			v.fail("%q is not one of keep, delete, move=DIR", w.After)
		}
	})
	if on {
		s.Watch = &w
	} else if only != "" {
		m.fail("%s is of a watched directory: add watch: true", only)
	}
}

func readGlobs(v value) []string {
	globs := v.strings()
	for _, glob := range globs {
		if _, err := path.Match(glob, ""); err != nil {
			v.fail("%q is not a glob: check its brackets", glob)
		}
	}
	return globs
}

// readExec reads a command line, a list of its words, or a mapping.
func readExec(v value) *Exec {
	e := &Exec{}
	command := func(v value) {
		if v.node.Kind == yaml.SequenceNode {
			e.Words = v.strings()
		} else {
			e.Line = v.string()
		}
	}
	if v.node.Kind != yaml.MappingNode {
		command(v)
		return e
	}
	m := newMapping(v.r, v.node, v.key)
	m.take("command", command)
	m.take("timeout", func(v value) { e.Timeout = v.duration() })
	m.take("tries", func(v value) { e.Tries = int(v.int(1, 1000)) })
	m.take("parallel", func(v value) { e.Parallel = int(v.int(1, 1000)) })
	m.done("command", "timeout", "tries", "parallel")
	if e.Line == "" && len(e.Words) == 0 {
		v.fail("exec needs a command: write command: PROGRAM {}")
	}
	return e
}

// readDestination reads a path, or a mapping.
func readDestination(v value) *Destination {
	d := &Destination{}
	if v.node.Kind == yaml.ScalarNode {
		d.Path = v.string()
		return d
	}
	m := newMapping(v.r, v.node, v.key)
	m.take("path", func(v value) { d.Path = v.string() })
	m.take("receipts", func(v value) { d.NoReceipts = !v.bool() })
	m.take("fsync", func(v value) { d.NoSync = !v.bool() })
	m.take("on_conflict", func(v value) { d.OnConflict = v.oneOf("overwrite", "rename", "skip", "fail") })
	m.take("route", func(v value) { d.Route = v.string() })
	m.take("exec", func(v value) { d.Exec = readExec(v) })
	m.take("owner", func(v value) { d.Owner = v.bool() })
	m.take("xattrs", func(v value) { d.Xattrs = v.bool() })
	m.take("unsafe_links", func(v value) { d.UnsafeLinks = v.bool() })
	m.done("path", "on_conflict", "route", "exec", "receipts", "fsync", "owner", "xattrs", "unsafe_links")
	if d.Path == "" {
		v.fail("a destination needs a path: write path: DIRECTORY")
	}
	return d
}
