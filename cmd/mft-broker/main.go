// Command mft-broker keeps topics in a directory and serves them over Kafka's
// wire protocol.
package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"mft/broker"
	"mft/internal/command"
	"mft/internal/config"
)

func main() { command.Main(newBroker()) }

type options struct {
	command.Options
	data         string
	listen       []string
	partitions   int32
	noAutoCreate bool
}

func newBroker() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "mft-broker [flags]",
		Short: "Keep topics in a directory and serve them to producers and consumers.",
		Long: `mft-broker keeps topics in a directory and serves them to producers and
consumers over Kafka's wire protocol: mft's own commands, and any Kafka client.

Without flags it keeps its data in ./mft-data and listens on port 9999 of the
loopback interface. It stops cleanly on SIGTERM and Ctrl-C.`,
		Example: `  mft-broker
  mft-broker --data /var/lib/mft --listen 0.0.0.0:9999
  mft-broker -c transfer.yml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), cmd) },
	}
	defaults := broker.DefaultConfig()
	flags := cmd.Flags()
	o.ConfigFlag(flags)
	flags.StringVar(&o.data, "data", defaults.Data, "keep topics in `DIR`, which is created when missing")
	flags.StringSliceVar(&o.listen, "listen", []string{config.DefaultAddress}, "listen on `HOST:PORT`; may be repeated; port 0 takes a free one")
	flags.Int32Var(&o.partitions, "partitions", defaults.DefaultPartitions, "give a topic `N` partitions when its creator names no number")
	flags.BoolVar(&o.noAutoCreate, "no-auto-create", false, "do not create topics that clients ask for")
	o.LogFlags(flags, "info")
	return cmd
}

func (o *options) run(ctx context.Context, cmd *cobra.Command) error {
	file, err := o.Load(cmd.Flags())
	if err != nil {
		return err
	}
	cfg, err := o.config(cmd.Flags(), file)
	if err != nil {
		return err
	}
	if file.Broker.LogLevel != "" && !cmd.Flags().Changed("log-level") {
		o.LogLevel = file.Broker.LogLevel
	}
	if file.Broker.LogFormat != "" && !cmd.Flags().Changed("log-format") {
		o.LogFormat = file.Broker.LogFormat
	}
	cfg.Logger = o.Logger(cmd.ErrOrStderr())
	for _, note := range file.Notes {
		cfg.Logger.Warn().Str("file", file.Path).Msg(note)
	}
	dir, err := filepath.Abs(cfg.Data)
	if err != nil {
		return fmt.Errorf("data directory %s: %w", cfg.Data, err)
	}
	b, err := broker.New(cfg)
	if err != nil {
		return err
	}
	cfg.Logger.Info().Str("data", dir).Str("version", command.Version()).Msg("mft-broker started")
	if err := command.Ready(); err != nil { // it listens; without the notice it would be stopped in time, for the unit says that there is one
		cfg.Logger.Warn().Err(err).Msg("the service manager was not told")
	}
	if err := b.Run(ctx); err != nil {
		return err
	}
	cfg.Logger.Info().Msg("mft-broker stopped")
	return nil
}

// config is what the flags and variables say, then the file, then the defaults.
func (o *options) config(flags *pflag.FlagSet, file *config.Config) (broker.Config, error) {
	cfg := broker.DefaultConfig()
	cfg.Data, cfg.DefaultPartitions, cfg.AutoCreateTopics = o.data, o.partitions, !o.noAutoCreate
	cfg.TopicDefaults = file.Broker.TopicDefaults

	if file.Broker.Data != "" && !flags.Changed("data") {
		cfg.Data = file.Broker.Data
	}
	if file.Broker.DefaultPartitions > 0 && !flags.Changed("partitions") {
		cfg.DefaultPartitions = file.Broker.DefaultPartitions
	}
	if file.Broker.AutoCreateTopics != nil && !flags.Changed("no-auto-create") {
		cfg.AutoCreateTopics = *file.Broker.AutoCreateTopics
	}
	cfg.Listeners = nil
	if len(file.Broker.Listen) > 0 && !flags.Changed("listen") {
		for _, l := range file.Broker.Listen {
			cfg.Listeners = append(cfg.Listeners, broker.Listener{Addr: l.Address, Advertised: l.Advertised})
		}
		return cfg, nil
	}
	for _, listen := range o.listen {
		address, err := config.ParseAddress(listen)
		if err != nil {
			return cfg, command.Usagef("--listen: %w", err)
		}
		cfg.Listeners = append(cfg.Listeners, broker.Listener{Addr: address})
	}
	return cfg, nil
}
