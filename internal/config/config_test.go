package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// The transfer.yml that we ship is read whole, and says what its comments say.
func TestShippedExample(t *testing.T) {
	cfg, err := Load(filepath.Join("..", "..", "transfer.yml"))
	if err != nil {
		t.Fatal(err)
	}
	on := true
	wantBroker := Broker{
		Listen: []Listener{{Address: "127.0.0.1:9999"}}, Data: "./mft-data", AutoCreateTopics: &on, DefaultPartitions: 1,
		TopicDefaults: map[string]string{"write.caching": "false"}, LogLevel: "info", LogFormat: "console",
	}
	if !reflect.DeepEqual(cfg.Broker, wantBroker) {
		t.Errorf("broker: got %+v, want %+v", cfg.Broker, wantBroker)
	}
	if len(cfg.Brokers) != 1 || cfg.Brokers[0] != DefaultAddress {
		t.Errorf("brokers: %v", cfg.Brokers)
	}
	want := []Transfer{
		{
			Name: "documents", Topic: "documents", Group: "inbox", Streams: 1, Compression: "auto", Digest: "xxh3-128", Acks: "all",
			Source:      &Source{Paths: []string{"./outbox"}, Exclude: []string{"*.tmp", "*.part"}},
			Destination: &Destination{Path: "./inbox", OnConflict: "overwrite"},
		},
		{Name: "app-log", Topic: "app-log", Source: &Source{Paths: []string{"./app.log"}, Follow: true}},
	}
	for i := range cfg.Transfers {
		if cfg.Transfers[i].Line == 0 {
			t.Error("a transfer without its line")
		}
		cfg.Transfers[i].Line = 0
	}
	if !reflect.DeepEqual(cfg.Transfers, want) {
		t.Errorf("transfers:\ngot  %+v\nwant %+v", cfg.Transfers, want)
	}
}

func TestEmpty(t *testing.T) {
	for _, text := range []string{"", "# nothing but this\n", "---\n", "{}", "broker:\nbrokers:\ntransfers:\n"} {
		cfg, err := Parse("t.yml", []byte(text))
		if err != nil || len(cfg.Transfers) != 0 || cfg.Path != "t.yml" {
			t.Errorf("%q: %+v, %v", text, cfg, err)
		}
	}
}

func TestForms(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want Config
	}{
		"listeners": {
			"broker: {listen: [localhost, ':8001', {address: '0.0.0.0:8002', advertised: 'mft.example'}]}",
			Config{Broker: Broker{Listen: []Listener{{Address: "localhost:9999"}, {Address: ":8001"}, {Address: "0.0.0.0:8002", Advertised: "mft.example:9999"}}}},
		},
		"one listener":    {"broker: {listen: '[::1]:7'}", Config{Broker: Broker{Listen: []Listener{{Address: "[::1]:7"}}}}},
		"state":           {"state: /var/lib/mft", Config{State: "/var/lib/mft"}},
		"one broker":      {"brokers: a.example", Config{Brokers: []string{"a.example:9999"}}},
		"topic defaults":  {"broker: {topic_defaults: {write.caching: yes, flush.ms: 1_000}}", Config{Broker: Broker{TopicDefaults: map[string]string{"write.caching": "true", "flush.ms": "1000"}}}},
		"retention":       {"broker: {topic_defaults: {retention.ms: -1, cleanup.policy: [compact, delete], min.cleanable.dirty.ratio: 0.1}}", Config{Broker: Broker{TopicDefaults: map[string]string{"retention.ms": "-1", "cleanup.policy": "compact,delete", "min.cleanable.dirty.ratio": "0.1"}}}},
		"short transfer":  {"transfers: [{name: a, source: x}]", Config{Transfers: []Transfer{{Name: "a", Topic: "a", Source: &Source{Paths: []string{"x"}}, Line: 1}}}},
		"several sources": {"transfers: {topic: a, source: [x, y], acks: 1}", Config{Transfers: []Transfer{{Name: "a", Topic: "a", Acks: "1", Source: &Source{Paths: []string{"x", "y"}}, Line: 1}}}},
		"destination":     {"transfers: {name: the a, topic: a, destination: /in}", Config{Transfers: []Transfer{{Name: "the a", Topic: "a", Destination: &Destination{Path: "/in"}, Line: 1}}}},
		"no fsync":        {"transfers: {name: a, destination: {path: /in, fsync: no, receipts: yes}}", Config{Transfers: []Transfer{{Name: "a", Topic: "a", Destination: &Destination{Path: "/in", NoSync: true}, Line: 1}}}},
		"a key":           {"transfers: {name: a, source: x, encryption: k}", Config{Transfers: []Transfer{{Name: "a", Topic: "a", Source: &Source{Paths: []string{"x"}}, Encryption: &Encryption{Keys: []string{"k"}}, Line: 1}}}},
		"keys": {"transfers: {name: a, destination: x, encryption: {key: [k, l], passphrase_file: p, accept_plain: yes}}", Config{Transfers: []Transfer{{Name: "a", Topic: "a", Destination: &Destination{Path: "x"},
			Encryption: &Encryption{Keys: []string{"k", "l"}, PassphraseFiles: []string{"p"}, AcceptPlain: true}, Line: 1}}}},
		"resume":  {"transfers: {name: a, source: x, resume: no}", Config{Transfers: []Transfer{{Name: "a", Topic: "a", Resume: new(false), Source: &Source{Paths: []string{"x"}}, Line: 1}}}},
		"anchors": {"brokers: &b [a:1]\ntransfers: [{name: a, source: &s {path: x}}, {name: b, source: *s}]", Config{Brokers: []string{"a:1"}, Transfers: []Transfer{{Name: "a", Topic: "a", Source: &Source{Paths: []string{"x"}}, Line: 2}, {Name: "b", Topic: "b", Source: &Source{Paths: []string{"x"}}, Line: 2}}}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := Parse("", []byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(*cfg, c.want) {
				t.Errorf("got  %+v\nwant %+v", *cfg, c.want)
			}
		})
	}
}

// Every mistake is an *Error with the line, the key and what to write instead.
func TestMistakes(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"broker:\n  lisen: x\n", "t.yml, line 2: broker.lisen: unknown key: use one of listen, data, "},
		{"borker: {}\n", "t.yml, line 1: borker: unknown key: use one of broker, brokers, state, transfers"},
		{"broker:\n  data: a\n  data: b\n", "t.yml, line 3: broker.data: is there twice"},
		{"broker: [a]\n", "line 1: broker: give keys with values (key: value), not a list"},
		{"broker: {listen: {advertised: a}}\n", "broker.listen: a listener needs an address"},
		{"broker: {listen: 'a:b'}\n", `broker.listen: address "a:b": the port must be a number`},
		{"broker: {data: [a]}\n", "broker.data: give a text, not a list"},
		{"broker: {default_partitions: 0}\n", `broker.default_partitions: give a number from 1 to 10000, not "0"`},
		{"broker: {auto_create_topics: perhaps}\n", `give true or false, not "perhaps"`},
		{"broker: {log_level: loud}\n", `"loud" is not one of trace, debug`},
		{"transfers:\n- name: a\n  source: x\n  confirm: soon\n", "line 4: transfers[0].confirm: give a time such as 90s, 5m or 1h30m, not \"soon\""},
		{"transfers:\n- name: a\n  source: {path: x, follow: true}\n  confirm: 5m\n", "only files are confirmed: remove confirm, or source.follow"},
		{"transfers:\n- name: a\n  source: x\n  confirm: {by: g}\n", "line 4: transfers[0].confirm.by: unknown key: use one of timeout, group"},
		{"broker: {tls: {}}\n", "broker.tls: not supported by this version: remove it"},
		{"broker:\n  topic_defaults:\n    retention.ms: 5 days\n", "line 3: broker.topic_defaults.retention.ms: give a number from -1 to"},
		{"broker: {topic_defaults: {compression.type: none}}\n", `"none" is not one of producer, uncompressed`},
		{"broker: {topic_defaults: {write_caching: true}}\n", "unknown key: use one of cleanup.policy, "},
		{"brokers: ['tcp://a']\n", "brokers[0]: address"},
		{"transfers: [{topic: a}]\n", "transfers[0]: a transfer needs a source"},
		{"transfers: [{source: a}]\n", "transfers[0]: a transfer needs a name or a topic"},
		{"transfers: [{name: my files, source: a}]\n", `the name "my files" cannot be a topic: write topic: TOPIC`},
		{"transfers: [{topic: a/b, source: a}]\n", `"a/b" cannot be a topic`},
		{"transfers: [{topic: .., source: a}]\n", `".." cannot be a topic`},
		{"transfers:\n- {name: a, source: x}\n- {name: a, source: y}\n", `line 3: transfers[1].name: "a" is the name of the transfer in line 2 too`},
		{"transfers: [{name: a, source: {exclude: x}}]\n", "transfers[0].source: a source needs a path"},
		{"transfers: [{name: a, source: {path: x, exclude: '[' }}]\n", `"[" is not a glob`},
		{"transfers: [{name: a, source: {path: x, follow: true, realtime: true}}]\n", "remove one of them"},
		{"transfers: [{name: a, source: {path: x, watch: true, realtime: true}}]\n", "choose one"},
		{"transfers: [{name: a, confirm: true, source: {path: x, realtime: true}}]\n", "remove confirm"},
		{"transfers: [{name: a, source: {path: [x, y], follow: true}}]\n", "follow needs exactly one path"},
		{"transfers: [{name: a, destination: {}}]\n", "transfers[0].destination: a destination needs a path"},
		{"transfers: [{name: a, source: x, acks: some}]\n", `acks: "some" is not one of all, 1, 0`},
		{"transfers: [{name: a, source: {path: x, after: delete}}]", "after is of a watched directory: add watch: true"},
		{"transfers: [{name: a, source: {path: x, watch: true, after: move}}]", `"move" is not one of keep, delete, move=DIR`},
		{"transfers: [{name: a, source: {path: x, watch: true, follow: true}}]", "choose one"},
		{"transfers: [{name: a, source: {path: x, watch: true, settle: 2}}]", `settle: give a time`},
		{"transfers: [{name: a, source: {path: x, watch: true, done_marker: a/b}}]", "give the end of a name"},
		{"transfers:\n- name: a\n  streams: 33\n  source: x\n", `line 3: transfers[0].streams: give a number from 1 to 32, not "33"`},
		{"transfers: [{name: a, streams: 2, source: {path: x, follow: true}}]\n", "only files go over several streams"},
		{"transfers: [{name: a, destination: {path: x, on_conflict: keep}}]\n", `on_conflict: "keep" is not one of overwrite, rename, skip, fail`},
		{"transfers: [{name: a, destination: {path: x, exec: {timeout: 5m}}}]\n", "exec: exec needs a command"},
		{"transfers: [{name: a, destination: {path: x, exec: {command: c, timeout: soon}}}]\n", "exec.timeout: give a time such as 90s"},
		{"broker: {}\nb: c: d\n", "t.yml, line 2: mapping values are not allowed"},
		{"\tx\n", "t.yml: found character that cannot start"},
		{"{}\n---\n{}\n", "line 2: a second document"},
		{"just text\n", `t.yml, line 1: give keys with values (key: value), not "just text"`},
	} {
		_, err := Parse("t.yml", []byte(c.text))
		if _, ok := errors.AsType[*Error](err); !ok || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q:\ngot  %v\nwant %s", c.text, err, c.want)
		}
	}
}

func TestLoad(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "none.yml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	large := filepath.Join(t.TempDir(), "large.yml")
	if err := os.WriteFile(large, make([]byte, maxFileBytes+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(large); err == nil || !strings.Contains(err.Error(), "this is not a transfer.yml") {
		t.Errorf("a large file: %v", err)
	}
}

func TestSelect(t *testing.T) {
	cfg, err := Parse("t.yml", []byte("transfers: [{name: a, source: x}, {name: b, destination: y}, {name: c, source: x, destination: y}]"))
	if err != nil {
		t.Fatal(err)
	}
	names := func(transfers []Transfer, err error) string {
		if err != nil {
			return err.Error()
		}
		var all []string
		for _, t := range transfers {
			all = append(all, t.Name)
		}
		return strings.Join(all, " ")
	}
	for _, c := range []struct{ got, want string }{
		{names(cfg.Sources(nil)), "a c"},
		{names(cfg.Destinations(nil)), "b c"},
		{names(cfg.Sources([]string{"c", "a"})), "c a"},
		{names(cfg.Sources([]string{"b"})), `t.yml, line 1: transfers: "b" lacks a source`},
		{names(cfg.Sources([]string{"d"})), `t.yml: transfers: no transfer is named "d"; there are: a, b, c`},
		{names((&Config{Path: "e.yml"}).Sources(nil)), "e.yml: transfers: no transfer here has a source"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func TestParseAddress(t *testing.T) {
	for in, want := range map[string]string{
		"host": "host:9999", "host:1": "host:1", ":1": ":1", "127.0.0.1": "127.0.0.1:9999", "0.0.0.0:0": "0.0.0.0:0",
		"::1": "[::1]:9999", "[::1]": "[::1]:9999", "[::1]:5": "[::1]:5", " host:1 ": "host:1", "fe80::1%eth0": "",
		"": "", "a:b": "", "a:65536": "", "a:-1": "", "a:1:2": "", "http://a:1": "", "a b:1": "", "[::1": "", "8000": "",
	} {
		got, err := ParseAddress(in)
		if (err == nil) != (want != "") || got != want {
			t.Errorf("%q: got %q, %v; want %q", in, got, err, want)
		}
	}
}

// FuzzParse: whatever the text, Parse answers with an *Error that names the
// file, or with transfers that can be run.
func FuzzParse(f *testing.F) {
	shipped, err := os.ReadFile(filepath.Join("..", "..", "transfer.yml"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(shipped)
	f.Add([]byte(original))
	f.Add([]byte("a: &a [*a]\nbroker: *a\n"))
	f.Add([]byte("transfers: [{name: a, source: x}]"))
	f.Add([]byte("{? [a] : b}"))
	f.Add([]byte("transfer: {destinationhost: /, destinationfolder: x}"))
	f.Add([]byte("socketserver: {host: /}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg, err := Parse("t.yml", text)
		if err != nil {
			if e, ok := errors.AsType[*Error](err); !ok || e.Path != "t.yml" || e.Reason == "" || e.Line < 0 {
				t.Fatalf("%#v", err)
			}
			return
		}
		seen := map[string]bool{}
		for _, transfer := range cfg.Transfers {
			if transfer.Name == "" || !topicName.MatchString(transfer.Topic) || seen[transfer.Name] {
				t.Fatalf("%+v", transfer)
			}
			if transfer.Source == nil && transfer.Destination == nil {
				t.Fatalf("%+v", transfer)
			}
			seen[transfer.Name] = true
		}
		addresses := cfg.Brokers
		for _, l := range cfg.Broker.Listen {
			addresses = append(addresses, l.Address)
		}
		for _, broker := range addresses {
			if again, err := ParseAddress(broker); err != nil || again != broker {
				t.Fatalf("%q is parsed to %q, %v", broker, again, err)
			}
		}
	})
}
