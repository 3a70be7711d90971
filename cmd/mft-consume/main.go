// Command mft-consume receives files from a topic into a directory, and prints
// the records of a topic.
package main

import (
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"mft/consumer"
	"mft/internal/command"
	"mft/internal/config"
)

func main() {
	command.TuneMemory(400) // little is alive beside the buffers that data passes through
	command.Main(newConsume())
}

type options struct {
	command.Options
	flags *pflag.FlagSet

	topic   string
	group   string
	timeout time.Duration

	// files
	dir        string
	streams    int
	once       bool
	dryRun     bool
	abandon    time.Duration
	noReceipts bool
	noFsync    bool

	decryptKeys        []string
	decryptPassphrases []string
	decryptAsk         bool
	acceptPlain        bool

	onConflict   string
	route        string
	exec         string
	execTimeout  time.Duration
	execTries    int
	execParallel int

	owner       bool
	xattrs      bool
	unsafeLinks bool

	// records
	follow    bool
	count     int
	from      string
	partition int32
	format    string

	// the broker inside
	embedded bool
	listen   []string
	data     string
}

func newConsume() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "mft-consume -t TOPIC --dir DIR\n  mft-consume -t TOPIC [-n N] [-f] [--from WHERE]\n  mft-consume -c transfer.yml [NAME...]",
		Short: "Receive files from a topic into a directory, or print its records.",
		Long: `mft-consume reads from mft-broker, or from any Kafka.

With --dir it receives the files that mft-produce sent, as they come, until it
is stopped; with --once it stops at the end of the topic. A file appears under
its name when all of it is there, checked and on stable storage (unless there is
--no-fsync); what is there under that name is replaced, unless --on-conflict says otherwise. Killed at any moment and started again it goes on
where it was. Names that lead out of the directory are refused, and
symbolic links that do unless there is --unsafe-links.
With --decrypt-key it receives files that were encrypted, and refuses others
unless there is --accept-plain. A file of a key that is not there fails; a run
that has the key receives it. Without any key an encrypted file ends the run.
--route places files by a template of {name} (as sent), {dir} {file} (its parts),
{base} {ext} (of file), {topic}, {transfer}, {date} {time} {year} {month} {day}
(when it was sent). --exec runs a command, without a shell, after each file; its
environment has MFT_FILE, MFT_FILE_NAME, MFT_FILE_SIZE, MFT_FILE_DIGEST, MFT_FILE_TRANSFER
and MFT_FILE_TOPIC. One that fails is run again, then told; the file stays.
With -c and without -t it runs the destinations of transfer.yml, or those NAMEd.

Without --dir it prints records, each value on a line: all there are and then
stops, or with -f those that come from now on. -n N prints the last N first;
together with --from (or -g) it prints the first N from there and stops.
--from is beginning, end, an offset, -N (N before the end of each partition), a
time (2026-01-31T12:00:00Z, 2026-01-31, -90m for 90 minutes ago) or such a time
in ms since 1970 (12 digits or more).

--format is as kcat's -f, and adds no newline of its own:
  %t topic  %p partition  %o offset  %T timestamp in ms  %h headers
  %k key    %K its length %s value   %S its length (-1: null)  %% percent sign
  \n \r \t \0 \\ \xNN

With --embedded the broker is inside: one process that senders connect to.

It waits for a broker that is away. It ends with 3 when files could not be
placed and the rest was: refused, damaged, or with --once not complete yet; and
when a command of --exec failed.`,
		Example: `  mft-consume -t reports --dir /srv/in
  mft-consume -t reports --dir /srv/in --once
  mft-consume -t reports --dir /srv/in --decrypt-key transfer.key
  mft-consume -t reports --dir /srv/in --route '{date}/{name}' --exec 'gzip -k {}'
  mft-consume -t logs -f
  mft-consume -t logs -n 10 -f
  mft-consume -t users --from -1h --format '%T %k: %s\n'
  mft-consume --embedded --listen 0.0.0.0:9999 --data /var/lib/mft -t reports --dir /srv/in
  mft-consume -c transfer.yml nightly`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.flags = cmd.Flags()
			return o.run(cmd, args)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVarP(&o.topic, "topic", "t", "", "read from `TOPIC`")
	o.ClientFlags(flags)
	flags.StringVarP(&o.group, "group", "g", "", "read as a member of consumer group `NAME`, which shares the work and remembers how far it is (default with --dir: one per host, directory and topic)")
	flags.DurationVar(&o.timeout, "timeout", 0, "give up when no broker answers within this `TIME` (default: 1m for what ends by itself, else never)")

	flags.StringVar(&o.dir, "dir", "", "receive files into `DIR`, which is created when missing")
	flags.IntVar(&o.streams, "streams", 1, "fetch over `N` connections at a time, spread over the brokers and ports of -b; at most 32")
	flags.BoolVar(&o.once, "once", false, "stop when everything that is in the topic now is received")
	flags.BoolVar(&o.dryRun, "dry-run", false, "list the files in the topic that would be received now, and change nothing")
	flags.DurationVar(&o.abandon, "abandon-after", consumer.DefaultAbandonAfter, "give up a file when nothing of it has come for this `TIME`; 0: never")

	flags.BoolVar(&o.noReceipts, "no-receipts", false, "write no receipts to TOPIC.receipts; the group then remembers less of what it has placed")
	flags.BoolVar(&o.noFsync, "no-fsync", false, "do not wait for the disk: faster, and after a power cut what was received last may be missing or damaged")
	flags.StringVar(&o.onConflict, "on-conflict", string(consumer.ConflictOverwrite), "`WHAT` to do when another file has the name: overwrite, rename (to 'name (1).ext'), skip or fail")
	flags.StringVar(&o.route, "route", "", "place files by `TEMPLATE`, as {topic}/{date}/{name}")
	flags.StringVar(&o.exec, "exec", "", "run `COMMAND` after each file is in place; {} stands for the file, and variables name it (MFT_FILE, ...)")
	flags.DurationVar(&o.execTimeout, "exec-timeout", consumer.DefaultHookTimeout, "end a command that runs longer than this `TIME`; 0: never")
	flags.IntVar(&o.execTries, "exec-tries", consumer.DefaultHookTries, "run a command that fails up to `N` times")
	flags.IntVar(&o.execParallel, "exec-parallel", consumer.DefaultHookParallel, "run up to `N` commands at a time")
	flags.BoolVar(&o.owner, "owner", false, "give files the owner and group that mft-produce --owner sent, by name, else by number; takes root or CAP_CHOWN")
	flags.BoolVar(&o.xattrs, "xattrs", false, "give files the extended attributes that mft-produce --xattrs sent")
	flags.BoolVar(&o.unsafeLinks, "unsafe-links", false, "make symbolic links also when they are absolute or lead out of DIR")

	flags.StringArrayVar(&o.decryptKeys, "decrypt-key", nil, "decrypt files with the keys in `FILE`; may be repeated")
	flags.StringArrayVar(&o.decryptPassphrases, "decrypt-passphrase-file", nil, "decrypt files with the passphrase in `FILE`; may be repeated")
	flags.BoolVar(&o.decryptAsk, "decrypt-passphrase", false, "decrypt files with a passphrase, which is asked for")
	flags.BoolVar(&o.acceptPlain, "accept-plain", false, "with keys, receive also files that are not encrypted, which anyone can have made who may write to the topic")

	flags.BoolVarP(&o.follow, "follow", "f", false, "stay and print records as they come")
	flags.IntVarP(&o.count, "count", "n", 0, "print `N` records: the last ones, or with --from the first ones from there")
	flags.StringVarP(&o.from, "from", "o", "", "begin at `WHERE`: beginning, end, an offset, -N, a time, -1h (default: the beginning; the end with -f)")
	flags.Int32VarP(&o.partition, "partition", "p", 0, "read partition `N` only")
	flags.StringVar(&o.format, "format", "", "print records by `TEMPLATE` (default: %s\\n)")

	flags.BoolVar(&o.embedded, "embedded", false, "run the broker in this process")
	flags.StringSliceVar(&o.listen, "listen", []string{config.DefaultAddress}, "with --embedded: listen on `HOST:PORT`; may be repeated")
	flags.StringVar(&o.data, "data", "mft-data", "with --embedded: keep topics in `DIR`")

	o.LimitFlag(flags)
	o.ProgressFlag(flags)
	o.JSONFlag(flags, "records, or events and summary,")
	return cmd
}

// Flags that say something only about files, about records, about --embedded.
var (
	fileFlags     = []string{"once", "dry-run", "streams", "abandon-after", "progress", "no-receipts", "on-conflict", "route", "exec", "exec-timeout", "exec-tries", "exec-parallel", "owner", "xattrs", "unsafe-links", "decrypt-key", "decrypt-passphrase-file", "decrypt-passphrase", "accept-plain"}
	recordFlags   = []string{"follow", "count", "from", "partition", "format"}
	embeddedFlags = []string{"listen", "data"}
)

func (o *options) run(cmd *cobra.Command, args []string) error {
	file, err := o.Load(o.flags)
	if err != nil {
		return err
	}
	if o.dryRun && o.embedded {
		return command.Usagef("--dry-run and --embedded exclude each other: name a broker that runs")
	}
	if !o.embedded {
		if err := o.only("without --embedded", embeddedFlags); err != nil {
			return err
		}
	} else if command.Typed(o.flags, "brokers") {
		return command.Usagef("--brokers and --embedded exclude each other: the broker is inside")
	}
	if o.streams < 0 || o.streams > consumer.MaxStreams {
		return command.Usagef("%d streams: use 1 to %d", o.streams, consumer.MaxStreams)
	}
	r := &runner{options: o, out: cmd.OutOrStdout(), err: cmd.ErrOrStderr(), file: file}
	switch {
	case o.topic == "" && o.Config == "":
		return command.Usagef("no topic: say what to read with -t TOPIC, or what to do with -c transfer.yml")
	case o.topic == "":
		if err := o.only("to the destinations of transfer.yml: use it with -t", append([]string{"dir", "group"}, recordFlags...)); err != nil {
			return err
		}
		destinations, err := file.Destinations(args)
		if err != nil {
			return err
		}
		return r.receive(cmd.Context(), destinations)
	case len(args) > 0:
		return command.Usagef("%q is one argument too many: name a directory with --dir", args[0])
	case o.dir != "":
		if err := o.only("to files: leave out --dir to print records", recordFlags); err != nil {
			return err
		}
		t := config.Transfer{Name: o.topic, Topic: o.topic, Group: o.group, Destination: &config.Destination{Path: o.dir}}
		return r.receive(cmd.Context(), []config.Transfer{t})
	}
	if o.embedded {
		return command.Usagef("--embedded needs a directory to receive into: add --dir DIR")
	}
	if err := o.only("to records: add --dir DIR to receive files", fileFlags); err != nil {
		return err
	}
	return r.print(cmd.Context())
}

// only makes an error of the first of the flags that is given without a meaning.
func (o *options) only(why string, meaningless []string) error {
	for _, name := range meaningless {
		if command.Typed(o.flags, name) {
			return command.Usagef("--%s does not apply %s", name, why)
		}
	}
	return nil
}

// consumerConfig is what the flags say for one topic.
func (o *options) consumerConfig(topic, group string, limit config.Limit) consumer.Config {
	return consumer.Config{Brokers: o.Brokers, Topic: topic, Group: group, ConnectTimeout: o.timeout, Limiter: o.Limiter(limit)}
}
