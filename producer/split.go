package producer

import (
	"bytes"
	"io"
)

// splitter cuts what it reads into lines. A line is a slice of a slab that is
// never written again, so it may be kept for as long as it is needed and no
// byte is copied but those of a line that crosses the end of a slab.
//
// A line ends with "\n", which is not part of it; a "\r" before it is. Lines
// longer than limit are not kept in memory.
type splitter struct {
	limit int                     // bytes of the longest line
	line  func(line []byte)       // a whole line
	long  func(line, bytes int64) // a line of that many bytes was left out

	slab    []byte
	pending int   // start of the unfinished line in slab
	fresh   int   // start of what was read last
	skipped int64 // bytes of an unfinished line that is too long; 0 when it is not
	count   int64 // lines seen
}

const (
	slabBytes = 64 << 10
	readRoom  = 4 << 10 // a read with less room than this is not worth it
)

// read reads once from r, whose error it returns. cut must follow.
func (s *splitter) read(r io.Reader) (int, error) {
	if cap(s.slab)-len(s.slab) < readRoom {
		rest := s.slab[s.pending:]
		slab := make([]byte, len(rest), max(slabBytes, 2*len(rest)))
		copy(slab, rest)
		s.slab, s.pending = slab, 0
	}
	n, err := r.Read(s.slab[len(s.slab):cap(s.slab)])
	s.fresh = len(s.slab)
	s.slab = s.slab[:s.fresh+n]
	return n, err
}

// cut hands on the lines that the last read has completed.
func (s *splitter) cut() {
	for {
		i := bytes.IndexByte(s.slab[s.fresh:], '\n')
		if i < 0 {
			break
		}
		s.finish(s.fresh + i)
		s.fresh += i + 1
		s.pending = s.fresh
	}
	s.fresh = len(s.slab)
	if unfinished := len(s.slab) - s.pending; s.skipped > 0 || unfinished > s.limit {
		s.skipped += int64(unfinished)
		s.slab = s.slab[:s.pending]
		s.fresh = s.pending
	}
}

// flush hands on the last line, which has no newline.
func (s *splitter) flush() {
	if len(s.slab) > s.pending || s.skipped > 0 {
		s.finish(len(s.slab))
		s.pending = len(s.slab)
	}
}

func (s *splitter) finish(end int) {
	s.count++
	if size := s.skipped + int64(end-s.pending); size > int64(s.limit) {
		s.skipped = 0
		s.long(s.count, size)
		return
	}
	s.line(s.slab[s.pending:end:end])
}
