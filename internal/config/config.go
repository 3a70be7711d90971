// Package config reads transfer.yml: the one file that says where a broker
// listens and keeps its data, and which transfers the producer and the
// consumer run. It is strict: a key it does not know is an error with its line.
//
// The form of the original utility (socketserver: and transfer:) is read too
// and turned into the same Config; see docs/from-the-original.md.
package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// Config is what a transfer.yml says. The zero value is one that says nothing.
type Config struct {
	Path      string     // the file it was read from, "" for none
	Broker    Broker     // of mft-broker
	Brokers   []string   // HOST:PORT of the brokers that clients ask first
	Transfers []Transfer // in the order of the file
	State     string     // directory where mft-produce remembers what outlives it; "" for the default
	Notes     []string   // what the user should be told: accepted, but not done as it says
}

// Broker is the section broker. Zero values mean: not said, use the default.
type Broker struct {
	Listen            []Listener
	Data              string
	AutoCreateTopics  *bool
	DefaultPartitions int32
	TopicDefaults     map[string]string // Kafka's names: "write.caching": "true"
	LogLevel          string
	LogFormat         string
}

// Listener is one address of the broker.
type Listener struct {
	Address    string // HOST:PORT to bind
	Advertised string // HOST:PORT that clients are told, "" for the address they came in by
}

// Transfer is one entry of transfers: a source, a destination, or both, joined
// by a topic.
type Transfer struct {
	Name        string
	Topic       string // the name when not given
	Group       string // consumer group; "" for the command's default
	Streams     int    // connections at a time, each way; 0 for the default
	Compression string // none, auto, zstd, lz4, snappy, gzip; "" for the default
	Digest      string // xxh3-128, sha256, blake3; "" for the default
	Acks        string // all, 1, 0; "" for the default
	Resume      *bool  // nil: not said
	Source      *Source
	Destination *Destination
	Encryption  *Encryption // nil: files travel in clear
	Confirm     *Confirm    // nil: receivers are not waited for
	Limit       Limit       // how fast, on the wire
	Retries     *int        // of files that cannot be sent; nil for the default
	Line        int         // where it stands in the file
}

// Source says what a producer sends: files and directories, or the lines of
// one growing file.
type Source struct {
	Paths   []string
	Include []string // globs; with none, everything
	Exclude []string // globs
	Owner   bool     // send owner and group
	Xattrs  bool     // send extended attributes
	Follow  bool     // send the lines of the file as records, as they are written
	// Realtime mirrors the files while they grow.
	Realtime bool
	Watch    *Watch // send files of the directories as they become complete; nil: send what there is
}

// Watch says when a file of a watched directory is sent, and what then becomes
// of it. What is empty is the command's default.
type Watch struct {
	DoneMarker string        // end of the name of the file that makes another one complete
	Settle     time.Duration // without a change until a file is complete
	ScanEvery  time.Duration // between two looks at everything
	After      string        // keep, delete or move=DIR
}

// Destination says where a consumer puts files.
type Destination struct {
	Path       string
	OnConflict string // overwrite, rename, skip or fail; "": not given
	NoReceipts bool   // write none
	NoSync     bool   // do not wait for the disk
	Route      string // a template of names; "": not given
	Exec       *Exec  // what is run after each file; nil: not given

	Owner       bool // set owner and group
	Xattrs      bool // set extended attributes
	UnsafeLinks bool // make links that lead out of the directory
}

// Exec is a command. Line or Words is set.
type Exec struct {
	Line     string        // to be cut into words
	Words    []string      // the program and its arguments
	Timeout  time.Duration // of one run; 0: not given
	Tries    int           // 0: not given
	Parallel int           // at a time; 0: not given
}

// Confirm says that receivers are waited for.
type Confirm struct {
	Timeout *time.Duration // without a confirmation; nil: not given, 0: for ever
	Group   string         // whose receivers count; "": any
}

// Encryption says what files are encrypted with, end to end. There is a key
// file or a passphrase file. The first key of the first file encrypts, all
// decrypt.
type Encryption struct {
	Keys            []string // key files
	PassphraseFiles []string // used to encrypt when there are no Keys
	AcceptPlain     bool     // receive files that are not encrypted, too
}

// Error is a transfer.yml that cannot be used.
type Error struct {
	Path   string
	Line   int    // 0 when it concerns the whole file
	Key    string // "transfers[0].source.path", "" when there is none
	Reason string // what is wrong and what to write instead
}

// Error names file, line and key.
func (e *Error) Error() string {
	text := e.Path
	if e.Line > 0 {
		text += fmt.Sprintf(", line %d", e.Line)
	}
	if e.Key != "" {
		text += ": " + e.Key
	}
	return text + ": " + e.Reason
}

const maxFileBytes = 1 << 20

// Load reads and checks the file at path. A file that is wrong gives an
// *Error, one that cannot be read the error of the system.
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	if len(text) > maxFileBytes {
		return nil, &Error{Path: path, Reason: "larger than 1 MiB: this is not a transfer.yml"}
	}
	return Parse(path, text)
}

// Parse checks the text of a transfer.yml; path is for its errors.
func Parse(path string, text []byte) (*Config, error) {
	var doc yaml.Node
	decoder := yaml.NewDecoder(strings.NewReader(string(text)))
	if err := decoder.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return &Config{Path: path}, nil
		}
		return nil, syntaxError(path, err)
	}
	var second yaml.Node
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		if err != nil {
			return nil, syntaxError(path, err)
		}
		return nil, &Error{Path: path, Line: second.Line, Reason: "a second document: keep everything in one, without a line of ---"}
	}
	cfg := &Config{Path: path}
	r := &reader{path: path, notes: &cfg.Notes}
	root := newMapping(r, doc.Content[0], "")
	if root.has("socketserver") || root.has("transfer") {
		readOriginal(r, root, cfg)
	} else {
		readConfig(r, root, cfg)
	}
	if r.err != nil {
		return nil, r.err
	}
	return cfg, nil
}

// syntaxError takes the line out of the YAML reader's error text, the only
// place where it stands.
func syntaxError(path string, err error) *Error {
	e := &Error{Path: path, Reason: strings.TrimPrefix(err.Error(), "yaml: ")}
	if found := yamlLine.FindStringSubmatch(e.Reason); found != nil {
		if line, err := strconv.Atoi(found[1]); err == nil {
			e.Line, e.Reason = line, found[2]
		}
	}
	return e
}

var yamlLine = regexp.MustCompile(`(?s)^line (\d+): (.+)$`)

// Select returns the transfers with the given names, in that order, or all of
// them when there are no names. want says which a command can run and what the
// others lack, such as "a source".
func (c *Config) Select(names []string, want func(Transfer) bool, lack string) ([]Transfer, error) {
	var chosen []Transfer
	if len(names) == 0 {
		for _, t := range c.Transfers {
			if want(t) {
				chosen = append(chosen, t)
			}
		}
		if len(chosen) == 0 {
			return nil, &Error{Path: c.Path, Key: "transfers", Reason: "no transfer here has " + lack}
		}
		return chosen, nil
	}
	for _, name := range names {
		t, ok := c.find(name)
		if !ok {
			return nil, &Error{Path: c.Path, Key: "transfers", Reason: fmt.Sprintf("no transfer is named %q; there are: %s", name, c.names())}
		}
		if !want(t) {
			return nil, &Error{Path: c.Path, Line: t.Line, Key: "transfers", Reason: fmt.Sprintf("%q lacks %s", name, lack)}
		}
		chosen = append(chosen, t)
	}
	return chosen, nil
}

// Sources selects the transfers that mft-produce runs.
func (c *Config) Sources(names []string) ([]Transfer, error) {
	return c.Select(names, func(t Transfer) bool { return t.Source != nil }, "a source")
}

// Destinations selects the transfers that mft-consume runs.
func (c *Config) Destinations(names []string) ([]Transfer, error) {
	return c.Select(names, func(t Transfer) bool { return t.Destination != nil }, "a destination")
}

func (c *Config) find(name string) (Transfer, bool) {
	for _, t := range c.Transfers {
		if t.Name == name {
			return t, true
		}
	}
	return Transfer{}, false
}

func (c *Config) names() string {
	var names []string
	for _, t := range c.Transfers {
		names = append(names, t.Name)
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
