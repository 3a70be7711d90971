package config

import (
	"reflect"
	"strings"
	"testing"
)

const original = `
socketserver:
  host: 0.0.0.0
  port: 9990
transfer:
  destinationhost: files.example
  destinationport: 9990
  destinationfolder: /data/in
  sourcefilename: report.csv
  sourcefilepath: /data/out
  realtimeflag: false
`

// The original utility's form becomes a broker, a source and a destination.
func TestOriginal(t *testing.T) {
	cfg, err := Parse("t.yml", []byte(original))
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Path:    "t.yml",
		Broker:  Broker{Listen: []Listener{{Address: "0.0.0.0:9990"}}},
		Brokers: []string{"files.example:9990"},
		Transfers: []Transfer{{
			Name: "transfer", Topic: "transfer", Line: 6,
			Source:      &Source{Paths: []string{"/data/out/report.csv"}},
			Destination: &Destination{Path: "/data/in"},
		}},
	}
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("got  %+v\nwant %+v", cfg, want)
	}
}

func TestOriginalVariants(t *testing.T) {
	for name, c := range map[string]struct {
		text   string
		broker string   // the listener
		paths  []string // of the sources, one for each transfer
		note   string
	}{
		"receiver only":      {"socketserver: {port: 9999}", ":9999", nil, ""},
		"default port":       {"socketserver: {host: 10.0.0.1}", "10.0.0.1:9999", nil, ""},
		"address":            {"socketserver: {address: '10.0.0.1:77'}", "10.0.0.1:77", nil, ""},
		"other keys":         {"socketserver: {port: 1, backlog: 50}", ":1", nil, "socketserver.backlog has no meaning here"},
		"realtime":           {"transfer: {sourcefilename: /a/b, realtimeflag: true}", "", []string{"/a/b"}, ""},
		"path with the name": {"transfer: {sourcefilepath: /a/b.txt, sourcefilename: b.txt}", "", []string{"/a/b.txt"}, ""},
		"path with a slash":  {"transfer: {sourcefilepath: /a/, sourcefilename: b.txt}", "", []string{"/a/b.txt"}, ""},
		"directory":          {"transfer: {sourcefilepath: /a/}", "", []string{"/a/"}, ""},
		"several":            {"transfer: [{sourcefilename: a}, {sourcefilename: b}]", "", []string{"a", "b"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := Parse("t.yml", []byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			if got := cfg.Broker.Listen; c.broker == "" && got != nil || c.broker != "" && (len(got) != 1 || got[0].Address != c.broker) {
				t.Errorf("listens on %v, want %q", got, c.broker)
			}
			var paths []string
			for _, transfer := range cfg.Transfers {
				paths = append(paths, transfer.Source.Paths...)
				if want := name == "realtime"; transfer.Source.Realtime != want {
					t.Errorf("realtime %v, want %v", transfer.Source.Realtime, want)
				}
			}
			if !reflect.DeepEqual(paths, c.paths) {
				t.Errorf("sends %v, want %v", paths, c.paths)
			}
			if notes := strings.Join(cfg.Notes, "\n"); c.note == "" && notes != "" || !strings.Contains(notes, c.note) {
				t.Errorf("notes %q, want %q", notes, c.note)
			}
		})
	}
}

func TestOriginalMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"transfer:\n  destinationhots: a\n":        "line 2: transfer.destinationhots: unknown key: use one of destinationhost, ",
		"transfer: {destinationhost: a}":           "transfer: a transfer needs sourcefilepath",
		"socketserver: {port: many}":               `socketserver.port: give a number from 1 to 65535, not "many"`,
		"socketserver: {port: 1}\ntransfers: []\n": "line 2: transfers: unknown key: use one of socketserver, transfer",
		"transfer: [{destinationhost: a, sourcefilename: x}, {destinationhost: b, sourcefilename: x}]": "write one file for each destination",
	} {
		if _, err := Parse("t.yml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q:\ngot  %v\nwant %s", text, err, want)
		}
	}
}
