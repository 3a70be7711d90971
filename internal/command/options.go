package command

import (
	"fmt"
	"io"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/pflag"

	"mft/internal/config"
	"mft/internal/kafka"
	"mft/internal/terminal"
)

// Options are the flags that several commands share. A command adds the ones
// it has and then reads the fields; values set before a flag is added are its
// defaults.
type Options struct {
	Config    string        // -c, --config: path of transfer.yml, "" for none
	Brokers   []string      // -b, --brokers: HOST:PORT of the brokers to ask first
	LogLevel  string        // --log-level
	LogFormat string        // --log-format: console or json
	JSON      bool          // --json
	Progress  terminal.Mode // --progress
	LimitRate string        // --limit-rate

	limiter *kafka.Limiter // of --limit-rate, shared by all transfers; nil: not given
}

// ClientFlags adds the flags of everything that talks to a broker: -c, -b and
// those of the log, which tells warnings unless asked for more.
func (o *Options) ClientFlags(flags *pflag.FlagSet) {
	o.ConfigFlag(flags)
	if o.Brokers == nil {
		o.Brokers = []string{config.DefaultAddress}
	}
	flags.StringSliceVarP(&o.Brokers, "brokers", "b", o.Brokers, "brokers to connect to, `HOST:PORT,...`")
	o.LogFlags(flags, "warn")
}

// ConfigFlag adds -c, --config.
func (o *Options) ConfigFlag(flags *pflag.FlagSet) {
	flags.StringVarP(&o.Config, "config", "c", o.Config, "read settings from `FILE` (transfer.yml)")
}

// LogFlags adds --log-level, with the given default, and --log-format.
func (o *Options) LogFlags(flags *pflag.FlagSet, level string) {
	flags.StringVar(&o.LogLevel, "log-level", level, "how much to log, a `LEVEL`: trace, debug, info, warn, error, off")
	flags.StringVar(&o.LogFormat, "log-format", "console", "how to log, a `FORMAT`: console or json")
}

// JSONFlag adds --json; what says what is printed so.
func (o *Options) JSONFlag(flags *pflag.FlagSet, what string) {
	flags.BoolVar(&o.JSON, "json", o.JSON, "print "+what+" as JSON, one object a line")
}

// ProgressFlag adds --progress auto|always|never.
func (o *Options) ProgressFlag(flags *pflag.FlagSet) {
	if o.Progress == "" {
		o.Progress = terminal.Auto
	}
	flags.Var(&o.Progress, "progress", "show progress: auto (a bar on a terminal, lines elsewhere), always or never")
}

// LimitFlag adds --limit-rate.
func (o *Options) LimitFlag(flags *pflag.FlagSet) {
	flags.StringVar(&o.LimitRate, "limit-rate", "", "use at most `RATE` bytes per second of the network, as 10MB or 512KiB; 0: no limit")
}

// Limiter is the limit of a transfer: that of --limit-rate, which all transfers
// of the command share, or else its own.
func (o *Options) Limiter(own config.Limit) *kafka.Limiter {
	if o.LimitRate != "" {
		return o.limiter
	}
	if len(own) == 0 {
		return nil
	}
	return kafka.NewLimiter(own.At)
}

// Load reads transfer.yml, if one is named, and settles what depends on it:
// the brokers are the file's unless a flag or variable gave them. Without a
// file it returns an empty configuration.
func (o *Options) Load(flags *pflag.FlagSet) (*config.Config, error) {
	cfg := &config.Config{}
	if o.Config != "" {
		var err error
		if cfg, err = config.Load(o.Config); err != nil {
			return nil, err
		}
	}
	if !flags.Changed("brokers") && len(cfg.Brokers) > 0 {
		o.Brokers = cfg.Brokers
	}
	for i, broker := range o.Brokers {
		address, err := config.ParseAddress(broker)
		if err != nil {
			return nil, Usagef("--brokers: %w", err)
		}
		o.Brokers[i] = address
	}
	if o.LimitRate != "" {
		rate, err := config.ParseRate(o.LimitRate)
		if err != nil {
			return nil, Usagef("--limit-rate: %w", err)
		}
		if rate > 0 {
			o.limiter = kafka.NewLimiter(config.Limit{{Rate: rate}}.At)
		}
	}
	if _, err := parseLevel(o.LogLevel); err != nil {
		return nil, err
	}
	if o.LogFormat != "" && o.LogFormat != "console" && o.LogFormat != "json" {
		return nil, Usagef("--log-format %q: use console or json", o.LogFormat)
	}
	return cfg, nil
}

// Logger makes the logger that the flags ask for, writing to w: JSON, or text,
// coloured when w is a terminal. Load has checked the flags.
func (o *Options) Logger(w io.Writer) zerolog.Logger {
	level, err := parseLevel(o.LogLevel)
	if err != nil {
		level = zerolog.InfoLevel
	}
	if o.LogFormat != "json" {
		w = zerolog.ConsoleWriter{Out: w, NoColor: !terminal.Colour(w), TimeFormat: time.DateTime}
	}
	return zerolog.New(w).Level(level).With().Timestamp().Logger()
}

func parseLevel(name string) (zerolog.Level, error) {
	switch name {
	case "off":
		return zerolog.Disabled, nil
	case "":
		return zerolog.InfoLevel, nil
	case "trace", "debug", "info", "warn", "error":
		return zerolog.ParseLevel(name)
	}
	return zerolog.NoLevel, Usagef("%w", fmt.Errorf("--log-level %q: use trace, debug, info, warn, error or off", name))
}
