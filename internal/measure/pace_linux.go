package measure

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// timer sleeps to some ten microseconds. Go's own timers wait in whole milliseconds when nothing else happens in the
// process, which is more than most latencies here.
type timer struct {
	f   *os.File
	fd  int
	buf [8]byte
}

func newTimer() (*timer, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a timer: %w", err)
	}
	return &timer{f: os.NewFile(uintptr(fd), "timer"), fd: fd}, nil
}

func (t *timer) close() error { return t.f.Close() }

// sleep sleeps for about d, and no longer than a second, after which ctx is looked at.
func (t *timer) sleep(ctx context.Context, d time.Duration) error {
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(min(d, time.Second)))}
	if err := unix.TimerfdSettime(t.fd, 0, &spec, nil); err != nil {
		return fmt.Errorf("set a timer: %w", err)
	}
	if _, err := t.f.Read(t.buf[:]); err != nil {
		return fmt.Errorf("wait for a timer: %w", err)
	}
	return ctx.Err()
}
