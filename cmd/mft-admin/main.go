// Command mft-admin looks after topics, their settings and consumer groups, on
// mft's broker or on any other that speaks Kafka's protocol, and after the data
// directory of a broker of ours; it makes keys.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"mft/internal/command"
)

func main() { command.Main(newAdmin()) }

// options are what all of mft-admin's commands share.
type options struct {
	command.Options
	timeout time.Duration
}

func newAdmin() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "mft-admin",
		Short: "Look after topics, their settings and consumer groups, of mft-broker or of any Kafka, and after data directories.",
		Example: `  mft-admin topics list
  mft-admin topics create orders -p 8 --config write.caching=true
  mft-admin configs set orders retention.ms=604800000
  mft-admin groups describe mft -b broker.example:9999
  mft-admin transfers reports --since 1h
  mft-admin check -c transfer.yml
  mft-admin dump --verify /var/lib/mft`,
	}
	flags := cmd.PersistentFlags()
	o.ClientFlags(flags)
	o.JSONFlag(flags, "results")
	flags.DurationVar(&o.timeout, "timeout", 15*time.Second, "give up after this `TIME`")
	cmd.AddCommand(newTopics(&o), newConfigs(&o), newGroups(&o), newTransfers(&o), newCheck(&o), newDump(&o), newKeygen())
	return cmd
}

// admin is one run of a command: a client and where its results go.
type admin struct {
	*kadm.Client
	out  io.Writer
	err  io.Writer // for what is no result
	json bool
}

// with connects and runs do, all within --timeout.
func (o *options) with(cmd *cobra.Command, do func(ctx context.Context, a *admin) error) error {
	if _, err := o.Load(cmd.Flags()); err != nil {
		return err
	}
	if o.timeout <= 0 {
		return command.Usagef("--timeout %s: give a time above zero, such as 15s", o.timeout)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(o.Brokers...), kgo.ClientID("mft-admin"))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), o.timeout)
	defer cancel()
	if err := client.Ping(ctx); err != nil {
		if cmd.Context().Err() != nil {
			return err
		}
		return command.Hintf(fmt.Errorf("no broker answers at %s: %w", strings.Join(o.Brokers, ", "), err),
			"start mft-broker there, or name the broker with -b HOST:PORT")
	}
	err = do(ctx, &admin{kadm.NewClient(client), cmd.OutOrStdout(), cmd.ErrOrStderr(), o.JSON})
	if errors.Is(err, context.DeadlineExceeded) {
		return command.Hintf(fmt.Errorf("the broker did not answer within %s", o.timeout), "give it longer with --timeout")
	}
	return err
}

// print writes one result as a line of JSON.
func (a *admin) print(result any) error { return json.NewEncoder(a.out).Encode(result) }

// table writes rows of columns; a cell must hold neither tab nor newline.
func (a *admin) table(header string, rows [][]string) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(strings.Fields(header), "\t"))
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// reason is the broker's message where it gave one, else the error.
func reason(err error, message string) string {
	if message != "" {
		return message
	}
	return err.Error()
}

// foreign adds to a broker's refusal of a setting that it is ours.
func foreign(text, names string) string {
	if strings.Contains(names, "write.caching") && strings.Contains(text, "Unknown topic config name") {
		text += " (write.caching is a setting of mft-broker; leave it out here)"
	}
	return text
}

// outcome is the error of a command that did the work for some of several
// things: nil when none failed, otherwise with the failures.
func outcome(all int, failed []string) error {
	switch text := strings.Join(failed, "; "); len(failed) {
	case 0:
		return nil
	case all:
		return errors.New(text)
	default:
		return command.Partlyf("%s", text)
	}
}
