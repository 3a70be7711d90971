package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"mft/internal/command"
)

func newTopics(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "topics", Short: "List, create, describe and delete topics."}

	var internal bool
	list := &cobra.Command{
		Use: "list", Short: "List the topics with their partitions and records.", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.with(cmd, func(ctx context.Context, a *admin) error { return a.listTopics(ctx, internal) })
		},
	}
	list.Flags().BoolVar(&internal, "internal", false, "also a Kafka cluster's own topics")

	var spec topicSpec
	create := &cobra.Command{
		Use: "create TOPIC...", Short: "Create topics.", Args: cobra.MinimumNArgs(1),
		Example: "  mft-admin topics create orders -p 8 --config write.caching=true --config flush.ms=200",
		RunE: func(cmd *cobra.Command, names []string) error {
			configs, err := spec.parse()
			if err != nil {
				return err
			}
			return o.with(cmd, func(ctx context.Context, a *admin) error { return a.createTopics(ctx, spec, configs, names) })
		},
	}
	create.Flags().Int32VarP(&spec.partitions, "partitions", "p", -1, "number `N` of partitions; -1: the broker's default")
	create.Flags().Int16Var(&spec.replicas, "replicas", -1, "`N` copies of each partition, on a cluster; -1: the broker's default")
	create.Flags().VarP(&configFlag{&o.Config, &spec.configs}, "config", "c", "a setting of the topic, NAME=VALUE; may be repeated. Without a '=': as for the other commands, the `FILE` to read settings from")

	describe := &cobra.Command{
		Use: "describe TOPIC...", Short: "Show partitions, offsets, id and settings of topics.", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			return o.with(cmd, func(ctx context.Context, a *admin) error { return a.describeTopics(ctx, names) })
		},
	}
	remove := &cobra.Command{
		Use: "delete TOPIC...", Short: "Delete topics and all that is in them, at once.", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			return o.with(cmd, func(ctx context.Context, a *admin) error { return a.deleteTopics(ctx, names) })
		},
	}
	cmd.AddCommand(list, create, describe, remove)
	return cmd
}

// topicSpec is what topics create is told.
type topicSpec struct {
	partitions int32
	replicas   int16
	configs    []string
}

func (s topicSpec) parse() (map[string]*string, error) {
	if s.partitions == 0 || s.partitions < -1 {
		return nil, command.Usagef("--partitions %d: give a number above zero", s.partitions)
	}
	if s.replicas == 0 || s.replicas < -1 {
		return nil, command.Usagef("--replicas %d: give a number above zero", s.replicas)
	}
	configs := make(map[string]*string, len(s.configs))
	for _, config := range s.configs {
		name, value, _ := strings.Cut(config, "=")
		if name == "" {
			return nil, command.Usagef("--config %q: write NAME=VALUE", config)
		}
		configs[name] = &value
	}
	return configs, nil
}

// configFlag is --config of topics create, which means two things: settings of
// the topic, as in Kafka's own tools, and transfer.yml, as in all of ours.
type configFlag struct {
	file     *string
	settings *[]string
}

func (f *configFlag) String() string { return "" }
func (f *configFlag) Type() string   { return "NAME=VALUE" }

func (f *configFlag) Set(s string) error {
	if strings.Contains(s, "=") {
		*f.settings = append(*f.settings, s)
	} else {
		*f.file = s
	}
	return nil
}

// topicResult is a topic as JSON.
type topicResult struct {
	Topic      string            `json:"topic"`
	ID         string            `json:"id,omitempty"`
	Partitions int               `json:"partitions"`
	Records    int64             `json:"records"`
	Configs    map[string]string `json:"configs,omitempty"`
	Details    []partitionResult `json:"details,omitempty"`
}

type partitionResult struct {
	Partition int32   `json:"partition"`
	Leader    int32   `json:"leader"`
	Replicas  []int32 `json:"replicas"`
	Start     int64   `json:"start"`
	End       int64   `json:"end"`
}

func (a *admin) listTopics(ctx context.Context, internal bool) error {
	topics, err := a.ListTopicsWithInternal(ctx)
	if err != nil {
		return err
	}
	if !internal {
		topics.FilterInternal()
	}
	results, err := a.withOffsets(ctx, topics.Sorted())
	if err != nil {
		return err
	}
	var rows [][]string
	for _, t := range results {
		t.Details = nil
		if a.json {
			if err := a.print(t); err != nil {
				return err
			}
		}
		rows = append(rows, []string{t.Topic, strconv.Itoa(t.Partitions), strconv.FormatInt(t.Records, 10)})
	}
	if a.json {
		return nil
	}
	return a.table("TOPIC PARTITIONS RECORDS", rows)
}

// withOffsets adds to the topics where their partitions start and end.
func (a *admin) withOffsets(ctx context.Context, topics []kadm.TopicDetail) ([]topicResult, error) {
	if len(topics) == 0 {
		return nil, nil // no names would mean every topic
	}
	var names []string
	for _, t := range topics {
		names = append(names, t.Topic)
	}
	starts, err := a.ListStartOffsets(ctx, names...)
	if err != nil {
		return nil, err
	}
	ends, err := a.ListEndOffsets(ctx, names...)
	if err != nil {
		return nil, err
	}
	results := make([]topicResult, 0, len(topics))
	for _, t := range topics {
		r := topicResult{Topic: t.Topic, Partitions: len(t.Partitions)}
		if t.ID != (kadm.TopicID{}) {
			r.ID = t.ID.String()
		}
		for _, p := range t.Partitions.Sorted() {
			start, _ := starts.Lookup(t.Topic, p.Partition)
			end, _ := ends.Lookup(t.Topic, p.Partition)
			if err := cmp.Or(p.Err, start.Err, end.Err); err != nil {
				return nil, fmt.Errorf("topic %s, partition %d: %w", t.Topic, p.Partition, err)
			}
			r.Records += end.Offset - start.Offset
			r.Details = append(r.Details, partitionResult{p.Partition, p.Leader, p.Replicas, start.Offset, end.Offset})
		}
		results = append(results, r)
	}
	return results, nil
}

func (a *admin) describeTopics(ctx context.Context, names []string) error {
	topics, err := a.ListTopicsWithInternal(ctx, names...)
	if err != nil {
		return err
	}
	var found []kadm.TopicDetail
	var failed []string
	for _, name := range names {
		if t := topics[name]; t.Err != nil {
			failed = append(failed, fmt.Sprintf("topic %s: %v", name, t.Err))
		} else {
			found = append(found, t)
		}
	}
	results, err := a.withOffsets(ctx, found)
	if err != nil {
		return err
	}
	for i := range results {
		if err := a.addConfigs(ctx, &results[i]); err != nil {
			return err
		}
		if err := a.showTopic(results[i], i > 0); err != nil {
			return err
		}
	}
	return outcome(len(names), failed)
}

// addConfigs adds the settings that are not the built-in defaults.
func (a *admin) addConfigs(ctx context.Context, t *topicResult) error {
	described, err := a.DescribeTopicConfigs(ctx, t.Topic)
	if err != nil {
		return err
	}
	configs, err := described.On(t.Topic, nil)
	if err == nil {
		err = configs.Err
	}
	if err != nil {
		return fmt.Errorf("settings of topic %s: %s", t.Topic, reason(err, configs.ErrMessage))
	}
	t.Configs = map[string]string{}
	for _, c := range configs.Configs {
		if c.Source != kmsg.ConfigSourceDefaultConfig {
			t.Configs[c.Key] = c.MaybeValue()
		}
	}
	return nil
}

func (a *admin) showTopic(t topicResult, another bool) error {
	if a.json {
		return a.print(t)
	}
	if another {
		fmt.Fprintln(a.out)
	}
	fmt.Fprintf(a.out, "topic       %s\n", t.Topic)
	if t.ID != "" {
		fmt.Fprintf(a.out, "id          %s\n", t.ID)
	}
	fmt.Fprintf(a.out, "partitions  %d\nrecords     %d\n", t.Partitions, t.Records)
	for _, name := range slices.Sorted(maps.Keys(t.Configs)) {
		fmt.Fprintf(a.out, "config      %s=%s\n", name, t.Configs[name])
	}
	fmt.Fprintln(a.out)
	var rows [][]string
	for _, p := range t.Details {
		rows = append(rows, []string{
			fmt.Sprint(p.Partition), fmt.Sprint(p.Leader), strings.Trim(fmt.Sprint(p.Replicas), "[]"),
			fmt.Sprint(p.Start), fmt.Sprint(p.End), fmt.Sprint(p.End - p.Start),
		})
	}
	return a.table("PARTITION LEADER REPLICAS START END RECORDS", rows)
}

func (a *admin) createTopics(ctx context.Context, spec topicSpec, configs map[string]*string, names []string) error {
	responses, err := a.CreateTopics(ctx, spec.partitions, spec.replicas, configs, names...)
	if err != nil {
		return err
	}
	var failed []string
	for _, name := range names {
		r := responses[name]
		if r.Err != nil {
			failed = append(failed, fmt.Sprintf("topic %s was not created: %s", name, foreign(reason(r.Err, r.ErrMessage), strings.Join(spec.configs, " "))))
			continue
		}
		if a.json {
			result := topicResult{Topic: name, Partitions: int(r.NumPartitions)}
			if r.ID != (kadm.TopicID{}) {
				result.ID = r.ID.String()
			}
			err = a.print(result)
		} else {
			_, err = fmt.Fprintf(a.out, "created %s (%s)\n", name, partitions(r.NumPartitions))
		}
		if err != nil {
			return err
		}
	}
	return outcome(len(names), failed)
}

func partitions(n int32) string {
	if n == 1 {
		return "1 partition"
	}
	return fmt.Sprintf("%d partitions", n)
}

func (a *admin) deleteTopics(ctx context.Context, names []string) error {
	responses, err := a.DeleteTopics(ctx, names...)
	if err != nil {
		return err
	}
	var failed []string
	for _, name := range names {
		r := responses[name]
		if r.Err != nil {
			text := reason(r.Err, r.ErrMessage)
			if errors.Is(r.Err, kerr.UnknownTopicOrPartition) {
				text = "there is no such topic"
			}
			failed = append(failed, fmt.Sprintf("topic %s was not deleted: %s", name, text))
			continue
		}
		if a.json {
			err = a.print(map[string]string{"topic": name, "state": "deleted"})
		} else {
			_, err = fmt.Fprintf(a.out, "deleted %s\n", name)
		}
		if err != nil {
			return err
		}
	}
	return outcome(len(names), failed)
}
