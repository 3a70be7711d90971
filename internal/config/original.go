package config

import (
	"net"
	"path/filepath"
	"strconv"
	"strings"
)

// OriginalTopic carries the transfers of a file in the original utility's
// form, which has no topics, when there is only one of them. Several get
// numbers: transfer-1, transfer-2.
const OriginalTopic = "transfer"

// readOriginal reads the form of the original utility:
//
//	socketserver:
//	  port: 9999
//	transfer:
//	  destinationhost: 10.0.0.5
//	  destinationport: 9999
//	  destinationfolder: /data/in
//	  sourcefilename: report.csv
//	  sourcefilepath: /data/out
//	  realtimeflag: false
//
// The socket server becomes the broker, each transfer a source and a
// destination on a topic.
func readOriginal(r *reader, root *mapping, cfg *Config) {
	root.take("socketserver", func(v value) { readSocketServer(newMapping(r, v.node, v.key), cfg) })
	root.take("transfer", func(v value) {
		items := v.items()
		for i, item := range items {
			topic := OriginalTopic
			if len(items) > 1 {
				topic += "-" + strconv.Itoa(i+1)
			}
			readOriginalTransfer(newMapping(r, item.node, item.key), topic, cfg)
		}
	})
	root.done("socketserver", "transfer")
}

// readSocketServer takes host, port and compression in the spellings that may
// be met; a host that is not given means every address, as it did there.
func readSocketServer(m *mapping, cfg *Config) {
	host, port := "", int64(DefaultPort)
	for _, name := range []string{"host", "address", "hostname", "bindaddress", "serverhost", "socketserverhost"} {
		m.take(name, func(v value) { host = v.host(&port) })
	}
	for _, name := range []string{"port", "serverport", "socketserverport"} {
		m.take(name, func(v value) { port = v.int(1, 65535) })
	}
	for _, key := range m.keys {
		m.take(key.Value, func(v value) { m.r.note("line %d: %s has no meaning here and is left out", v.node.Line, v.key) })
	}
	cfg.Broker.Listen = []Listener{{Address: net.JoinHostPort(host, strconv.FormatInt(port, 10))}}
}

func readOriginalTransfer(m *mapping, topic string, cfg *Config) {
	t := Transfer{Name: topic, Topic: topic, Line: m.node.Line}
	host, port := "127.0.0.1", int64(DefaultPort)
	var folder, name, dir string
	var realtime bool
	m.take("destinationhost", func(v value) { host = v.host(&port) })
	m.take("destinationport", func(v value) { port = v.int(1, 65535) })
	m.take("destinationfolder", func(v value) { folder = v.string() })
	m.take("sourcefilename", func(v value) { name = v.string() })
	m.take("sourcefilepath", func(v value) { dir = v.string() })
	m.take("realtimeflag", func(v value) {
		realtime = v.bool()
	})
	m.take("compression", func(v value) { t.Compression = originalCompression(v) })
	m.done("destinationhost", "destinationport", "destinationfolder", "sourcefilename", "sourcefilepath", "realtimeflag", "compression")

	if source := joinSource(dir, name); source != "" {
		t.Source = &Source{Paths: []string{source}, Realtime: realtime}
	}
	if folder != "" {
		t.Destination = &Destination{Path: folder}
	}
	if t.Source == nil && t.Destination == nil {
		m.fail("a transfer needs sourcefilepath and sourcefilename, destinationfolder, or all three")
	}
	address := net.JoinHostPort(host, strconv.FormatInt(port, 10))
	if len(cfg.Brokers) > 0 && cfg.Brokers[0] != address {
		m.fail("goes to %s, another transfer of this file to %s: write one file for each destination", address, cfg.Brokers[0])
	}
	cfg.Brokers = []string{address}
	cfg.Transfers = append(cfg.Transfers, t)
}

// joinSource puts the path and name of the source together. Either may be
// missing, and the path may already end in the name.
func joinSource(dir, name string) string {
	if dir == "" || name == "" {
		return dir + name
	}
	if filepath.IsAbs(name) || filepath.Base(dir) == name && !strings.HasSuffix(dir, "/") {
		if filepath.IsAbs(name) {
			return name
		}
		return dir
	}
	return filepath.Join(dir, name)
}

// originalCompression reads a switch or the name of a codec.
func originalCompression(v value) string {
	switch s := strings.ToLower(v.string()); s {
	case "true", "yes", "on", "1":
		return "auto"
	case "false", "no", "off", "0", "none":
		return "none"
	case "auto", "zstd", "lz4", "snappy", "gzip":
		return s
	}
	v.fail("give true, false or one of auto, zstd, lz4, snappy, gzip, none")
	return ""
}
