package measure

import (
	"context"
	"errors"
	"time"
)

// Pace calls send total times, rate times a second, with the time at which each call was due. When send or the
// machine is late, the calls that are due follow at once, with the times at which they should have been made: what is
// measured from there charges a stall to every call that had to wait (no coordinated omission). It ends early when
// send fails, or ctx ends.
func Pace(ctx context.Context, rate float64, total int64, send func(due time.Time) error) (err error) {
	interval := float64(time.Second) / rate
	timer, err := newTimer()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, timer.close()) }()
	start := time.Now()
	for i := range total {
		due := start.Add(time.Duration(float64(i) * interval))
		for wait := time.Until(due); wait > 0; wait = time.Until(due) {
			if err := timer.sleep(ctx, wait); err != nil {
				return err
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := send(due); err != nil {
			return err
		}
	}
	return nil
}
