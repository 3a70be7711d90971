package checkup

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Operations of Kafka's access control lists, as bits of what a broker says is allowed.
const (
	opRead    = 1 << 3
	opWrite   = 1 << 4
	opUnknown = math.MinInt32
)

const askPermission = "ask the broker's administrator for it"

// topic looks at one topic: that it is there or could be, what it takes, what is allowed, and the group that reads it.
func (r *run) topic(ctx context.Context, client *kgo.Client, use TopicUse) {
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	req := kmsg.NewPtrMetadataRequest()
	req.IncludeTopicAuthorizedOperations = true
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = kmsg.StringPtr(use.Name)
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, client)
	if err == nil && len(resp.Topics) != 1 {
		err = fmt.Errorf("the broker answers with %d topics", len(resp.Topics))
	}
	if err != nil {
		r.fail(Topic, use.Name, err.Error(), "run the check again, with more time (--timeout)")
		return
	}
	topic := resp.Topics[0]
	switch err := kerr.ErrorForCode(topic.ErrorCode); {
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		r.missingTopic(ctx, client, use)
		return
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		r.fail(Permission, use.Name, "this user may not even see the topic (DESCRIBE)", askPermission)
		return
	case errors.Is(err, kerr.InvalidTopicException):
		r.fail(Topic, use.Name, "a broker does not accept this name", "use letters, digits, '.', '_' and '-', at most 249 of them")
		return
	case err != nil && !kerr.IsRetriable(err):
		r.fail(Topic, use.Name, err.Error(), "look into the broker's log")
		return
	}
	settings := r.settings(ctx, client, use)
	r.partitions(use, topic.Partitions, settings)
	r.permissions(use, topic.AuthorizedOperations)
	r.group(ctx, client, use)
}

// missingTopic asks whether the topic could be made, which changes nothing.
func (r *run) missingTopic(ctx context.Context, client *kgo.Client, use TopicUse) {
	adm := kadm.NewClient(client)
	answers, err := adm.ValidateCreateTopics(ctx, -1, -1, nil, use.Name)
	answer, ok := answers[use.Name]
	if err == nil && ok {
		err = answer.Err
	}
	create := "create it: 'mft-admin topics create " + use.Name + "'"
	switch {
	case use.Receipts && err == nil:
		r.ok(Topic, use.Name, "does not exist yet, and could be created (asked without doing it); the first receiver does that")
	case use.Receipts:
		r.warn(Topic, use.Name, fmt.Sprintf("receipts of what arrived go there; it does not exist, and cannot be created: %v", err), "have the broker's administrator "+create)
	case err == nil:
		detail := "does not exist, and could be created (asked without doing it)"
		if r.autoCreates(ctx, adm) {
			detail += "; the broker does that when it is first used"
			r.ok(Topic, use.Name, detail)
			return
		}
		r.warn(Topic, use.Name, detail, create)
	case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.ClusterAuthorizationFailed):
		r.fail(Topic, use.Name, "does not exist, and this user may not create it", "have the broker's administrator "+create)
	default:
		text := err.Error()
		if answer.ErrMessage != "" {
			text = answer.ErrMessage
		}
		r.fail(Topic, use.Name, "does not exist, and cannot be created: "+text, "correct the name, or what the broker objects to")
	}
}

// autoCreates tells whether a broker says that it creates topics on its own.
func (r *run) autoCreates(ctx context.Context, adm *kadm.Client) bool {
	brokers, err := adm.ListBrokers(ctx)
	if err != nil || len(brokers) == 0 {
		return false
	}
	configs, err := adm.DescribeBrokerConfigs(ctx, brokers[0].NodeID)
	if err != nil || len(configs) == 0 {
		return false
	}
	for _, c := range configs[0].Configs {
		if c.Key == "auto.create.topics.enable" {
			return c.MaybeValue() == "true"
		}
	}
	return false
}

// settings looks at what the topic does with what it is given.
func (r *run) settings(ctx context.Context, client *kgo.Client, use TopicUse) map[string]string {
	described, err := kadm.NewClient(client).DescribeTopicConfigs(ctx, use.Name)
	var configs kadm.ResourceConfig
	if err == nil {
		configs, err = described.On(use.Name, nil)
	}
	if err == nil {
		err = configs.Err
	}
	if err != nil {
		r.warn(Settings, use.Name, fmt.Sprintf("are not to be had: %v", err), "have the user be given DESCRIBE_CONFIGS; senders assume Kafka's defaults")
		return nil
	}
	settings := map[string]string{}
	for _, c := range configs.Configs {
		settings[c.Key] = c.MaybeValue()
	}
	set := func(what string) string { return "'mft-admin configs set " + use.Name + " " + what + "'" }
	fine := true
	if policy := settings["cleanup.policy"]; use.Files && strings.Contains(policy, "compact") {
		fine = false
		r.fail(Settings, use.Name, "cleanup.policy is "+policy+": of a file only its last record would stay", set("cleanup.policy=delete"))
	}
	if n, err := strconv.ParseInt(settings["max.message.bytes"], 10, 64); err == nil && n < 16<<10 {
		fine = false
		r.fail(Settings, use.Name, fmt.Sprintf("max.message.bytes is %d: too small for chunks of files", n), set("max.message.bytes=1048588"))
	}
	if ms, err := strconv.ParseInt(settings["retention.ms"], 10, 64); err == nil && ms >= 0 && time.Duration(ms)*time.Millisecond < 24*time.Hour {
		fine = false
		r.warn(Settings, use.Name, fmt.Sprintf("records are kept for %s only: a receiver that is away for longer misses files", time.Duration(ms)*time.Millisecond),
			set("retention.ms=604800000"))
	}
	if fine {
		kept := "for ever"
		if ms, err := strconv.ParseInt(settings["retention.ms"], 10, 64); err == nil && ms >= 0 {
			kept = "for " + (time.Duration(ms) * time.Millisecond).String()
		}
		r.ok(Settings, use.Name, fmt.Sprintf("records are kept %s, max.message.bytes is %s", kept, settings["max.message.bytes"]))
	}
	return settings
}

// partitions looks whether each has a leader and enough replicas.
func (r *run) partitions(use TopicUse, partitions []kmsg.MetadataResponseTopicPartition, settings map[string]string) {
	needed, err := strconv.Atoi(settings["min.insync.replicas"])
	if err != nil {
		needed = 1
	}
	var leaderless, short, behind []string
	for _, p := range partitions {
		n := strconv.Itoa(int(p.Partition))
		switch {
		case p.Leader < 0:
			leaderless = append(leaderless, n)
		case len(p.ISR) < needed:
			short = append(short, n)
		case len(p.ISR) < len(p.Replicas):
			behind = append(behind, n)
		}
	}
	const restart = "start the brokers that are down"
	if len(leaderless) > 0 {
		r.fail(Topic, use.Name, "no broker leads partition "+strings.Join(leaderless, ", "), restart)
	}
	if len(short) > 0 && use.Send && use.AcksAll {
		r.fail(Topic, use.Name, fmt.Sprintf("fewer than min.insync.replicas=%d replicas are in sync of partition %s: nothing sent with acks=all is taken", needed, strings.Join(short, ", ")), restart)
	}
	if len(behind) > 0 {
		r.warn(Topic, use.Name, "not all replicas are in sync of partition "+strings.Join(behind, ", "), restart)
	}
	if len(leaderless)+len(short)+len(behind) == 0 {
		detail := fmt.Sprintf("exists, with %d partitions", len(partitions))
		if len(partitions) == 1 {
			detail = "exists, with 1 partition"
		}
		if len(partitions) > 0 && len(partitions[0].Replicas) > 1 {
			detail += fmt.Sprintf(" of %d replicas", len(partitions[0].Replicas))
		}
		r.ok(Topic, use.Name, detail)
	}
}

// permissions looks at what the broker says that this user may do.
func (r *run) permissions(use TopicUse, allowed int32) {
	if allowed == opUnknown {
		r.warn(Permission, use.Name, "the broker does not say what this user may do", "try it with --probe, or by sending something")
		return
	}
	var may, mayNot []string
	for _, op := range []struct {
		want bool
		bit  int32
		name string
	}{{use.Send, opWrite, "write"}, {use.Receive, opRead, "read"}} {
		switch {
		case !op.want:
		case allowed&op.bit != 0:
			may = append(may, op.name)
		default:
			mayNot = append(mayNot, op.name)
		}
	}
	if len(mayNot) > 0 {
		r.fail(Permission, use.Name, "this user may not "+strings.Join(mayNot, " and "), askPermission)
	} else if len(may) > 0 {
		r.ok(Permission, use.Name, "this user may "+strings.Join(may, " and ")+", says the broker")
	}
}

// group looks at the receiver's group.
func (r *run) group(ctx context.Context, client *kgo.Client, use TopicUse) {
	if use.Group == "" {
		return
	}
	adm := kadm.NewClient(client)
	var lag kadm.DescribedGroupLag
	for {
		lags, err := adm.Lag(ctx, use.Group)
		lag = lags[use.Group]
		if err == nil || len(lags) > 0 {
			err = errors.Join(lag.DescribeErr, lag.FetchErr)
		}
		switch {
		case errors.Is(err, kerr.CoordinatorNotAvailable) && ctx.Err() == nil: // Kafka makes the topic of groups when it is first asked
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		case errors.Is(err, kerr.GroupIDNotFound), err == nil && lag.State == "Dead":
			r.ok(Group, use.Group, "does not exist yet; it is made when the receiver first starts, and then begins with the first file of "+use.Name)
			return
		case errors.Is(err, kerr.GroupAuthorizationFailed):
			r.fail(Group, use.Group, "this user may not use the group", askPermission)
			return
		case err != nil:
			r.fail(Group, use.Group, err.Error(), "look into the broker's log, or run the check again")
			return
		}
		break
	}
	var behind int64
	for _, l := range lag.Lag[use.Name] {
		behind += max(l.Lag, 0)
	}
	text := fmt.Sprintf("%s, %d members, %d records of %s to be read", strings.ToLower(lag.State), len(lag.Members), behind, use.Name)
	if len(lag.Members) == 0 && behind > 0 {
		r.warn(Group, use.Group, text, "nobody receives: start mft-consume")
		return
	}
	r.ok(Group, use.Group, text)
}
