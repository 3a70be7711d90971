package producer

import (
	"errors"
	"io/fs"
	"time"
)

// DefaultRetries is how often a file that cannot be read, or that changes while
// it is, is tried again.
const DefaultRetries = 3

const (
	retryWait    = 300 * time.Millisecond // before the first retry; doubles
	maxRetryWait = time.Minute
)

// retries is how often a file is tried again.
func (c *Config) retries() int {
	switch {
	case c.Retries == 0:
		return DefaultRetries
	case c.Retries < 0:
		return 0
	}
	return c.Retries
}

// retryWait is how long to wait before the nth retry, counted from 1.
func (c *Config) retryWait(n int) time.Duration {
	if n > 16 {
		return maxRetryWait
	}
	return min(retryWait<<(n-1), maxRetryWait)
}

// worthRetrying tells whether another try may do better: the file changed while
// it was read, or the system could not read it. One that is gone stays gone.
func worthRetrying(why error) bool {
	if _, changed := errors.AsType[*changedError](why); changed {
		return true
	}
	_, system := errors.AsType[*fs.PathError](why)
	return system && !errors.Is(why, fs.ErrNotExist)
}
