package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	"mft/internal/command"
)

func newConfigs(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "configs", Short: "Show and change the settings of topics."}

	var all bool
	describe := &cobra.Command{
		Use: "describe TOPIC...", Short: "Show the settings of topics.", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			return o.with(cmd, func(ctx context.Context, a *admin) error { return a.describeConfigs(ctx, names, all) })
		},
	}
	describe.Flags().BoolVar(&all, "all", false, "also those that have their default")

	var reset []string
	set := &cobra.Command{
		Use: "set TOPIC [NAME=VALUE...]", Short: "Change settings of a topic, at once and for good.", Args: cobra.MinimumNArgs(1),
		Example: `  mft-admin configs set orders retention.ms=604800000 segment.bytes=67108864
  mft-admin configs set prices cleanup.policy=compact --reset retention.ms`,
		RunE: func(cmd *cobra.Command, args []string) error {
			changes, err := parseChanges(args[1:], reset)
			if err != nil {
				return err
			}
			return o.with(cmd, func(ctx context.Context, a *admin) error { return a.setConfigs(ctx, args[0], changes) })
		},
	}
	set.Flags().StringArrayVar(&reset, "reset", nil, "return the setting `NAME` to its default; may be repeated")
	cmd.AddCommand(describe, set)
	return cmd
}

func parseChanges(set, reset []string) ([]kadm.AlterConfig, error) {
	var changes []kadm.AlterConfig
	for _, s := range set {
		name, value, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			return nil, command.Usagef("%q: write NAME=VALUE", s)
		}
		changes = append(changes, kadm.AlterConfig{Op: kadm.SetConfig, Name: name, Value: &value})
	}
	for _, name := range reset {
		changes = append(changes, kadm.AlterConfig{Op: kadm.DeleteConfig, Name: name})
	}
	if len(changes) == 0 {
		return nil, command.Usagef("nothing to change: give NAME=VALUE or --reset NAME")
	}
	return changes, nil
}

// configResult is a setting of a topic as JSON.
type configResult struct {
	Topic  string `json:"topic"`
	Name   string `json:"name"`
	Value  string `json:"value"`
	Source string `json:"source"` // topic, broker or default
}

func configSource(s kmsg.ConfigSource) string {
	switch s {
	case kmsg.ConfigSourceDynamicTopicConfig:
		return "topic"
	case kmsg.ConfigSourceDefaultConfig:
		return "default"
	}
	return "broker"
}

func (a *admin) describeConfigs(ctx context.Context, topics []string, all bool) error {
	described, err := a.DescribeTopicConfigs(ctx, topics...)
	if err != nil {
		return err
	}
	var failed []string
	var rows [][]string
	for _, topic := range topics {
		configs, err := described.On(topic, nil)
		if err == nil {
			err = configs.Err
		}
		if err != nil {
			failed = append(failed, fmt.Sprintf("settings of topic %s: %s", topic, reason(err, configs.ErrMessage)))
			continue
		}
		for _, c := range configs.Configs {
			r := configResult{topic, c.Key, c.MaybeValue(), configSource(c.Source)}
			if r.Source == "default" && !all {
				continue
			}
			if a.json {
				if err := a.print(r); err != nil {
					return err
				}
			}
			rows = append(rows, []string{r.Topic, r.Name, r.Value, r.Source})
		}
	}
	if !a.json && len(failed) < len(topics) {
		if err := a.table("TOPIC NAME VALUE SOURCE", rows); err != nil {
			return err
		}
	}
	return outcome(len(topics), failed)
}

func (a *admin) setConfigs(ctx context.Context, topic string, changes []kadm.AlterConfig) error {
	responses, err := a.AlterTopicConfigs(ctx, changes, topic)
	if err != nil {
		return err
	}
	r, err := responses.On(topic, nil)
	if err == nil {
		err = r.Err
	}
	if err != nil {
		var names []string
		for _, c := range changes {
			names = append(names, c.Name)
		}
		return fmt.Errorf("settings of topic %s were not changed: %s", topic, foreign(reason(err, r.ErrMessage), strings.Join(names, " ")))
	}
	if a.json {
		return a.print(map[string]string{"topic": topic, "state": "changed"})
	}
	_, err = fmt.Fprintf(a.out, "changed %s\n", topic)
	return err
}
