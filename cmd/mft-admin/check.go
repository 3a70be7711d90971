package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"mft/consumer"
	"mft/internal/checkup"
	"mft/internal/command"
	"mft/internal/config"
)

// Roles of a machine.
const (
	sender    = "sender"
	receiver  = "receiver"
	brokering = "broker"
)

// checkOptions is what check is told.
type checkOptions struct {
	*options
	topic   string
	dir     string
	group   string
	state   string
	roles   []string
	minFree string
	probe   bool
}

func newCheck(o *options) *cobra.Command {
	c := checkOptions{options: o}
	cmd := &cobra.Command{
		Use:   "check [-c transfer.yml [NAME...]]\n  mft-admin check -t TOPIC [--dir DIR] [PATH...]",
		Short: "Find out why files would not arrive, and what to do.",
		Long: `check looks at everything that a transfer needs, in the order in which it would be
needed, and says of each thing what it found and what to do: transfer.yml, keys,
sources, destinations, state and data directories with the room on their disks,
open files; of each broker its name, port, protocol, and the address that it
tells clients; topics, their settings and replicas; permissions; groups; clocks.

With -c and without -t it checks what transfer.yml says, or the transfers NAMEd,
on a machine that plays all of its --roles. It changes nothing, unless --probe
lets it make a topic of its own for a moment: write, read and delete it, which
also compares the clocks.

It ends with 0 when nothing failed, with 3 when something did, with 1 when no
broker can be reached, so that nothing works.`,
		Example: `  mft-admin check -c transfer.yml
  mft-admin check -c transfer.yml --role sender nightly
  mft-admin check -b broker.example:9999 -t reports --probe
  mft-admin check -t reports --dir /var/spool/in`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd, args) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&c.topic, "topic", "t", "", "check what sending to and receiving from `TOPIC` takes")
	flags.StringVar(&c.dir, "dir", "", "with -t: check receiving files into `DIR`")
	flags.StringVarP(&c.group, "group", "g", "", "with -t: check the consumer group `NAME`")
	flags.StringVar(&c.state, "state", command.DefaultStateDir(), "the directory, `DIR`, where mft-produce remembers what outlives it; \""+command.NoState+"\": none")
	flags.StringSliceVar(&c.roles, "role", []string{sender, receiver, brokering}, "what this machine is, `ROLE,...`: sender, receiver, broker")
	flags.StringVar(&c.minFree, "min-free", "1GiB", "how much should be free on each disk, a `SIZE`")
	flags.BoolVar(&c.probe, "probe", false, "make a topic for a moment, write, read and delete it; compare the clocks")
	return cmd
}

func (c *checkOptions) is(role string) bool { return slices.Contains(c.roles, role) }

func (c *checkOptions) run(cmd *cobra.Command, args []string) error {
	report := c.reporter(cmd.OutOrStdout())
	cfg, err := c.Load(cmd.Flags())
	if err != nil {
		if c.Config != "" {
			report(checkup.Finding{Check: checkup.Configuration, Subject: c.Config, State: checkup.Failed, Detail: err.Error(), Remedy: "correct it; docs/configuration.md has every key"})
		}
		return err
	}
	for _, role := range c.roles {
		if !slices.Contains([]string{sender, receiver, brokering}, role) {
			return command.Usagef("--role %q: use sender, receiver or broker", role)
		}
	}
	minFree, err := humanize.ParseBytes(c.minFree)
	if err != nil || minFree > 1<<62 {
		return command.Usagef("--min-free %q: give a size, such as 500MB or 2GiB", c.minFree)
	}
	if c.timeout <= 0 {
		return command.Usagef("--timeout %s: give a time above zero, such as 15s", c.timeout)
	}
	if !cmd.Flags().Changed("state") && cfg.State != "" {
		c.state = cfg.State
	}
	transfers, err := c.transfers(cfg, args)
	if err != nil {
		return err
	}
	if c.Config != "" {
		for _, note := range cfg.Notes {
			report(checkup.Finding{Check: checkup.Configuration, Subject: c.Config, State: checkup.Warning, Detail: note})
		}
		report(checkup.Finding{Check: checkup.Configuration, Subject: c.Config, State: checkup.OK, Detail: fmt.Sprintf("is right, with %d transfers", len(cfg.Transfers))})
	}
	plan, err := c.plan(cfg, transfers)
	if err != nil {
		return err
	}
	plan.MinFree = int64(minFree)
	result := checkup.Run(cmd.Context(), plan, report)
	if err := cmd.Context().Err(); err != nil {
		return err
	}
	return c.sum(cmd.OutOrStdout(), result)
}

// transfers are those to check: of the file, or the one that the flags make.
func (c *checkOptions) transfers(cfg *config.Config, args []string) ([]config.Transfer, error) {
	if c.topic == "" {
		for name, value := range map[string]string{"--dir": c.dir, "--group": c.group} {
			if value != "" {
				return nil, command.Usagef("%s needs a topic: name it with -t", name)
			}
		}
		if c.Config == "" && len(args) > 0 {
			return nil, command.Usagef("%s: name the topic that it is sent to with -t, or the file that knows it with -c", args[0])
		}
		if len(args) == 0 {
			return cfg.Transfers, nil
		}
		return cfg.Select(args, func(config.Transfer) bool { return true }, "a source or destination")
	}
	t := config.Transfer{Name: c.topic, Topic: c.topic, Group: c.group}
	if len(args) > 0 {
		t.Source = &config.Source{Paths: args}
	}
	if c.dir != "" {
		t.Destination = &config.Destination{Path: c.dir}
	}
	return []config.Transfer{t}, nil
}

// plan is what is to be looked at for the transfers.
func (c *checkOptions) plan(cfg *config.Config, transfers []config.Transfer) (checkup.Plan, error) {
	p := checkup.Plan{Brokers: c.Brokers, Timeout: c.timeout, Probe: c.probe}
	seen := map[string]bool{}
	first := func(kind, name string) bool {
		defer func() { seen[kind+name] = true }()
		return !seen[kind+name]
	}
	for _, t := range transfers {
		// A topic alone may be for either.
		alone := t.Source == nil && t.Destination == nil
		use := checkup.TopicUse{Name: t.Topic, Files: !alone, AcksAll: t.Acks == "" || t.Acks == "all", Group: t.Group}
		if use.Send = c.is(sender) && (alone || t.Source != nil); use.Send && t.Source != nil {
			use.Files = !t.Source.Follow
			for _, path := range t.Source.Paths {
				if first("source", path) {
					p.Sources = append(p.Sources, path)
				}
			}
			if c.state != command.NoState {
				p.State = c.state
			}
		}
		if use.Receive = c.is(receiver) && (alone || t.Destination != nil); use.Receive && t.Destination != nil {
			p.Destinations = append(p.Destinations, t.Destination.Path)
			if use.Group == "" {
				var err error
				if use.Group, err = consumer.DefaultGroup(t.Destination.Path, t.Topic); err != nil {
					return p, err
				}
			}
		}
		if !use.Send && !use.Receive {
			continue
		}
		p.Topics = append(p.Topics, use)
		if t.Encryption == nil {
			continue
		}
		for _, path := range t.Encryption.Keys {
			if first("key", path) {
				p.Secrets = append(p.Secrets, secret(path, command.Keys{Files: []string{path}}))
			}
		}
		for _, path := range t.Encryption.PassphraseFiles {
			if first("key", path) {
				p.Secrets = append(p.Secrets, secret(path, command.Keys{PassphraseFiles: []string{path}}))
			}
		}
	}
	if c.is(brokering) && c.topic == "" {
		p.Data = cfg.Broker.Data
		for _, l := range cfg.Broker.Listen {
			p.Listen = append(p.Listen, l.Address)
		}
	}
	return p, nil
}

// secret is a file that keys are read from.
func secret(path string, keys command.Keys) checkup.Secret {
	return checkup.Secret{Path: path, Check: func() ([]string, error) {
		_, _, notes, err := keys.Load(nil, io.Discard, false)
		return notes, err
	}}
}

// reporter shows findings as they come.
func (c *checkOptions) reporter(out io.Writer) func(checkup.Finding) {
	a := &admin{out: out}
	return func(f checkup.Finding) {
		if c.JSON {
			if err := a.print(f); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
			return
		}
		state := string(f.State)
		if f.State == checkup.Failed || f.State == checkup.Warning {
			state = strings.ToUpper(state)
		}
		fmt.Fprintf(out, "%-8s %-13s %s: %s\n", state, f.Check, f.Subject, f.Detail)
		if f.Remedy != "" {
			fmt.Fprintf(out, "%-8s %-13s -> %s\n", "", "", f.Remedy)
		}
	}
}

// sum tells how it went as a whole, and decides the exit code.
func (c *checkOptions) sum(out io.Writer, r checkup.Result) error {
	if c.JSON {
		a := &admin{out: out}
		err := a.print(struct {
			Check    string `json:"check"`
			OK       int    `json:"ok"`
			Warnings int    `json:"warnings"`
			Failed   int    `json:"failed"`
			Skipped  int    `json:"skipped"`
		}{"summary", r.OK, r.Warnings, r.Failed, r.Skipped})
		if err != nil {
			return err
		}
	} else {
		fmt.Fprintf(out, "\n%d ok, %d warnings, %d failed, %d skipped\n", r.OK, r.Warnings, r.Failed, r.Skipped)
	}
	switch {
	case r.Unreachable:
		return command.Hintf(errors.New("no broker can be reached, so nothing can be sent or received"), "the reasons and remedies are above")
	case r.Failed > 0:
		return command.Partlyf("%d checks failed: the reasons and remedies are above", r.Failed)
	}
	return nil
}
