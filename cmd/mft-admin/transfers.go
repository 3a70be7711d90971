package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"mft/internal/command"
	"mft/internal/terminal"
	"mft/protocol"
)

// transfersOptions say what is looked at and how it is shown.
type transfersOptions struct {
	since       time.Duration
	limit       int
	look        string
	keys        []string
	passphrases []string

	budget int64 // look, in bytes
	ring   *protocol.Keyring
}

func newTransfers(o *options) *cobra.Command {
	var t transfersOptions
	cmd := &cobra.Command{
		Use: "transfers [TOPIC...]", Short: "List the transfers of files, how far they are, and who has confirmed them.",
		Long: `List the transfers of files, oldest first, by the records of their topics and the
receipts of those who received them; without TOPIC, of all topics that have receipts.

  sending 40 %   it has begun, so much of it is in the topic
  sent           all of it is in the topic, nobody has told what became of it
  delivered      a receiver has it durably in place: which one, and when
  skipped        no receiver has it, and one has left it out on purpose
  failed         no receiver has it, and one could not place it: why
  aborted        the sender gave it up: why

The topic is read from its end backwards, until --limit transfers are found,
--since is reached, or --look bytes were read; it is said what was looked at.`,
		Example: `  mft-admin transfers reports
  mft-admin transfers reports --since 168h --limit 1000 --json
  mft-admin transfers salaries --decrypt-key transfer.key`,
		RunE: func(cmd *cobra.Command, topics []string) error {
			if err := t.check(cmd); err != nil {
				return err
			}
			return o.with(cmd, func(ctx context.Context, a *admin) error {
				return a.listTransfers(ctx, o, &t, topics)
			})
		},
	}
	flags := cmd.Flags()
	flags.DurationVar(&t.since, "since", 24*time.Hour, "what was written in the last `TIME`; 0: all")
	flags.IntVar(&t.limit, "limit", 100, "the newest `N` transfers of a topic; 0: all")
	flags.StringVar(&t.look, "look", "256MiB", "read no more than `SIZE` of a topic, as 1GiB")
	flags.StringArrayVar(&t.keys, "decrypt-key", nil, "show the names of encrypted files, with the keys in `FILE`; may be repeated")
	flags.StringArrayVar(&t.passphrases, "decrypt-passphrase-file", nil, "show the names of encrypted files, with the passphrase in `FILE`; may be repeated")
	return cmd
}

func (t *transfersOptions) check(cmd *cobra.Command) error {
	look, err := humanize.ParseBytes(t.look)
	if err != nil || look == 0 || look > 1<<62 {
		return command.Usagef("--look %q: give a size such as 256MiB", t.look)
	}
	t.budget = int64(look)
	if t.limit < 0 || t.since < 0 {
		return command.Usagef("--limit and --since: give 0 or more")
	}
	keys, passphrases, notes, err := command.Keys{Files: t.keys, PassphraseFiles: t.passphrases}.Load(os.Stdin, cmd.ErrOrStderr(), false)
	if err != nil {
		return err
	}
	for _, note := range notes {
		fmt.Fprintln(cmd.ErrOrStderr(), note)
	}
	t.ring, err = protocol.NewKeyring(keys, passphrases)
	return err
}

// transferResult is a transfer as JSON.
type transferResult struct {
	Topic     string          `json:"topic"`
	Partition *int32          `json:"partition,omitempty"` // not there when its records were not looked at
	Offset    *int64          `json:"offset,omitempty"`    // of its begin record
	Transfer  string          `json:"transfer"`
	State     string          `json:"state"` // sending, sent, delivered, skipped, failed, aborted
	Encrypted bool            `json:"encrypted,omitempty"`
	Type      string          `json:"type,omitempty"`
	Name      string          `json:"name,omitempty"`
	Size      *int64          `json:"size,omitempty"`
	Bytes     *int64          `json:"bytes,omitempty"`   // of it that are in the topic, while it is sent
	Percent   *int            `json:"percent,omitempty"` // of Size
	Began     *time.Time      `json:"began,omitempty"`
	Last      *time.Time      `json:"last,omitempty"` // record of it
	Reason    string          `json:"reason,omitempty"`
	Receipts  []receiptResult `json:"receipts,omitempty"`
}

// receiptResult is what one group has told last.
type receiptResult struct {
	State  string    `json:"state"`
	Group  string    `json:"group"`
	Host   string    `json:"host,omitempty"`
	Client string    `json:"client,omitempty"`
	At     time.Time `json:"at"`
	Path   string    `json:"path,omitempty"`
	Digest string    `json:"digest,omitempty"`
	Kind   string    `json:"digest_kind,omitempty"`
	Reason string    `json:"reason,omitempty"`
}

func (a *admin) listTransfers(ctx context.Context, o *options, t *transfersOptions, topics []string) error {
	there, err := a.ListTopics(ctx)
	if err != nil {
		return err
	}
	if len(topics) == 0 {
		for _, name := range there.Names() {
			if there.Has(name + protocol.ReceiptsSuffix) {
				topics = append(topics, name)
			}
		}
		if len(topics) == 0 {
			return command.Hintf(errors.New("no topic has receipts"), "name the topic whose transfers you want to see")
		}
	}
	var failed []string
	for _, topic := range topics {
		if !there.Has(topic) {
			failed = append(failed, fmt.Sprintf("there is no topic %s", topic))
			continue
		}
		found := newTransferSet(topic, t)
		looked, err := found.read(ctx, a, o, there.Has(topic+protocol.ReceiptsSuffix))
		if err != nil {
			return err
		}
		if err := a.showTransfers(found.results(), len(topics) > 1); err != nil {
			return err
		}
		if a.json {
			continue
		}
		if _, err := fmt.Fprintln(a.err, looked); err != nil {
			return err
		}
	}
	return outcome(len(topics), failed)
}

func (a *admin) showTransfers(list []transferResult, several bool) error {
	var rows [][]string
	for _, r := range list {
		if a.json {
			if err := a.print(r); err != nil {
				return err
			}
			continue
		}
		row := []string{r.Transfer[:8], r.when(), r.status(), r.sizeText(), r.nameText(), r.who()}
		if several {
			row = append([]string{r.Topic}, row...)
		}
		rows = append(rows, row)
	}
	if a.json {
		return nil
	}
	header := "TRANSFER BEGAN STATE SIZE NAME RECEIVERS"
	if several {
		header = "TOPIC " + header
	}
	return a.table(header, rows)
}

func (r *transferResult) when() string {
	if r.Began == nil {
		return "-"
	}
	return r.Began.Local().Format(time.DateTime)
}

func (r *transferResult) status() string {
	if r.Percent != nil {
		return fmt.Sprintf("%s %d %%", r.State, *r.Percent)
	}
	return r.State
}

func (r *transferResult) sizeText() string {
	switch {
	case r.Type == protocol.TypeDir:
		return "dir"
	case r.Size == nil:
		return "-"
	}
	return terminal.Size(*r.Size)
}

func (r *transferResult) nameText() string {
	switch {
	case r.Name != "":
		return cell(r.Name)
	case r.Encrypted:
		return "(encrypted)"
	}
	return "-"
}

// who is what receivers and the sender have told: "inbox on b.example 2026-02-03 04:05:07".
func (r *transferResult) who() string {
	var parts []string
	for _, c := range r.Receipts {
		text := c.Group
		if c.Host != "" {
			text += " on " + c.Host
		}
		text += " " + c.At.Local().Format(time.DateTime)
		if c.State != string(protocol.StateDelivered) {
			text += " " + c.State
			if c.Reason != "" {
				text += ": " + c.Reason
			}
		}
		parts = append(parts, text)
	}
	if r.Reason != "" {
		parts = append(parts, r.Reason)
	}
	if len(parts) == 0 {
		return "-"
	}
	return cell(strings.Join(parts, "; "))
}

// cell is text that keeps to its place on the terminal, whatever it holds.
func cell(text string) string {
	if strings.ContainsFunc(text, func(c rune) bool { return !strconv.IsPrint(c) }) {
		return strconv.Quote(text)
	}
	return text
}

// results are the newest transfers that were found, oldest first.
func (s *transferSet) results() []transferResult {
	list := make([]transferResult, 0, len(s.transfers))
	for _, t := range s.transfers {
		list = append(list, t.result(s.topic))
	}
	slices.SortFunc(list, func(a, b transferResult) int {
		return cmp.Or(a.order().Compare(b.order()), cmp.Compare(a.Transfer, b.Transfer))
	})
	if s.limit > 0 && len(list) > s.limit {
		list = list[len(list)-s.limit:]
	}
	return list
}

// order is when a transfer began, or else was first heard of.
func (r *transferResult) order() time.Time {
	switch {
	case r.Began != nil:
		return *r.Began
	case len(r.Receipts) > 0:
		return r.Receipts[0].At
	case r.Last != nil:
		return *r.Last
	}
	return time.Time{}
}
