package producer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mft/protocol"
)

// LineOptions say how a line becomes a record.
type LineOptions struct {
	// KeyDelim splits a line at its first occurrence into key and value; a
	// line without it has no key. "": lines have no keys.
	KeyDelim string
	// Key is the key of every record; nil: none. Not together with KeyDelim.
	Key []byte
	// Headers are those of every record.
	Headers []protocol.Header
}

// FollowOptions say how a growing file is followed.
type FollowOptions struct {
	LineOptions
	FromEnd bool          // begin at the end of a file that is there already
	Poll    time.Duration // between two looks that no event asked for; 0: one second
}

// LineTooLongError tells that a line is larger than the topic takes.
type LineTooLongError struct {
	Line  int64 // counted from 1
	Bytes int64
	Limit int // bytes of the longest line that fits
}

func (e *LineTooLongError) Error() string {
	return fmt.Sprintf("line %d has %d bytes and the topic takes %d (max.message.bytes)", e.Line, e.Bytes, e.Limit)
}

// SendLines sends every line of r as one record, at once, and returns when r
// has ended and all are acknowledged, or ctx ends. What was read by then is
// sent in either case. A line ends with "\n", which is cut off ("\r" stays);
// the last one may do without. A line that is too long for the topic counts
// as failed and the rest goes on.
//
// When ctx ends while r.Read blocks, one goroutine stays behind until it returns.
func (p *Producer) SendLines(ctx context.Context, r io.Reader, o LineOptions) (Summary, error) {
	s, err := p.newLineSender(ctx, o)
	if err != nil {
		return Summary{}, err
	}
	var (
		cutting sync.Mutex // held while lines are handed on, not while r is read
		read    = make(chan error, 1)
	)
	go func() {
		for {
			_, err := s.split.read(r)
			cutting.Lock()
			if s.run.ctx.Err() != nil {
				cutting.Unlock()
				read <- nil
				return
			}
			s.split.cut()
			if err == io.EOF {
				s.split.flush()
				err = nil
			} else if err == nil {
				cutting.Unlock()
				continue
			}
			cutting.Unlock()
			read <- err
			return
		}
	}()
	select {
	case err = <-read:
	case <-s.run.ctx.Done():
		cutting.Lock()
		defer cutting.Unlock()
	}
	if err != nil {
		err = fmt.Errorf("read the lines: %w", err)
	}
	return s.end(ctx, err)
}

// Follow sends every line that is in a file, and every line that is appended
// to it, until ctx ends; that is no error. Like tail -F it stays with the
// name: when the file is moved away, the old one is read to its end and the
// new one from its beginning, and a file that was cut is read from its
// beginning. The file need not exist yet. A last line without a newline waits
// for one; it is sent when its file is moved away or cut.
//
// A file that was cut is known by being shorter than what was read, or by
// beginning with other bytes. Lines written and cut off between two looks are
// lost, as with every tail; moving the file away loses none.
func (p *Producer) Follow(ctx context.Context, path string, o FollowOptions) (Summary, error) {
	s, err := p.newLineSender(ctx, o.LineOptions)
	if err != nil {
		return Summary{}, err
	}
	err = (&tail{path: path, fromEnd: o.FromEnd, poll: o.Poll, split: s.split, log: p.log}).run(s.run.ctx)
	return s.end(ctx, err)
}

// lineSender makes records of lines.
type lineSender struct {
	run       *run
	split     *splitter
	partition int32
	key       []byte
	delim     []byte
	headers   []kgo.RecordHeader
	block     []kgo.Record // to be used up, one by one
	handed    int64        // lines handed to the client
}

func (p *Producer) newLineSender(ctx context.Context, o LineOptions) (*lineSender, error) {
	if o.KeyDelim != "" && o.Key != nil {
		return nil, errors.New("a fixed key and a key delimiter exclude each other")
	}
	if p.sealing != nil {
		return nil, errors.New("lines are not encrypted: send them without a key, or as a file")
	}
	if err := p.connect(ctx); err != nil {
		return nil, err
	}
	s := &lineSender{partition: -1, key: o.Key, delim: []byte(o.KeyDelim)}
	if p.cfg.Partition != nil {
		s.partition = *p.cfg.Partition
	}
	overhead := recordOverhead + len(o.Key)
	for _, h := range o.Headers {
		s.headers = append(s.headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
		overhead += len(h.Key) + len(h.Value) + headerOverhead
	}
	limit := int(p.topic.maxBatch) - overhead
	if limit <= 0 {
		return nil, fmt.Errorf("key and headers are too large for the topic, which takes batches of %d bytes (max.message.bytes)", p.topic.maxBatch)
	}
	s.run = p.newRun(ctx)
	s.split = &splitter{limit: limit, line: s.send, long: s.tooLong}
	return s, nil
}

// end waits for what is on the way. That ctx, the caller's, ended is no error
// as long as everything that was read has arrived.
func (s *lineSender) end(ctx context.Context, err error) (Summary, error) {
	sum, ended := s.run.end()
	if ctx.Err() != nil && ended == context.Cause(ctx) {
		ended = nil
		if left := s.handed - sum.Records; left > 0 {
			ended = fmt.Errorf("stopped with %d lines on the way that the broker has not acknowledged", left)
		}
	}
	if ended == nil {
		ended = err
	}
	return sum, ended
}

// send hands one line to the client. It blocks while too much is on the way.
func (s *lineSender) send(line []byte) {
	if len(s.block) == 0 {
		s.block = make([]kgo.Record, 64)
	}
	rec := &s.block[0]
	s.block = s.block[1:]
	rec.Partition, rec.Headers = s.partition, s.headers
	rec.Key, rec.Value = s.key, line
	if len(s.delim) > 0 {
		if key, value, ok := bytes.Cut(line, s.delim); ok {
			rec.Key, rec.Value = key, value
		}
	}
	s.handed++
	s.run.produce(0, rec, s.settled)
}

// settled is the client's promise for every line.
func (s *lineSender) settled(rec *kgo.Record, err error) {
	s.run.settled(err)
	if err != nil {
		return
	}
	s.run.tell(func(sum *Summary, _ *Events) {
		sum.Records++
		sum.Bytes += int64(len(rec.Key) + len(rec.Value))
	})
}

func (s *lineSender) tooLong(line, size int64) {
	err := &LineTooLongError{Line: line, Bytes: size, Limit: s.split.limit}
	s.run.failed("", fmt.Sprintf("line %d", line), err)
}
