//go:build !unix

package producer_test

import "errors"

func makePipe(string) error { return errors.ErrUnsupported }
