package checkup

import (
	"testing"
	"time"
)

// The rest is tested through mft-admin check; a clock that is wrong cannot be had there.
func TestCompareClocks(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		ahead time.Duration
		trip  time.Duration // there and back
		state State
		text  string
	}{
		{0, 2 * time.Millisecond, OK, "the clocks agree, give or take 2ms"},
		{-40 * time.Millisecond, 100 * time.Millisecond, OK, "the clocks agree, give or take 51ms"},
		{2 * time.Second, 0, OK, "the broker's clock is 2s ahead, give or take 1ms"},
		{-time.Hour, 20 * time.Millisecond, Failed, "the broker's clock is 1h0m0s behind, give or take 11ms"},
		{6 * time.Second, 0, Failed, "the broker's clock is 6s ahead, give or take 1ms"},
		{6 * time.Second, 4 * time.Second, OK, "the broker's clock is 6s ahead, give or take 2.001s"},
	} {
		var got Finding
		r := &run{report: func(f Finding) { got = f }}
		r.compare(now.Add(c.trip/2+c.ahead), now, now.Add(c.trip))
		if got.State != c.state || got.Detail != c.text || (got.Remedy != "") != (c.state == Failed) {
			t.Errorf("%v ahead, %v: %+v", c.ahead, c.trip, got)
		}
	}
}
