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

	// maxPooledFrame is the largest frame buffer that is kept for reuse.
	maxPooledFrame = 4 << 20
)

// framePool holds buffers for Produce frames. They go back as soon as the
// batches are appended, long before the acknowledgement leaves.
var framePool = sync.Pool{New: func() any { return new([]byte) }}

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

	deadline struct {
		sync.Mutex
		set      time.Time // when the read deadline was last moved
		stopping bool
	}
}

// pending is a request that was begun.
type pending struct {
	header protocol.RequestHeader
	reply  reply
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

// Read reads from the socket; the idle timeout starts anew with each call. It
// makes conn the io.Reader below the frame reader.
func (c *conn) Read(p []byte) (int, error) {
	c.deadline.Lock()
	if now := time.Now(); !c.deadline.stopping && now.Sub(c.deadline.set) > time.Second {
		c.deadline.set = now
		if err := c.nc.SetReadDeadline(now.Add(c.b.cfg.IdleTimeout)); err != nil {
			c.deadline.Unlock()
			return 0, err
		}
	}
	c.deadline.Unlock()
	return c.nc.Read(p)
}

// read begins requests until the client is gone (nil), the broker stops
// (nil), or the client sends what cannot be answered (an error).
func (c *conn) read() error {
	br := bufio.NewReaderSize(c, 4096)
	for c.ctx.Err() == nil {
		start, err := br.Peek(6) // length and API key
		if err != nil {
			return readEnd(err, len(start))
		}
		limit, buf := min(maxControlFrame, c.b.cfg.MaxFrameBytes), (*[]byte)(nil)
		if binary.BigEndian.Uint16(start[4:]) == uint16(kmsg.Produce) {
			limit, buf = c.b.cfg.MaxFrameBytes, framePool.Get().(*[]byte)
		}
		if err := c.readRequest(br, limit, buf); err != nil {
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

// readRequest reads one request, into buf where there is one, and begins it.
func (c *conn) readRequest(br *bufio.Reader, limit int, buf *[]byte) error {
	var into []byte
	if buf != nil {
		into = *buf
	}
	frame, err := protocol.ReadFrame(br, into, limit)
	if err != nil {
		if c.ctx.Err() != nil {
			return nil
		}
		return readEnd(err, 1)
	}
	h, req, err := protocol.ParseRequest(frame)
	var begun reply
	if err != nil {
		var answerable bool
		if begun, answerable = c.refuse(h, err); !answerable {
			return err
		}
	} else {
		begun = c.begin(h, req)
	}
	if buf != nil && cap(frame) <= maxPooledFrame {
		*buf = frame[:0]
		framePool.Put(buf)
	}
	c.pending <- pending{h, begun}
	return nil
}

// write finishes requests in order and sends their answers, until pending is
// closed and drained. After a failed write it drops the rest.
func (c *conn) write() {
	var buf []byte
	broken := false
	for p := range c.pending {
		if broken {
			continue
		}
		a := p.reply()
		var err error
		buf, err = c.send(buf, p.header, a)
		if err != nil && c.ctx.Err() == nil && !isReset(err) {
			c.log.Warn().Err(err).Str("api", kmsg.NameForKey(p.header.Key)).Msg("cannot send an answer: connection closed")
		}
		if err != nil || a.close {
			broken = true
			c.cancel()
		}
		if cap(buf) > maxPooledFrame {
			buf = nil
		}
	}
}

// send writes one answer. buf is scratch, returned for reuse.
func (c *conn) send(buf []byte, h protocol.RequestHeader, a answer) ([]byte, error) {
	if a.response == nil && a.fetch == nil {
		return buf, nil
	}
	if c.ctx.Err() == nil {
		if err := c.nc.SetWriteDeadline(time.Now().Add(c.b.cfg.IdleTimeout)); err != nil {
			return buf, err
		}
	}
	if a.fetch != nil {
		return a.fetch.send(c.nc, buf, h)
	}
	buf = append(buf[:0], 0, 0, 0, 0)
	buf = protocol.AppendResponseHeader(buf, h)
	buf = a.response.AppendTo(buf)
	binary.BigEndian.PutUint32(buf, uint32(len(buf)-4))
	_, err := c.nc.Write(buf)
	return buf, err
}
