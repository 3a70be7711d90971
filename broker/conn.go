package broker

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kmsg"

	"mft/internal/loopback"
	"mft/protocol"
)

const (
	// maxPipelined bounds the requests of one connection that are begun but
	// not answered; a client that sends more waits.
	maxPipelined = 64

	// maxControlFrame bounds every request but Produce: decoded, a request
	// takes several times its size on the wire.
	maxControlFrame = 16 << 20

	// maxPipelinedFrame is the largest request other than Produce that is read
	// while earlier ones are not answered: what is begun is in memory.
	maxPipelinedFrame = 64 << 10

	// readBuffer is the part of a request's frame that must have come before
	// anything more is done for it.
	readBuffer = 4 << 10

	// writePiece is how much is sent at a time: a client that takes it slowly,
	// but takes it, is not idle.
	writePiece = 4 << 20

	// maxAnswerBuffer is the largest buffer for answers that a connection keeps.
	maxAnswerBuffer = 4 << 20
)

// conn is one client connection. A reader goroutine reads requests and begins
// them in order; a writer goroutine finishes them in the same order: waits
// where an answer must wait, and writes it. Kafka's protocol asks for answers
// in request order; pipelining lets many appends share one fsync.
type conn struct {
	b   *Broker
	l   *listener
	nc  net.Conn
	log zerolog.Logger

	// ctx ends when the client is gone or the broker stops: long polls
	// answer at once. drain ends at most DrainTimeout later: answers still
	// owed are given up.
	ctx    context.Context
	cancel context.CancelFunc
	drain  context.Context

	pending chan pending
	// held is what the reader holds for the request that it reads; reading
	// says that its body is on the way.
	held    lease
	reading bool

	wrote atomic.Int64 // when the writer last began to write, ns since 1970

	deadline struct {
		sync.Mutex
		until    time.Time // when reading is interrupted
		stopping bool
	}
}

// pending is a request that was begun.
type pending struct {
	header protocol.RequestHeader
	reply  reply
	held   *lease        // given back when reply has returned; may be nil
	reach  chan struct{} // instead of a request: closed when all before it are answered
}

// reply finishes a request on the connection's writer. It may wait, while
// conn.ctx or conn.drain last.
type reply func() answer

// answer is what goes back to the client. The zero answer sends nothing
// (Produce with acks=0).
type answer struct {
	response kmsg.Response
	fetch    *fetchAnswer // instead of response: its records go out by themselves
	close    bool         // close the connection, after the response if there is one
}

func respond(r kmsg.Response) reply { return func() answer { return answer{response: r} } }

func newConn(l *listener, nc net.Conn) *conn {
	return &conn{
		b:       l.b,
		l:       l,
		nc:      nc,
		log:     l.b.log.With().Stringer("peer", nc.RemoteAddr()).Logger(),
		pending: make(chan pending, maxPipelined),
	}
}

// serve answers requests until the client leaves or ctx ends.
func (c *conn) serve(ctx context.Context) {
	if _, err := loopback.Tune(c.nc); err != nil {
		c.log.Debug().Err(err).Msg("the connection keeps its congestion control")
	}
	c.ctx, c.cancel = context.WithCancel(ctx)
	defer c.cancel()
	drain, drained := context.WithCancel(context.Background())
	defer drained()
	c.drain = drain

	var force *time.Timer
	stopReading := context.AfterFunc(c.ctx, func() {
		c.deadline.Lock()
		defer c.deadline.Unlock()
		c.deadline.stopping = true
		if err := c.nc.SetReadDeadline(time.Unix(1, 0)); err != nil && !errors.Is(err, net.ErrClosed) {
			c.log.Debug().Err(err).Msg("interrupt reading")
		}
		force = time.AfterFunc(c.b.cfg.DrainTimeout, func() {
			drained()
			c.close()
		})
	})

	var writing sync.WaitGroup
	writing.Go(c.write)
	if err := c.read(); err != nil {
		c.log.Warn().Err(err).Msg("connection closed")
	}
	c.cancel()
	close(c.pending)
	writing.Wait()
	c.close()
	stopReading()
	c.deadline.Lock()
	defer c.deadline.Unlock()
	if force != nil {
		force.Stop()
	}
}

func (c *conn) close() {
	if err := c.nc.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		c.log.Debug().Err(err).Msg("close connection")
	}
}

// Read reads from the socket; the idle timeout starts anew with each call and
// with each write. It makes conn the io.Reader below the frame reader.
func (c *conn) Read(p []byte) (int, error) {
	began := time.Now()
	for now := began; ; now = time.Now() {
		if c.held.overdue(now) {
			return 0, fmt.Errorf("a request of %d bytes had not come whole after %v while others waited for memory: send smaller requests", c.held.n, c.b.cfg.holdTimeout)
		}
		stopping, err := c.limitReading(now)
		if err != nil {
			return 0, err
		}
		n, err := c.nc.Read(p)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || stopping {
			return n, err
		}
		if moved := time.Unix(0, c.wrote.Load()); min(time.Since(began), time.Since(moved)) >= c.b.cfg.IdleTimeout {
			return n, err
		}
	}
}

// limitReading sets the read deadline for a Read that begins now, unless the
// one that is set will do. It does nothing when the connection is stopping:
// the deadline has passed for good.
func (c *conn) limitReading(now time.Time) (stopping bool, err error) {
	limit := c.b.cfg.IdleTimeout
	if c.reading {
		limit = min(limit, holdCheck)
	}
	c.deadline.Lock()
	defer c.deadline.Unlock()
	if left := c.deadline.until.Sub(now); c.deadline.stopping || left > limit/2 && left <= limit {
		return c.deadline.stopping, nil
	}
	c.deadline.until = now.Add(limit)
	return false, c.nc.SetReadDeadline(c.deadline.until)
}

// read begins requests until the client is gone (nil), the broker stops
// (nil), or the client sends what cannot be answered (an error).
func (c *conn) read() error {
	br := bufio.NewReaderSize(c, readBuffer)
	for c.ctx.Err() == nil {
		start, err := br.Peek(6)
		if err != nil {
			return readEnd(err, len(start))
		}
		length, key := int32(binary.BigEndian.Uint32(start)), int16(binary.BigEndian.Uint16(start[4:]))
		if err := c.readRequest(br, int(length), key == int16(kmsg.Produce)); err != nil {
			return err
		}
	}
	return nil
}

// readEnd tells an ordinary end of a connection (nil) from one within a
// request.
func readEnd(err error, have int) error {
	var timeout net.Error
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && have == 0, errors.Is(err, io.EOF) && have == 0,
		errors.Is(err, net.ErrClosed):
		return nil
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("nothing came for too long in the middle of a request: %w", err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the client left in the middle of a request")
	case isReset(err):
		return nil
	}
	return err
}

// readRequest reads one request, whose length is announced, and begins it.
func (c *conn) readRequest(br *bufio.Reader, length int, produce bool) error {
	limit := c.b.cfg.MaxFrameBytes
	if !produce {
		limit = min(limit, maxControlFrame)
	}
	if length > 0 && length <= limit { // else ReadFrame says what is wrong
		// Who announces much and sends nothing takes nothing.
		if start, err := br.Peek(min(4+length, readBuffer)); err != nil {
			return c.readFailed(err, len(start))
		}
		if !produce && length > maxPipelinedFrame {
			c.awaitAnswers()
		}
		var err error
		if c.held, err = c.b.inFlight.take(c.ctx, int64(length)); err != nil {
			return nil // the connection or the broker ends
		}
		defer c.held.release()
	}
	var buf *[]byte
	var into []byte
	if produce {
		buf = c.b.frames.get(length)
		into = *buf
	}
	c.reading = true
	frame, err := protocol.ReadFrame(br, into, limit)
	c.reading = false
	if err != nil {
		return c.readFailed(err, 1)
	}
	h, req, err := protocol.ParseRequest(frame)
	next := pending{header: h}
	if !produce && length > maxPipelinedFrame {
		next.held = &lease{}
		*next.held, c.held = c.held, *next.held // the writer's from here on
	}
	if err != nil {
		var answerable bool
		if next.reply, answerable = c.refuse(h, err); !answerable {
			next.held.release()
			return err
		}
	} else {
		next.reply = c.begin(h, req, next.held)
	}
	if produce {
		*buf = frame[:0]
		c.b.frames.put(buf)
	}
	c.held.release()
	c.pending <- next
	return nil
}

// readFailed is readEnd for a request of which so much has come.
func (c *conn) readFailed(err error, have int) error {
	if c.ctx.Err() != nil {
		return nil
	}
	return readEnd(err, have)
}

// awaitAnswers waits until every request that was begun is answered.
func (c *conn) awaitAnswers() {
	reached := make(chan struct{})
	c.pending <- pending{reach: reached}
	<-reached
}

// write finishes requests in order and sends their answers, until pending is
// closed and drained. After a failed write it drops the rest.
func (c *conn) write() {
	var buf []byte
	broken := false
	for p := range c.pending {
		if p.reach != nil {
			close(p.reach)
			continue
		}
		if broken {
			p.held.release()
			continue
		}
		a := p.reply()
		p.held.release()
		var err error
		buf, err = c.send(buf, p.header, a)
		if err != nil && c.ctx.Err() == nil && !isReset(err) {
			c.log.Warn().Err(err).Str("api", kmsg.NameForKey(p.header.Key)).Msg("cannot send an answer: connection closed")
		}
		if err != nil || a.close {
			broken = true
			c.cancel()
		}
		if cap(buf) > maxAnswerBuffer {
			buf = nil
		}
	}
}

// send writes one answer. buf is scratch, returned for reuse.
func (c *conn) send(buf []byte, h protocol.RequestHeader, a answer) ([]byte, error) {
	if a.response == nil && a.fetch == nil {
		return buf, nil
	}
	if a.fetch != nil {
		return a.fetch.send(c, buf, h)
	}
	buf = append(buf[:0], 0, 0, 0, 0)
	buf = protocol.AppendResponseHeader(buf, h)
	buf = a.response.AppendTo(buf)
	binary.BigEndian.PutUint32(buf, uint32(len(buf)-4))
	return buf, c.writeAll(buf)
}

// writeAll writes p, in pieces of which each may take IdleTimeout.
func (c *conn) writeAll(p []byte) error {
	for len(p) > 0 {
		if err := c.limitWriting(); err != nil {
			return err
		}
		n, err := c.nc.Write(p[:min(len(p), writePiece)])
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// limitWriting sets the write deadline for a piece that is written now. When
// the connection is stopping, closing it is what ends a write.
func (c *conn) limitWriting() error {
	if c.ctx.Err() != nil {
		return nil
	}
	now := time.Now()
	c.wrote.Store(now.UnixNano())
	return c.nc.SetWriteDeadline(now.Add(c.b.cfg.IdleTimeout))
}
