package segment

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// Suffixes of .log files, as in Kafka:
//
//	.cleaned   compaction is writing it; what a crash leaves of it is removed
//	.swap      compaction has written it, whole and durable; it takes the place of all segments from its base offset to its last one
//	.deleted   not part of the log any more; it is removed by and by (here with a number before the suffix)
//
// The rename from .cleaned to .swap is the moment that counts: before it a crash undoes the work, after it the next start completes it.
const (
	cleanedSuffix = ".cleaned"
	swapSuffix    = ".swap"
	removedSuffix = ".deleted"
)

// swap puts the segment next, which is in the .cleaned file f, whole and durable, in the place of group. f is taken over. cleaning is held.
func (l *Log) swap(group []segmentInfo, next *segment, f *os.File) (err error) {
	name := l.path(logName(next.base))
	written := time.Time{}
	gone := make([]*segment, len(group))
	for i, seg := range group {
		gone[i] = seg.segment
		info, serr := os.Stat(l.path(logName(seg.base)))
		if serr != nil {
			return errors.Join(serr, f.Close(), os.Remove(name+cleanedSuffix))
		}
		if info.ModTime().After(written) {
			written = info.ModTime()
		}
	}
	// 1. From here on it will be done, if need be by the next start. The time of the file says how old records without timestamps are.
	err = os.Chtimes(name+cleanedSuffix, written, written)
	if err == nil {
		err = os.Rename(name+cleanedSuffix, name+swapSuffix)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("compact: %w", err), f.Close(), os.Remove(name+cleanedSuffix))
	}
	if err := l.syncDirectory(); err != nil {
		return errors.Join(err, f.Close())
	}
	// 2. Readers see the new segment, by its open file.
	locked := append([]*segment{next}, gone...)
	for _, seg := range locked {
		seg.mending.Lock()
		defer seg.mending.Unlock()
	}
	next.pinned = newHandle(f)
	offsets, times := next.indexes.offsets.tail, next.indexes.times.tail
	next.indexes.offsets = sparseIndex[offsetEntry]{stored: wholeFile}
	next.indexes.times = sparseIndex[timeEntry]{stored: wholeFile}
	removals, err := l.retire(gone, next)
	if err != nil {
		l.cleaner.broken = true
		return errors.Join(err, f.Close())
	}
	// 3. The files follow, the old ones first and durably: they must not come back beside the new one. Whatever fails here, the new segment is
	//    readable; the next start does the rest.
	for i, seg := range gone {
		if err := l.discardSegment(seg, &removals[i]); err != nil {
			l.cleaner.broken = true
			return err
		}
	}
	if err := l.removeDiscarded(removals); err != nil {
		return err
	}
	if err := os.Rename(name+swapSuffix, name); err != nil {
		l.cleaner.broken = true
		return fmt.Errorf("compact: %w", err)
	}
	if err := l.syncDirectory(); err != nil {
		return err
	}
	// 4. The indexes would be rebuilt by the first reader who misses them.
	if err := errors.Join(writeIndex(l.offsetsPath(next), offsets), writeIndex(l.timesPath(next), times)); err != nil {
		l.store.log.Warn().Err(err).Str(fieldDir, l.dir).Int64(fieldBase, next.base).Msg("index not written, it will be rebuilt when it is needed")
	}
	return l.unpin(next)
}

// finishCleaning brings to an end what a crash has interrupted: see the suffixes above.
func (l *Log) finishCleaning() error {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return err
	}
	var removals []removal
	for _, e := range entries {
		if _, ok := parseSegmentName(e.Name(), cleanedSuffix); ok {
			if err := os.Remove(l.path(e.Name())); err != nil {
				return err
			}
		}
		if strings.HasSuffix(e.Name(), removedSuffix) {
			removals = append(removals, removal{path: l.path(e.Name())})
		}
	}
	if len(removals) > 0 {
		if err := l.removeDiscarded(removals); err != nil {
			return err
		}
	}
	for _, e := range entries {
		if base, ok := parseSegmentName(e.Name(), swapSuffix); ok {
			if err := l.finishSwap(base, entries); err != nil {
				return err
			}
		}
	}
	return nil
}

// finishSwap removes the segments that a .swap file replaces, and gives it its name.
func (l *Log) finishSwap(base int64, entries []os.DirEntry) error {
	name := logName(base)
	end, err := l.endOffset(name + swapSuffix)
	if err != nil {
		return err
	}
	var removals []removal
	for _, e := range entries {
		old, ok := parseSegmentName(e.Name(), "")
		if !ok || old < base || old >= end {
			continue
		}
		var r removal
		if err := l.discardSegment(&segment{base: old}, &r); err != nil {
			return err
		}
		removals = append(removals, r)
	}
	if err := l.removeDiscarded(removals); err != nil {
		return err
	}
	for _, path := range []string{l.offsetsPath(&segment{base: base}), l.timesPath(&segment{base: base})} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := os.Rename(l.path(name+swapSuffix), l.path(name)); err != nil {
		return err
	}
	l.store.log.Info().Str(fieldDir, l.dir).Int64(fieldBase, base).Msg("completed a compaction that was interrupted")
	return l.syncDirectory()
}

// endOffset returns the offset behind the last batch of a file, all of which must be whole.
func (l *Log) endOffset(name string) (end int64, err error) {
	f, err := os.Open(l.path(name))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	end = -1
	r := &batchReader{file: f, limit: info.Size()}
	for {
		b, err := r.next()
		if err == io.EOF && end >= 0 {
			return end, nil
		}
		if err == io.EOF {
			err = &damage{0, "the file is empty"}
		}
		var d *damage
		if errors.As(err, &d) {
			return 0, &CorruptionError{Dir: l.dir, File: name, Offset: d.position, Reason: d.reason}
		}
		if err != nil {
			return 0, err
		}
		end = b.LastOffset() + 1
	}
}
