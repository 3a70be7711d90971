// Command mft-produce sends files, directories and lines into a topic.
package main

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"mft/internal/command"
	"mft/internal/config"
	"mft/producer"
	"mft/protocol"
)

func main() { command.Main(newProduce()) }

type options struct {
	command.Options
	flags *pflag.FlagSet

	topic     string
	partition int32
	compress  string
	acks      string
	timeout   time.Duration
	state     string

	// files
	streams int
	resume  bool
	digest  string
	include []string
	exclude []string
	owner   bool
	xattrs  bool

	confirming  confirmOptions
	watching    watchOptions
	retries     int
	failed      bool
	retryFailed bool
	dryRun      bool

	encryptKey        string
	encryptPassphrase string
	encryptAsk        bool

	// lines
	realtime bool
	follow   string
	from     string
	key      string
	keyDelim string
	headers  []string
}

func newProduce() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "mft-produce -t TOPIC [PATH... | -f FILE | < LINES]\n  mft-produce -c transfer.yml [NAME...]",
		Short: "Send files, directories or lines into a topic.",
		Long: `mft-produce sends into a topic of mft-broker, or of any Kafka:

  PATH...     files, and directories with all that is in them. As with cp and
              rsync, "dir" arrives as dir/..., "dir/" arrives without its name.
              Symbolic links are sent as links, holes of sparse files as holes.
              Sockets, pipes and devices are reported and left out.
  -f FILE     the lines of a growing file, each as a record, as they are written.
              Like tail -F it follows the name: a rotated file is read to its
              end, then the new one; a truncated one from its beginning.
  --watch DIR...  files of directories, as they become complete, until it is
              stopped: see --settle, --done-marker and --after. What was sent is
              remembered (--state), so that a restart sends nothing twice.
  --realtime PATH...
              files that grow: the file where they are received grows byte by
              byte as they do, until mft-produce is stopped; started again, it
              goes on there. A file that is rotated begins another one, the old
              one is kept beside it; one that is truncated begins anew.
  neither     the lines of the standard input, each as a record, at once.

With --encrypt-key the broker sees neither names nor content of files; they are
received with mft-consume --decrypt-key. Lines are not encrypted.

With -c and without -t it runs the sources of transfer.yml, or those NAMEd.

What the summary counts is acknowledged by the broker. With --confirm it waits
until a receiver has every file in place, and compares the digest it has. While the broker is away
mft-produce waits for it. It ends with 3 when a file could not be read, kept
changing, or a line was too long, and the rest was sent, or when --confirm waited
in vain; what is not confirmed is listed. Files that failed are on
a list: --failed prints it, --retry-failed sends them.`,
		Example: `  mft-produce -t reports january.pdf archive/
  mft-produce -t reports --include '*.csv' --digest sha256 /var/spool/out/
  mft-produce -t reports --encrypt-key transfer.key salaries/
  mft-produce -t reports --confirm=5m --digest sha256 january.pdf
  mft-produce -t invoices --watch --after move=/srv/out/sent --exclude '*.tmp' /srv/out/
  mft-produce -t logs -f /var/log/syslog --from end
  mft-produce -t mirror --realtime /var/log/app.log
  echo 'hello' | mft-produce -t greetings
  mft-produce -t users --key-delim : --header source=passwd < /etc/passwd
  mft-produce -c transfer.yml nightly`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.flags = cmd.Flags()
			return o.run(cmd, args)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVarP(&o.topic, "topic", "t", "", "send to `TOPIC`, which is created when missing")
	o.ClientFlags(flags)
	flags.Int32VarP(&o.partition, "partition", "p", 0, "send everything to partition `N` (default: by key, or spread)")
	flags.StringVar(&o.compress, "compress", string(producer.CompressAuto), "`HOW` to compress: auto (zstd for what looks compressible), none, zstd, lz4, snappy, gzip")
	flags.StringVar(&o.acks, "acks", string(producer.AcksAll), "`WHEN` a record counts as sent: all (on stable storage), 1 (written) or 0 (handed to the network)")
	flags.DurationVar(&o.timeout, "timeout", 0, "give up when the broker answers nothing for this `TIME` (default: 1m for its first answer, then never)")

	flags.StringVar(&o.state, "state", command.DefaultStateDir(), "remember in `DIR` what outlives the command; \""+command.NoState+"\": nothing")

	flags.IntVar(&o.streams, "streams", 1, "send files over `N` connections at a time, spread over the brokers and ports of -b; at most 32")
	flags.BoolVar(&o.resume, "resume", true, "go on with files whose sending was interrupted less than a day ago; needs --state and --acks all")
	flags.StringVar(&o.digest, "digest", protocol.DigestXXH3, "`KIND` of digest of files: xxh3-128, sha256 or blake3")
	flags.StringArrayVar(&o.include, "include", nil, "send only files that match `GLOB`, as *.csv or sub/**/a?; may be repeated")
	flags.StringArrayVar(&o.exclude, "exclude", nil, "leave out files and directories that match `GLOB`; may be repeated")
	flags.BoolVar(&o.owner, "owner", false, "send owner and group of files, for mft-consume --owner")
	flags.BoolVar(&o.xattrs, "xattrs", false, "send extended attributes of files, for mft-consume --xattrs")

	o.confirming.add(flags)
	o.watching.add(flags)
	flags.BoolVar(&o.dryRun, "dry-run", false, "list what would be sent and what left out, and change nothing")
	flags.IntVar(&o.retries, "retries", producer.DefaultRetries, "try a file that cannot be read, or changes while it is, again `N` times, after growing waits")
	flags.BoolVar(&o.failed, "failed", false, "list the files that could finally not be sent")
	flags.BoolVar(&o.retryFailed, "retry-failed", false, "send the files of that list")

	flags.StringVar(&o.encryptKey, "encrypt-key", "", "encrypt files end to end with the first key in `FILE`: see 'mft-admin keygen'")
	flags.StringVar(&o.encryptPassphrase, "encrypt-passphrase-file", "", "encrypt files end to end with the passphrase in `FILE`")
	flags.BoolVar(&o.encryptAsk, "encrypt-passphrase", false, "encrypt files end to end with a passphrase, which is asked for")

	flags.BoolVar(&o.realtime, "realtime", false, "mirror the files while they grow, until stopped")
	flags.StringVarP(&o.follow, "follow", "f", "", "send the lines of a growing `FILE`")
	flags.StringVar(&o.from, "from", "beginning", "`WHERE` -f begins: beginning or end of the file")
	flags.StringVarP(&o.key, "key", "k", "", "`KEY` of every line's record")
	flags.StringVar(&o.keyDelim, "key-delim", "", "split lines at the first `TEXT` into key and value")
	flags.StringArrayVar(&o.headers, "header", nil, "`KEY=VALUE` header of every line's record; may be repeated")

	o.LimitFlag(flags)
	o.ProgressFlag(flags)
	o.JSONFlag(flags, "events and summary")
	return cmd
}

// Flags that say something about files only, and about lines only.
var (
	fileFlags = []string{"confirm", "confirm-group", "streams", "resume", "digest", "include", "exclude", "watch", "done-marker", "settle", "scan-every", "after", "retries", "retry-failed", "dry-run"}
	// With transfer.yml these are for all of its sources.
	metadataFlags = []string{"owner", "xattrs"}

	lineFlags = []string{"key", "key-delim", "header"}
)

func (o *options) run(cmd *cobra.Command, args []string) error {
	file, err := o.Load(o.flags)
	if err != nil {
		return err
	}
	if !o.flags.Changed("state") && file.State != "" {
		o.state = file.State
	}
	if command.Typed(o.flags, "resume") && o.resume {
		if o.state == command.NoState || o.state == "" {
			return command.Usagef("--resume needs to remember how far files are: name a directory with --state")
		}
		if o.flags.Changed("acks") && o.acks != string(producer.AcksAll) {
			return command.Usagef("--resume and --acks %s exclude each other: what is not on stable storage cannot be gone on from", o.acks)
		}
	}
	r := &runner{options: o, in: cmd.InOrStdin(), out: cmd.OutOrStdout(), err: cmd.ErrOrStderr(), notes: file.Notes}
	if o.failed {
		return r.listFailed()
	}
	if o.topic != "" && !o.confirming.confirm.on {
		if err := o.only("files that nobody confirms", "--confirm", "confirm-group"); err != nil {
			return err
		}
	}
	if o.retries < 0 {
		return command.Usagef("--retries %d: give 0 or more", o.retries)
	}
	switch {
	case o.topic == "" && o.Config == "":
		return command.Usagef("no topic: say where to with -t TOPIC, or what to do with -c transfer.yml")
	case o.topic == "":
		if err := o.only("a source of transfer.yml", "-t", append([]string{"follow", "from", "partition", "include", "exclude", "watch", "retry-failed", "realtime"}, lineFlags...)...); err != nil {
			return err
		}
		sources, err := file.Sources(args)
		if err != nil {
			return err
		}
		if o.dryRun {
			return r.planSources(cmd.Context(), sources)
		}
		return r.sendSources(cmd.Context(), sources)
	case o.follow != "":
		if len(args) > 0 {
			return command.Usagef("-f %s and %s: send the lines of one growing file, or files as they are", o.follow, args[0])
		}
		if err := o.only("the lines of a file", "", slices.Concat(fileFlags, metadataFlags, encryptFlags, []string{"realtime"})...); err != nil {
			return err
		}
		return r.sendGrowing(cmd.Context())
	case o.watching.watch && len(args) == 0:
		return command.Usagef("--watch needs a directory: name one or more")
	case o.retryFailed:
		if err := o.only("files that failed: they are known", "", slices.Concat(lineFlags, watchFlags, []string{"from", "watch", "include", "exclude", "dry-run"})...); err != nil {
			return err
		}
		if len(args) > 0 {
			return command.Usagef("--retry-failed and %s: the files that failed are known, leave out the path", args[0])
		}
		return r.retryFailed(cmd.Context())
	case o.realtime:
		if len(args) == 0 {
			return command.Usagef("--realtime mirrors growing files: name at least one")
		}
		if err := o.only("files that grow", "", slices.Concat([]string{"from", "watch", "retry-failed", "retries", "confirm", "confirm-group"}, lineFlags, watchFlags)...); err != nil {
			return err
		}
		return r.sendRealtime(cmd.Context(), args)
	case len(args) == 0, len(args) == 1 && args[0] == "-":
		if err := o.only("the standard input", "", slices.Concat([]string{"from"}, fileFlags, metadataFlags, encryptFlags)...); err != nil {
			return err
		}
		return r.sendInput(cmd.Context())
	}
	if err := o.only("files", "", append([]string{"from"}, lineFlags...)...); err != nil {
		return err
	}
	if o.watching.watch && !o.dryRun {
		return r.watchDirs(cmd.Context(), args)
	}
	if o.dryRun {
		source := &config.Source{Paths: args, Include: o.include, Exclude: o.exclude}
		if o.watching.watch {
			source.Watch = &config.Watch{}
		}
		return r.planSources(cmd.Context(), []config.Transfer{{Name: o.topic, Topic: o.topic, Source: source}})
	}
	if err := o.only("files that are sent once", "--watch", watchFlags...); err != nil {
		return err
	}
	return r.sendFiles(cmd.Context(), args)
}

// only makes an error of flags on the command line that have no meaning for
// what is sent.
func (o *options) only(what, instead string, meaningless ...string) error {
	for _, name := range meaningless {
		if command.Typed(o.flags, name) {
			hint := ""
			if instead != "" {
				hint = ": use it with " + instead
			}
			return command.Usagef("--%s does not apply to %s%s", name, what, hint)
		}
	}
	return nil
}

// producerConfig is what the flags say, then the transfer (which may be empty).
func (o *options) producerConfig(t config.Transfer) producer.Config {
	cfg := producer.Config{
		Brokers:     o.Brokers,
		Topic:       o.topic,
		Compression: producer.Compression(o.compress),
		Acks:        producer.Acks(o.acks),
		Digest:      o.digest,
		Limiter:     o.Limiter(t.Limit),
		Streams:     o.streams,
	}
	if o.state != command.NoState {
		cfg.StateDir = o.state
	}
	if t.Streams != 0 && !o.flags.Changed("streams") {
		cfg.Streams = t.Streams
	}
	cfg.NoResume = !o.resume
	if t.Resume != nil && !o.flags.Changed("resume") {
		cfg.NoResume = !*t.Resume
	}
	cfg.Confirm = o.confirming.options(o.flags, t.Confirm)
	cfg.Retries = o.retries
	if t.Retries != nil && !o.flags.Changed("retries") {
		cfg.Retries = *t.Retries
	}
	if cfg.Retries == 0 {
		cfg.Retries = -1
	}
	if o.timeout > 0 {
		cfg.ConnectTimeout, cfg.StallTimeout = o.timeout, o.timeout
	}
	if o.flags.Changed("partition") {
		cfg.Partition = &o.partition
	}
	cfg.Metadata = producer.Metadata{Owner: o.owner, Xattrs: o.xattrs}
	if t.Source != nil {
		cfg.Metadata.Owner = o.owner || t.Source.Owner && !o.flags.Changed("owner")
		cfg.Metadata.Xattrs = o.xattrs || t.Source.Xattrs && !o.flags.Changed("xattrs")
	}
	if t.Topic != "" {
		cfg.Topic = t.Topic
	}
	if t.Compression != "" && !o.flags.Changed("compress") {
		cfg.Compression = producer.Compression(t.Compression)
	}
	if t.Acks != "" && !o.flags.Changed("acks") {
		cfg.Acks = producer.Acks(t.Acks)
	}
	if t.Digest != "" && !o.flags.Changed("digest") {
		cfg.Digest = t.Digest
	}
	return cfg
}

func (o *options) lineOptions() (producer.LineOptions, error) {
	var lines producer.LineOptions
	lines.KeyDelim = o.keyDelim
	if o.flags.Changed("key") {
		lines.Key = []byte(o.key)
	}
	if lines.Key != nil && lines.KeyDelim != "" {
		return lines, command.Usagef("--key and --key-delim exclude each other")
	}
	for _, header := range o.headers {
		key, value, ok := strings.Cut(header, "=")
		if !ok || key == "" {
			return lines, command.Usagef("--header %q: write KEY=VALUE", header)
		}
		lines.Headers = append(lines.Headers, protocol.Header{Key: key, Value: []byte(value)})
	}
	return lines, nil
}

func (o *options) fromEnd() (bool, error) {
	switch o.from {
	case "beginning":
		return false, nil
	case "end":
		return true, nil
	}
	return false, command.Usagef("--from %q: use beginning or end", o.from)
}
