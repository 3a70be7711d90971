package broker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeConfigs (32), AlterConfigs (33, versions 0-2) and
// IncrementalAlterConfigs (44, versions 0-1).
//
// Configs of topics take effect at once and survive restarts; unknown names and
// values that cannot be are refused, all of a resource or nothing of it is
// changed. Configs of the broker are in its configuration file and on its
// command line, so they can be read here but not changed. There are no loggers,
// client metrics or groups with configs.

// Operations of IncrementalAlterConfigs.
const (
	opSet      = 0
	opDelete   = 1
	opAppend   = 2
	opSubtract = 3
)

// configChange makes the configs set on a topic into those that are to be. It
// may change and return its argument.
type configChange func(set map[string]string) (map[string]string, error)

func (b *Broker) alterConfigs(ctx context.Context, req *kmsg.AlterConfigsRequest) kmsg.Response {
	r := req.ResponseKind().(*kmsg.AlterConfigsResponse)
	named := map[configResource]int{}
	for _, rr := range req.Resources {
		named[configResource{rr.ResourceType, rr.ResourceName}]++
	}
	for _, rr := range req.Resources {
		change := func(map[string]string) (map[string]string, error) {
			set := make(map[string]string, len(rr.Configs))
			for _, c := range rr.Configs {
				if c.Value == nil {
					return nil, apiError(kerr.InvalidRequest, fmt.Sprintf("topic config %s has no value: leave it out to return to its default", c.Name))
				}
				if _, twice := set[c.Name]; twice {
					return nil, apiError(kerr.InvalidRequest, fmt.Sprintf("the request names %s more than once", c.Name))
				}
				set[c.Name] = *c.Value
			}
			return set, nil
		}
		out := kmsg.NewAlterConfigsResponseResource()
		out.ResourceType, out.ResourceName = rr.ResourceType, rr.ResourceName
		at := configResource{rr.ResourceType, rr.ResourceName}
		out.ErrorCode, out.ErrorMessage = errorCode(b.alter(ctx, at, named[at] > 1, change, req.ValidateOnly))
		r.Resources = append(r.Resources, out)
	}
	return r
}

func (b *Broker) incrementalAlterConfigs(ctx context.Context, req *kmsg.IncrementalAlterConfigsRequest) kmsg.Response {
	r := req.ResponseKind().(*kmsg.IncrementalAlterConfigsResponse)
	named := map[configResource]int{}
	for _, rr := range req.Resources {
		named[configResource{rr.ResourceType, rr.ResourceName}]++
	}
	for _, rr := range req.Resources {
		change := func(set map[string]string) (map[string]string, error) {
			seen := map[string]bool{}
			for _, c := range rr.Configs {
				if seen[c.Name] {
					return nil, apiError(kerr.InvalidRequest, fmt.Sprintf("the request names %s more than once", c.Name))
				}
				seen[c.Name] = true
				if err := changeConfig(b.cfg.TopicDefaults, set, c.Name, int(c.Op), c.Value); err != nil {
					return nil, err
				}
			}
			return set, nil
		}
		out := kmsg.NewIncrementalAlterConfigsResponseResource()
		out.ResourceType, out.ResourceName = rr.ResourceType, rr.ResourceName
		at := configResource{rr.ResourceType, rr.ResourceName}
		out.ErrorCode, out.ErrorMessage = errorCode(b.alter(ctx, at, named[at] > 1, change, req.ValidateOnly))
		r.Resources = append(r.Resources, out)
	}
	return r
}

// configResource names what a config belongs to.
type configResource struct {
	typ  kmsg.ConfigResourceType
	name string
}

// changeConfig carries out one operation on the configs set on a topic.
func changeConfig(defaults, set map[string]string, name string, op int, value *string) error {
	i := slices.IndexFunc(topicConfigs[:], func(d configDef) bool { return d.name == name })
	if i < 0 {
		return apiError(kerr.InvalidConfig, fmt.Sprintf("unknown topic config %q: known are %s", name, knownTopicConfigs()))
	}
	d := &topicConfigs[i]
	if op == opDelete {
		delete(set, name)
		return nil
	}
	if value == nil {
		return apiError(kerr.InvalidRequest, fmt.Sprintf("topic config %s has no value", name))
	}
	switch op {
	case opSet:
		set[name] = *value
		return nil
	case opAppend, opSubtract:
		if d.typ != kmsg.ConfigTypeList {
			return apiError(kerr.InvalidRequest, fmt.Sprintf("topic config %s is not a list: set it", name))
		}
		now, _ := d.value(defaults, set)
		list := splitList(now)
		for _, item := range splitList(*value) {
			list = slices.DeleteFunc(list, func(s string) bool { return s == item })
			if op == opAppend {
				list = append(list, item)
			}
		}
		set[name] = strings.Join(list, ",")
		return nil
	}
	return apiError(kerr.InvalidRequest, fmt.Sprintf("operation %d on topic config %s is unknown", op, name))
}

// alter changes the configs of one resource. twice: the request names it more than once.
func (b *Broker) alter(ctx context.Context, at configResource, twice bool, change configChange, validateOnly bool) error {
	switch {
	case twice:
		return apiError(kerr.InvalidRequest, fmt.Sprintf("the request names %v %q more than once", at.typ, at.name))
	case at.typ == kmsg.ConfigResourceTypeBroker:
		return apiError(kerr.InvalidRequest, "the broker's settings cannot be changed while it runs: change its configuration and start it again")
	case at.typ != kmsg.ConfigResourceTypeTopic:
		return apiError(kerr.InvalidRequest, fmt.Sprintf("configs of %v are not kept here", at.typ))
	}
	set, err := b.topics.configure(ctx, at.name, change, validateOnly)
	if err == nil && !validateOnly {
		b.log.Info().Str("topic", at.name).Interface("configs", set).Msg("topic configs changed")
		b.store.RequestClean()
	}
	return err
}

// configure changes the configs set on a topic: in the journal first, then in
// the logs. It returns what is set then.
func (t *topics) configure(ctx context.Context, name string, change configChange, validateOnly bool) (map[string]string, error) {
	t.change.Lock()
	defer t.change.Unlock()
	have := t.get(name)
	if have == nil {
		return nil, apiError(kerr.UnknownTopicOrPartition, fmt.Sprintf("topic %q does not exist", name))
	}
	set := maps.Clone(have.Configs)
	if set == nil {
		set = map[string]string{}
	}
	set, err := change(set)
	if err != nil {
		return nil, err
	}
	config, err := parseTopicConfig(t.defaults, set)
	if err != nil {
		return nil, apiError(kerr.InvalidConfig, err.Error())
	}
	if validateOnly || maps.Equal(set, have.Configs) {
		return set, nil
	}
	n := *have
	n.Configs, n.config = set, config
	if err := t.propose(ctx, metaEntry{Kind: kindTopicConfigs, Topic: &topicMeta{Name: n.Name, ID: n.ID, Configs: set}}); err != nil {
		return nil, err
	}
	t.publish(&n)
	for _, l := range n.logs {
		l.SetConfig(config.log)
	}
	return set, nil
}

// kafka returns the source as DescribeConfigs numbers it.
func (s configSource) kafka() kmsg.ConfigSource {
	switch s {
	case sourceTopic:
		return kmsg.ConfigSourceDynamicTopicConfig
	case sourceBroker:
		return kmsg.ConfigSourceStaticBrokerConfig
	}
	return kmsg.ConfigSourceDefaultConfig
}

func (b *Broker) describeConfigs(req *kmsg.DescribeConfigsRequest) kmsg.Response {
	r := req.ResponseKind().(*kmsg.DescribeConfigsResponse)
	for _, rr := range req.Resources {
		out := kmsg.NewDescribeConfigsResponseResource()
		out.ResourceType, out.ResourceName = rr.ResourceType, rr.ResourceName
		switch rr.ResourceType {
		case kmsg.ConfigResourceTypeTopic:
			t := b.topics.get(rr.ResourceName)
			if t == nil {
				out.ErrorCode = kerr.UnknownTopicOrPartition.Code
				out.ErrorMessage = kmsg.StringPtr(fmt.Sprintf("topic %q does not exist", rr.ResourceName))
				break
			}
			out.Configs = b.describeTopicConfigs(rr.ConfigNames, t.Configs, req)
		case kmsg.ConfigResourceTypeBroker:
			if rr.ResourceName != "" && rr.ResourceName != fmt.Sprint(nodeID) {
				out.ErrorCode = kerr.InvalidRequest.Code
				out.ErrorMessage = kmsg.StringPtr(fmt.Sprintf("broker %q does not exist: the only one is %d", rr.ResourceName, nodeID))
				break
			}
			out.Configs = b.describeBrokerConfigs(rr.ConfigNames)
		default:
			out.ErrorCode = kerr.InvalidRequest.Code
			out.ErrorMessage = kmsg.StringPtr(fmt.Sprintf("configs of %v are not kept here", rr.ResourceType))
		}
		r.Resources = append(r.Resources, out)
	}
	return r
}

func (b *Broker) describeTopicConfigs(names []string, set map[string]string, req *kmsg.DescribeConfigsRequest) []kmsg.DescribeConfigsResponseResourceConfig {
	var configs []kmsg.DescribeConfigsResponseResourceConfig
	for i := range topicConfigs {
		d := &topicConfigs[i]
		if names != nil && !slices.Contains(names, d.name) {
			continue
		}
		v, source := d.value(b.cfg.TopicDefaults, set)
		c := kmsg.NewDescribeConfigsResponseResourceConfig()
		c.Name, c.Value, c.ConfigType = d.name, kmsg.StringPtr(v), d.typ
		c.IsDefault, c.Source = source != sourceTopic, source.kafka()
		if req.IncludeDocumentation {
			c.Documentation = kmsg.StringPtr(d.doc)
		}
		if req.IncludeSynonyms {
			for s := source; s >= sourceDefault; s-- {
				maps := [...]map[string]string{sourceDefault: {d.name: d.def}, sourceBroker: b.cfg.TopicDefaults, sourceTopic: set}
				v, ok := maps[s][d.name]
				if !ok {
					continue
				}
				syn := kmsg.NewDescribeConfigsResponseResourceConfigConfigSynonym()
				syn.Name, syn.Value, syn.Source = d.name, kmsg.StringPtr(v), s.kafka()
				c.ConfigSynonyms = append(c.ConfigSynonyms, syn)
			}
		}
		configs = append(configs, c)
	}
	return configs
}

// describeBrokerConfigs shows the broker's own settings by Kafka's names.
func (b *Broker) describeBrokerConfigs(names []string) []kmsg.DescribeConfigsResponseResourceConfig {
	var configs []kmsg.DescribeConfigsResponseResourceConfig
	for _, s := range []struct {
		name, value string
		typ         kmsg.ConfigType
	}{
		{"auto.create.topics.enable", fmt.Sprint(b.cfg.AutoCreateTopics), kmsg.ConfigTypeBoolean},
		{"broker.id", fmt.Sprint(nodeID), kmsg.ConfigTypeInt},
		{"connections.max.idle.ms", fmt.Sprint(b.cfg.IdleTimeout.Milliseconds()), kmsg.ConfigTypeLong},
		{"log.dirs", b.cfg.Data, kmsg.ConfigTypeString},
		{"max.connections", fmt.Sprint(b.cfg.MaxConnections), kmsg.ConfigTypeInt},
		{"num.partitions", fmt.Sprint(b.cfg.DefaultPartitions), kmsg.ConfigTypeInt},
		{"queued.max.request.bytes", fmt.Sprint(b.cfg.MaxInFlightBytes), kmsg.ConfigTypeLong},
		{"socket.request.max.bytes", fmt.Sprint(b.cfg.MaxFrameBytes), kmsg.ConfigTypeInt},
	} {
		if names != nil && !slices.Contains(names, s.name) {
			continue
		}
		c := kmsg.NewDescribeConfigsResponseResourceConfig()
		c.Name, c.Value, c.ConfigType = s.name, kmsg.StringPtr(s.value), s.typ
		c.ReadOnly, c.Source = true, kmsg.ConfigSourceStaticBrokerConfig
		configs = append(configs, c)
	}
	return configs
}
