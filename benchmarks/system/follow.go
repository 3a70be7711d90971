package system

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"time"
)

// followEvery is how soon a line is seen. Being woken for each, through a pipe, would cost the cores that are measured.
const followEvery = time.Millisecond

// follower reads the lines of a file that a program writes.
type follower struct {
	file  *os.File
	ended <-chan struct{} // the program has
	buf   []byte
	have  []byte // the part of buf that was not returned yet
}

// next returns the next line, which is valid until it is called again. It waits for it until ctx ends or the program does.
func (f *follower) next(ctx context.Context) ([]byte, error) {
	if f.buf == nil {
		f.buf = make([]byte, 1<<20)
	}
	for last := false; ; {
		if line, rest, ok := bytes.Cut(f.have, []byte{'\n'}); ok {
			f.have = rest
			return line, nil
		}
		n := copy(f.buf, f.have)
		if n == len(f.buf) {
			return nil, errors.New("a line of a mebibyte")
		}
		more, err := f.file.Read(f.buf[n:])
		f.have = f.buf[:n+more]
		switch {
		case more > 0:
			continue
		case err != nil && !errors.Is(err, io.EOF):
			return nil, err
		case last:
			return nil, io.ErrUnexpectedEOF
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-f.ended:
			last = true
		case <-time.After(followEvery):
		}
	}
}
