package main

import (
	"context"
	"os/signal"
	"syscall"
	"time"

	"mft/consumer"
	"mft/internal/command"
)

// print prints records.
func (r *runner) print(ctx context.Context) error {
	cfg := consumer.RecordsConfig{Config: r.consumerConfig(r.topic, r.group, nil), Follow: r.follow, Limit: r.count}
	if r.flags.Changed("count") && r.count < 1 {
		return command.Usagef("--count %d: ask for one record or more", r.count)
	}
	if r.flags.Changed("partition") {
		if r.group != "" {
			return command.Usagef("--partition and --group exclude each other: a group hands out partitions by itself")
		}
		if r.partition < 0 {
			return command.Usagef("--partition %d: partitions count from 0", r.partition)
		}
		cfg.Partition = &r.partition
	}
	var err error
	if r.from != "" {
		if cfg.From, err = consumer.ParsePosition(r.from, time.Now()); err != nil {
			return command.Usagef("--from: %w", err)
		}
	}
	switch {
	case r.JSON && r.format != "":
		return command.Usagef("--json and --format exclude each other")
	case r.JSON:
		cfg.Format = consumer.JSONFormat()
	case r.flags.Changed("format"):
		if cfg.Format, err = consumer.ParseFormat(r.format); err != nil {
			return command.Usagef("--format: %w", err)
		}
	}
	cfg.Logger = r.logger(r.err)
	signal.Ignore(syscall.SIGPIPE) // a reader that goes away ends us cleanly
	if _, err = consumer.ReadRecords(ctx, cfg, r.out); err != nil {
		return hinted(err)
	}
	if !r.follow {
		return ctx.Err() // interrupted before the end
	}
	return nil
}
