package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

func newGroups(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "groups", Short: "List and describe consumer groups."}
	list := &cobra.Command{
		Use: "list", Short: "List the consumer groups.", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.with(cmd, func(ctx context.Context, a *admin) error { return a.listGroups(ctx) })
		},
	}
	describe := &cobra.Command{
		Use: "describe GROUP...", Short: "Show members, offsets and lag of consumer groups.", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			return o.with(cmd, func(ctx context.Context, a *admin) error { return a.describeGroups(ctx, names) })
		},
	}
	cmd.AddCommand(list, describe)
	return cmd
}

// groupResult is a group as JSON.
type groupResult struct {
	Group    string         `json:"group"`
	State    string         `json:"state"`
	Protocol string         `json:"protocol,omitempty"`
	Lag      *int64         `json:"lag,omitempty"`
	Members  []memberResult `json:"members,omitempty"`
	Offsets  []offsetResult `json:"offsets,omitempty"`
}

type memberResult struct {
	Member   string             `json:"member"`
	Client   string             `json:"client"`
	Host     string             `json:"host"`
	Assigned map[string][]int32 `json:"assigned"`
}

type offsetResult struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Committed *int64 `json:"committed"` // null: nothing committed yet
	End       int64  `json:"end"`
	Lag       int64  `json:"lag"`
	Member    string `json:"member,omitempty"`
}

func (a *admin) listGroups(ctx context.Context) error {
	groups, err := a.ListGroups(ctx)
	if err != nil {
		return err
	}
	var rows [][]string
	for _, g := range groups.Sorted() {
		if a.json {
			if err := a.print(groupResult{Group: g.Group, State: g.State, Protocol: g.ProtocolType}); err != nil {
				return err
			}
		}
		rows = append(rows, []string{g.Group, cmp.Or(g.State, "-"), cmp.Or(g.ProtocolType, "-")})
	}
	if a.json {
		return nil
	}
	return a.table("GROUP STATE PROTOCOL", rows)
}

func (a *admin) describeGroups(ctx context.Context, names []string) error {
	lags, err := a.lag(ctx, names)
	if err != nil {
		return err
	}
	var failed []string
	shown := 0
	for _, name := range names {
		g, ok := lags[name]
		err := errors.Join(g.DescribeErr, g.FetchErr)
		switch {
		case !ok, errors.Is(err, kerr.GroupIDNotFound), err == nil && g.State == "Dead":
			failed = append(failed, fmt.Sprintf("there is no group %s: 'mft-admin groups list' shows those there are", name))
			continue
		case err != nil:
			failed = append(failed, fmt.Sprintf("group %s: %v", name, err))
			continue
		}
		if err := a.showGroup(describedGroup(g), shown > 0); err != nil {
			return err
		}
		shown++
	}
	return outcome(len(names), failed)
}

// lag asks for groups. A Kafka that was never asked for one first makes the topic that they are in.
func (a *admin) lag(ctx context.Context, names []string) (kadm.DescribedGroupLags, error) {
	for {
		lags, err := a.Lag(ctx, names...)
		again := errors.Is(err, kerr.CoordinatorNotAvailable)
		for _, g := range lags {
			again = again || errors.Is(g.DescribeErr, kerr.CoordinatorNotAvailable)
		}
		if !again {
			return lags, err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return lags, errors.Join(err, ctx.Err())
		}
	}
}

func describedGroup(g kadm.DescribedGroupLag) groupResult {
	result := groupResult{Group: g.Group, State: g.State, Protocol: g.Protocol}
	for _, m := range g.Members {
		member := memberResult{Member: m.MemberID, Client: m.ClientID, Host: strings.TrimPrefix(m.ClientHost, "/"), Assigned: map[string][]int32{}}
		if assigned, ok := m.Assigned.AsConsumer(); ok {
			for _, t := range assigned.Topics {
				member.Assigned[t.Topic] = t.Partitions
			}
		}
		result.Members = append(result.Members, member)
	}
	var total int64
	for _, l := range g.Lag.Sorted() {
		offset := offsetResult{Topic: l.Topic, Partition: l.Partition, End: l.End.Offset, Lag: l.Lag}
		if l.Commit.At >= 0 {
			offset.Committed = &l.Commit.At
		}
		if l.Member != nil {
			offset.Member = l.Member.MemberID
		}
		total += max(l.Lag, 0)
		result.Offsets = append(result.Offsets, offset)
	}
	result.Lag = &total
	return result
}

func (a *admin) showGroup(g groupResult, another bool) error {
	if a.json {
		return a.print(g)
	}
	if another {
		fmt.Fprintln(a.out)
	}
	fmt.Fprintf(a.out, "group     %s\nstate     %s\nassignor  %s\nlag       %d\n\n", g.Group, g.State, cmp.Or(g.Protocol, "-"), *g.Lag)
	if len(g.Members) > 0 {
		var rows [][]string
		for _, m := range g.Members {
			rows = append(rows, []string{m.Member, m.Client, m.Host, assignment(m.Assigned)})
		}
		if err := a.table("MEMBER CLIENT HOST ASSIGNED", rows); err != nil {
			return err
		}
		fmt.Fprintln(a.out)
	}
	var rows [][]string
	for _, o := range g.Offsets {
		committed := "-"
		if o.Committed != nil {
			committed = fmt.Sprint(*o.Committed)
		}
		rows = append(rows, []string{o.Topic, fmt.Sprint(o.Partition), committed, fmt.Sprint(o.End), fmt.Sprint(o.Lag), cmp.Or(o.Member, "-")})
	}
	return a.table("TOPIC PARTITION COMMITTED END LAG MEMBER", rows)
}

// assignment is "orders 0,1; prices 0".
func assignment(topics map[string][]int32) string {
	var parts []string
	for _, topic := range slices.Sorted(maps.Keys(topics)) {
		numbers := strings.ReplaceAll(strings.Trim(fmt.Sprint(slices.Sorted(slices.Values(topics[topic]))), "[]"), " ", ",")
		parts = append(parts, topic+" "+numbers)
	}
	return cmp.Or(strings.Join(parts, "; "), "-")
}
