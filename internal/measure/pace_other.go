//go:build !linux

package measure

import (
	"context"
	"time"
)

type timer struct{}

func newTimer() (*timer, error) { return &timer{}, nil }

func (*timer) close() error { return nil }

func (*timer) sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
