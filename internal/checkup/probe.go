package checkup

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	maxClockDifference = 5 * time.Second
	probeSubject       = "this machine and the broker"
	notProbed          = "not compared: a broker tells its time only with what is written to it. --probe makes a topic for a moment and compares"
)

// clock compares the clock of the broker with this machine's. The way to learn the broker's time is a record of a topic whose records get
// the broker's time (LogAppendTime), so that it takes a topic; that this works shows the rest, too.
func (r *run) clock(ctx context.Context, client *kgo.Client) {
	if !r.Probe {
		r.skip(Clock, probeSubject, notProbed)
		return
	}
	topic := "mft.check." + randomName()
	adm := kadm.NewClient(client)
	bounded, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	logAppendTime := "LogAppendTime"
	answer, err := adm.CreateTopic(bounded, 1, -1, map[string]*string{"message.timestamp.type": &logAppendTime}, topic)
	if err != nil {
		if answer.ErrMessage != "" {
			err = fmt.Errorf("%w: %s", err, answer.ErrMessage)
		}
		r.fail(Permission, topic, fmt.Sprintf("a topic cannot be made: %v", err), "have topics made by the broker's administrator, or ask for the permission CREATE")
		r.skip(Clock, probeSubject, "not compared: the probe's topic cannot be made")
		return
	}
	stamp, before, after, err := writeAndRead(bounded, client, topic)
	// Also when the user does not want to wait any longer.
	removing, stop := context.WithTimeout(context.WithoutCancel(ctx), r.Timeout)
	defer stop()
	if _, deleteErr := adm.DeleteTopic(removing, topic); deleteErr != nil {
		r.fail(Permission, topic, fmt.Sprintf("the probe's topic cannot be deleted: %v", deleteErr), "delete it: 'mft-admin topics delete "+topic+"'")
	}
	if err != nil {
		r.fail(Permission, topic, fmt.Sprintf("the probe's topic was made, and cannot be written and read: %v", err), "look into the broker's log")
		r.skip(Clock, probeSubject, "not compared: the probe failed")
		return
	}
	r.ok(Permission, topic, "a topic was made, written, read and deleted")
	r.compare(stamp, before, after)
}

// compare tells of the difference: the broker's time lies between the two of this machine when the clocks agree.
func (r *run) compare(broker, before, after time.Time) {
	half := after.Sub(before) / 2
	difference := broker.Sub(before.Add(half))
	away := max(difference.Abs()-half-time.Millisecond, 0) // stamps are in whole milliseconds
	text := fmt.Sprintf("the broker's clock is %s ahead, give or take %s", difference.Round(time.Millisecond), (half + time.Millisecond).Round(time.Millisecond))
	if difference < 0 {
		text = fmt.Sprintf("the broker's clock is %s behind, give or take %s", -difference.Round(time.Millisecond), (half + time.Millisecond).Round(time.Millisecond))
	}
	if away == 0 {
		text = fmt.Sprintf("the clocks agree, give or take %s", (half + time.Millisecond).Round(time.Millisecond))
	}
	if away > maxClockDifference {
		r.fail(Clock, probeSubject, text, "have both set by NTP (timedatectl, chronyc tracking): retention by time, --from TIME and schedules go by the clock")
		return
	}
	r.ok(Clock, probeSubject, text)
}

// writeAndRead writes a record and reads it: the broker's time of it lies between before and after.
func writeAndRead(ctx context.Context, admin *kgo.Client, topic string) (stamp, before, after time.Time, err error) {
	opts := append(admin.Opts(), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}))
	client, err := kgo.NewClient(append(opts, kgo.ProducerLinger(0))...)
	if err != nil {
		return stamp, before, after, err
	}
	defer client.Close()
	// The first opens connections, and is not timed.
	for range 2 {
		before = time.Now()
		if err := client.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("mft-admin check")}).FirstErr(); err != nil {
			return stamp, before, after, err
		}
		after = time.Now()
	}
	for read := 0; read < 2; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return stamp, before, after, err
		}
		fetches.EachRecord(func(rec *kgo.Record) { read, stamp = read+1, rec.Timestamp })
	}
	return stamp, before, after, nil
}

func randomName() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
