package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

func parseGeneration(name string) (generation uint64, ok bool) {
	n, err := strconv.ParseUint(name, 10, 64)
	return n, err == nil && generationName(n) == name
}

// inspectJournal goes through the generations of a journal.
func (s *inspection) inspectJournal(dir string) error {
	found, err := generations(dir)
	if err != nil {
		return err
	}
	if s.snap != nil && !s.live {
		next := s.snap.generation
		for _, g := range found {
			if g < s.snap.generation {
				continue
			}
			for ; next < g; next++ {
				if err := s.missingGeneration(dir, next); err != nil {
					return err
				}
			}
			next = g + 1
		}
		if next == s.snap.generation {
			if err := s.missingGeneration(dir, next); err != nil {
				return err
			}
		}
	}
	for i, g := range found {
		if err := s.inspectGeneration(dir, generationName(g), i == len(found)-1); err != nil {
			return err
		}
	}
	return nil
}

func (s *inspection) missingGeneration(dir string, g uint64) error {
	return s.tell(Finding{Severity: Damage, Dir: filepath.Join(dir, generationName(g)), Offset: -1,
		Reason: "the generation is missing: what was committed in it is lost, restore it from a copy"})
}

// inspectGeneration goes through one generation of a journal.
func (s *inspection) inspectGeneration(dir, name string, last bool) error {
	g, _ := parseGeneration(name)
	path := generationFile(dir, g)
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // begun, and nothing written yet; or just removed
	} else if err != nil {
		return err
	}
	if err := s.begin(path, int64(len(data))); err != nil {
		return err
	}
	if s.snap != nil && g < s.snap.generation {
		if err := s.tell(Finding{Severity: Note, Dir: filepath.Dir(path), File: filepath.Base(path), Offset: -1,
			Reason: "older than the last checkpoint; the broker removes it"}); err != nil {
			return err
		}
	}
	return walkGeneration(data, g, func(at int64, index uint64, body []byte) error {
		if s.JournalRecord == nil {
			return nil
		}
		return eachRecord(body, func(r record) error {
			return s.Inspector.JournalRecord(JournalRecord{at, index, byte(r.kind), r.kind.name(), r.payload})
		})
	}, func(at, n int64, torn bool) error {
		f := Finding{Severity: Damage, Dir: filepath.Dir(path), File: filepath.Base(path), Byte: at, Bytes: n, Offset: -1, Reason: "a group is unreadable, although later ones were written"}
		if torn && last {
			f.Severity, f.Reason = Torn, "a group that was not finished; the broker cuts it off at its next start"
		}
		return s.tell(f)
	})
}

// name says what a kind of record is; empty for kinds of later versions.
func (k recordKind) name() string {
	switch k {
	case recordMetadata:
		return "metadata"
	case recordEpoch:
		return "epoch"
	case 3:
		return "range" // of a log's bytes
	case 4:
		return "deleted" // a log
	}
	return ""
}

// walkGeneration calls group with every whole group in the bytes of a generation's file and bad with what lies in between; torn says that
// nothing whole comes behind it.
func walkGeneration(data []byte, generation uint64, group func(at int64, index uint64, body []byte) error, bad func(at, n int64, torn bool) error) error {
	last, skipped := uint64(0), false
	for at := int64(0); at < int64(len(data)); {
		rest := data[at:]
		size, w := binary.Uvarint(rest)
		if w > 0 && size <= uint64(len(rest)-w) {
			index, body, ok := parseGroup(rest[w:w+int(size)], generation)
			if ok && index > last && len(body)+groupHeaderLen == int(size) {
				if index != last+1 && !skipped {
					if err := bad(at, 0, false); err != nil {
						return err
					}
				}
				skipped = false
				if err := group(at, index, body); err != nil {
					var c *CorruptionError
					if errors.As(err, &c) {
						return err
					}
					return fmt.Errorf("group %d: %w", index, err)
				}
				last = index
				at += int64(w) + int64(size)
				continue
			}
		}
		if len(bytes.TrimLeft(rest, "\x00")) == 0 {
			return nil // room for more
		}
		i := findGroup(rest, generation, last)
		if i < 0 {
			return bad(at, int64(len(rest)), true)
		}
		// The wal's length stands before the group.
		_, body, _ := parseGroup(rest[i:], generation)
		i -= len(binary.AppendUvarint(nil, uint64(len(body)+groupHeaderLen)))
		if i <= 0 {
			return bad(at, int64(len(rest)), false)
		}
		if err := bad(at, int64(i), false); err != nil {
			return err
		}
		at += int64(i)
		skipped = true
	}
	return nil
}
