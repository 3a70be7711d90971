package broker

import (
	"errors"
	"fmt"
	"net"
	"sync"

	"mft/protocol"
	"mft/segment"
)

const (
	// sendfileFrom is the size of a range from which the kernel sends it from
	// the file; below, one read and one write cost less.
	sendfileFrom = 128 << 10

	// copyChunk is the piece in which smaller ranges, and all ranges where
	// there is no sendfile, go through memory.
	copyChunk = 256 << 10
)

// copyPool holds the buffers for that.
var copyPool = sync.Pool{New: func() any { b := make([]byte, 0, copyChunk); return &b }}

// send writes the response, headers from memory and records from their files,
// and releases the ranges. buf is scratch for the headers, returned for reuse.
func (a *fetchAnswer) send(c *conn, buf []byte, h protocol.RequestHeader) (_ []byte, err error) {
	defer func() { err = errors.Join(err, a.release()) }()
	frame, gaps, err := a.AppendFrame(buf[:0], nil, h.Version, h.CorrelationID)
	if err != nil {
		return buf, err
	}
	out := recordWriter{c: c, sendfileFrom: sendfileFrom, buf: copyPool.Get().(*[]byte)}
	defer copyPool.Put(out.buf)
	*out.buf = (*out.buf)[:0]

	part, at := 0, 0
	for _, gap := range gaps {
		for a.parts[part].records == nil {
			part++
		}
		if err := out.bytes(frame[at:gap.At]); err != nil {
			return frame, err
		}
		if err := out.records(a.parts[part].records); err != nil {
			return frame, err
		}
		part, at = part+1, gap.At
	}
	if err := out.bytes(frame[at:]); err != nil {
		return frame, err
	}
	return frame, out.flush()
}

// release gives the ranges back.
func (a *fetchAnswer) release() error {
	var errs []error
	for i := range a.parts {
		if r := a.parts[i].records; r != nil {
			errs = append(errs, r.Release())
		}
	}
	return errors.Join(errs...)
}

// recordWriter gathers small pieces into one write and lets the kernel send
// large ranges. It never holds a lock of the log: a range stays valid on its
// own.
type recordWriter struct {
	c            *conn
	sendfileFrom int64   // the size of a range from which the kernel sends it
	buf          *[]byte // what is gathered, up to copyChunk
}

func (w *recordWriter) flush() error {
	if len(*w.buf) == 0 {
		return nil
	}
	err := w.c.writeAll(*w.buf)
	*w.buf = (*w.buf)[:0]
	return err
}

func (w *recordWriter) bytes(p []byte) error {
	if len(*w.buf)+len(p) > cap(*w.buf) {
		if err := w.flush(); err != nil {
			return err
		}
	}
	if len(p) > cap(*w.buf) {
		return w.c.writeAll(p)
	}
	*w.buf = append(*w.buf, p...)
	return nil
}

func (w *recordWriter) records(r *segment.Range) error {
	if tcp, ok := w.c.nc.(*net.TCPConn); ok && canSendfile && r.Len() >= w.sendfileFrom {
		if err := w.flush(); err != nil {
			return err
		}
		f, pos := r.File()
		for end := pos + r.Len(); pos < end; pos += writePiece {
			if err := w.c.limitWriting(); err != nil {
				return err
			}
			if err := sendFile(tcp, f, pos, min(writePiece, end-pos)); err != nil {
				return err
			}
		}
		return nil
	}
	for at := int64(0); at < r.Len(); {
		room := (*w.buf)[len(*w.buf):cap(*w.buf)]
		if len(room) == 0 {
			if err := w.flush(); err != nil {
				return err
			}
			continue
		}
		n := min(int64(len(room)), r.Len()-at)
		if got, err := r.ReadAt(room[:n], at); int64(got) < n {
			return fmt.Errorf("read records to send: %w", err)
		}
		*w.buf = (*w.buf)[:len(*w.buf)+int(n)]
		at += n
	}
	return nil
}
