package segment

import (
	"context"
	"errors"
	"math"
	"reflect"
	"testing"
	"time"

	"mft/protocol"
)

// sent is a batch of n records of an idempotent producer.
type sent struct {
	id    int64
	epoch int16
	seq   int32
	n     int
}

func (b sent) batch(t testing.TB) protocol.Batch {
	return batchOf(t, b.n, 5, 0, &protocol.BatchProducer{ID: b.id, Epoch: b.epoch, Sequence: b.seq})
}

func TestIdempotence(t *testing.T) {
	type step struct {
		sent
		base      int64 // where it goes or went
		duplicate bool
		err       error
	}
	for _, tc := range []struct {
		name  string
		steps []step
	}{
		{"in sequence, and a retry of each", []step{
			{sent{1, 0, 0, 3}, 0, false, nil}, {sent{1, 0, 0, 3}, 0, true, nil}, {sent{1, 0, 3, 2}, 3, false, nil}, {sent{1, 0, 3, 2}, 3, true, nil},
			{sent{1, 0, 0, 3}, 0, true, nil}, {sent{1, 0, 5, 1}, 5, false, nil},
		}},
		{"a gap", []step{{sent{1, 0, 0, 3}, 0, false, nil}, {sent{1, 0, 4, 1}, 0, false, ErrOutOfOrderSequence}, {sent{1, 0, 3, 1}, 3, false, nil}}},
		{"an overlap", []step{{sent{1, 0, 0, 3}, 0, false, nil}, {sent{1, 0, 2, 3}, 0, false, ErrOutOfOrderSequence}, {sent{1, 0, 0, 2}, 0, false, ErrOutOfOrderSequence}}},
		{"only the last five are known", []step{
			{sent{1, 0, 0, 1}, 0, false, nil}, {sent{1, 0, 1, 1}, 1, false, nil}, {sent{1, 0, 2, 1}, 2, false, nil},
			{sent{1, 0, 3, 1}, 3, false, nil}, {sent{1, 0, 4, 1}, 4, false, nil}, {sent{1, 0, 5, 1}, 5, false, nil},
			{sent{1, 0, 1, 1}, 1, true, nil}, {sent{1, 0, 0, 1}, 0, false, ErrDuplicateSequence}, {sent{1, 0, 7, 1}, 0, false, ErrOutOfOrderSequence}, {sent{1, 0, 6, 1}, 6, false, nil},
		}},
		{"an unknown producer may begin anywhere", []step{
			{sent{1, 3, 77, 1}, 0, false, nil}, {sent{1, 3, 78, 1}, 1, false, nil}, {sent{1, 3, 80, 1}, 0, false, ErrOutOfOrderSequence},
			{sent{1, 3, 79, 1}, 2, false, nil}, {sent{1, 3, 80, 1}, 3, false, nil}, {sent{1, 3, 81, 1}, 4, false, nil}, {sent{1, 3, 82, 1}, 5, false, nil},
			{sent{1, 3, 70, 1}, 0, false, ErrOutOfOrderSequence}, // never seen
		}},
		{"epochs", []step{
			{sent{1, 5, 0, 1}, 0, false, nil}, {sent{1, 4, 1, 1}, 0, false, ErrInvalidProducerEpoch}, {sent{1, 6, 1, 1}, 0, false, ErrOutOfOrderSequence},
			{sent{1, 6, 0, 1}, 1, false, nil}, {sent{1, 5, 0, 1}, 0, false, ErrInvalidProducerEpoch}, {sent{1, 6, 0, 1}, 1, true, nil}, {sent{1, 6, 1, 1}, 2, false, nil},
		}},
		{"two producers", []step{
			{sent{1, 0, 0, 1}, 0, false, nil}, {sent{2, 0, 0, 1}, 1, false, nil}, {sent{1, 0, 1, 1}, 2, false, nil}, {sent{2, 0, 0, 1}, 1, true, nil},
		}},
		{"sequence numbers start over", []step{
			{sent{1, 0, math.MaxInt32 - 1, 1}, 0, false, nil}, {sent{1, 0, math.MaxInt32, 3}, 1, false, nil}, {sent{1, 0, math.MaxInt32, 3}, 1, true, nil},
			{sent{1, 0, 3, 1}, 0, false, ErrOutOfOrderSequence}, {sent{1, 0, 2, 1}, 4, false, nil},
		}},
		{"no producer id", []step{{sent{-1, -1, -1, 1}, 0, false, nil}, {sent{-1, -1, -1, 1}, 1, false, nil}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			s := openStore(t, dir, Options{})
			l := openLog(t, s, testTopic, LogConfig{})
			for i, step := range tc.steps {
				a, err := l.Append(step.batch(t))
				if !errors.Is(err, step.err) || err == nil && (a.BaseOffset != step.base || a.LastOffset != step.base+int64(step.n)-1 || a.Duplicate != step.duplicate) {
					t.Fatalf("step %d, %+v: %+v, %v", i, step, a, err)
				}
				waitDurable(t, l)
				switch i % 3 { // nothing of this may matter
				case 0:
					dir = copyDir(t, dir)
				case 1:
					closeStore(t, s)
				case 2:
					must(t, s.Checkpoint(context.Background()))
					continue
				}
				before := l.producers.clone()
				s = openStore(t, dir, Options{})
				l = openLog(t, s, testTopic, LogConfig{})
				for _, p := range before {
					p.used = 0
				}
				after := l.producers.clone()
				for _, p := range after {
					p.used = 0
				}
				if !reflect.DeepEqual(before, after) {
					t.Fatalf("step %d: %+v became %+v", i, before, after)
				}
			}
		})
	}
}

func TestIdempotenceWithinOneAppend(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	l := openLog(t, s, testTopic, LogConfig{})
	join := func(batches ...sent) (joined []byte) {
		for _, b := range batches {
			joined = append(joined, b.batch(t)...)
		}
		return joined
	}
	if a, err := l.Append(join(sent{1, 0, 0, 2}, sent{1, 0, 2, 1}, sent{2, 0, 0, 1})); err != nil || a.LastOffset != 3 {
		t.Errorf("%+v, %v", a, err)
	}
	if a, err := l.Append(join(sent{1, 0, 0, 2}, sent{1, 0, 2, 1})); err != nil || !a.Duplicate || a.BaseOffset != 0 || a.LastOffset != 2 {
		t.Errorf("%+v, %v", a, err)
	}
	for _, bad := range [][]byte{join(sent{1, 0, 3, 1}, sent{1, 0, 5, 1}), join(sent{1, 0, 2, 1}, sent{1, 0, 3, 1})} {
		if _, err := l.Append(bad); !errors.Is(err, ErrOutOfOrderSequence) {
			t.Error(err)
		}
	}
	if l.EndOffset() != 4 {
		t.Errorf("end %d", l.EndOffset())
	}
}

func TestProducersExpire(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	s := openStore(t, t.TempDir(), Options{Clock: func() time.Time { return now }})
	l := openLog(t, s, testTopic, LogConfig{})
	appendBatch(t, l, sent{1, 0, 0, 1}.batch(t))
	waitDurable(t, l)
	now = now.Add(producerExpiry - time.Hour)
	appendBatch(t, l, sent{2, 0, 0, 1}.batch(t))
	waitDurable(t, l)
	must(t, s.Checkpoint(context.Background()))
	now = now.Add(2 * time.Hour)
	must(t, s.Checkpoint(context.Background()))
	if ids := l.producers.ids(); len(ids) != 1 || ids[0] != 2 {
		t.Errorf("producers %v", ids)
	}
}

func TestSnapshotRoundTrip(t *testing.T) {
	want := &snapshot{generation: 7, epoch: 3, hasState: true, state: []byte("state"), logs: []logPoint{
		{id: testTopic, lastTime: -1, max: timeEntry{timestamp: -1}},
		{
			id: LogID{"other", [16]byte{15: 1}, 99}, start: 1, base: 2, position: 3, offset: 4, offsets: 5, times: 6, unmarked: 7,
			max: timeEntry{8, 9}, lastTime: 10, epochs: epochs{{1, 2}, {3, 4}},
			producers: producers{5: {epoch: 1, n: 2, whole: true, batches: [keptBatches]sentBatch{{1, 2, 3, 4}, {5, 6, 7, 8}}, used: 11}, 6: {}},
		},
	}}
	got, err := decodeSnapshot("x", want.encode())
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
}
