package segment

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"mft/protocol"
)

// Compaction keeps the last record of each key, as Kafka's log cleaner does (org.apache.kafka.storage.internals.log.Cleaner is the model):
//
//   - A pass reads the part of the log that was not compacted yet and notes the last offset of each key in it, as many as fit into a bounded map.
//     Then it writes all segments up to there anew, leaving out the records for which the map knows a later one, and those without a key.
//     Small segments that follow each other become one. More passes follow until all is compacted that may be.
//   - The active segment stays as it is, and so do segments with records younger than LogConfig.MinCompactionLag and all behind them.
//   - Records keep their offsets, batches their offsets and sequence numbers: gaps arise. A batch of which nothing is left goes,
//     unless it is the last that an idempotent producer has written, or the last of its new segment: its header stays without records.
//     So the end of every segment is the beginning of the next, as in other logs, and damage to the end of a file is noticed.
//   - Tombstones (records without a value) stay for LogConfig.TombstoneRetention after the first time that compaction has come by,
//     which is written into their batch (KIP-534), so that readers who began before see them.
//
// How the new segment takes the place of the old ones is in swap.go.

const (
	// compactedName is a file in the log's directory: "version: 0\noffset: <offset>\n", the offset up to which compaction has come. It saves
	// work and is not made durable: without it the log is compacted from its start.
	compactedName = "cleaner-offset-checkpoint"
	// cleanSync is after how many bytes a new segment is made durable as it grows. One large fsync at its end would hold up those of others.
	cleanSync = 32 << 20
)

// compactedTo returns the offset up to which the log is compacted. cleaning is held.
func (l *Log) compactedTo() int64 {
	c := &l.cleaner
	if !c.known {
		c.known = true
		if text, err := os.ReadFile(l.path(compactedName)); err == nil {
			if _, err := fmt.Sscanf(string(text), "version: 0\noffset: %d\n", &c.compacted); err != nil || c.compacted < 0 {
				c.compacted = 0
			}
		}
	}
	return c.compacted
}

func (l *Log) setCompactedTo(offset int64) {
	l.cleaner.compacted = offset
	text := fmt.Sprintf("version: 0\noffset: %d\n", offset)
	err := replaceFile(l.path(compactedName), func(w io.Writer) error { _, err := io.WriteString(w, text); return err })
	if err != nil {
		l.store.log.Warn().Err(err).Str(fieldDir, l.dir).Msg("how far the log is compacted could not be written down, some of it will be compacted again")
	}
}

// dirtyPart returns the offset from which on the log is not compacted, and the number of segments at its front that may be; 0 when it
// is not worth it yet. cleaning is held.
func (l *Log) dirtyPart(v inventory, now time.Time) (first int64, limit int, err error) {
	first = max(l.compactedTo(), v.segments[0].base)
	var clean, dirty int64
	for i, seg := range v.closed() {
		if seg.next > v.durable {
			break
		}
		if seg.next > first {
			if v.config.MinCompactionLag > 0 {
				latest, err := l.latest(seg.segment)
				if err != nil {
					return 0, 0, err
				}
				if now.Sub(latest) < v.config.MinCompactionLag {
					break
				}
			}
			dirty += seg.size
		} else {
			clean += seg.size
		}
		limit = i + 1
	}
	if dirty == 0 || float64(dirty) <= v.config.MinDirtyRatio*float64(dirty+clean) {
		return first, 0, nil
	}
	return first, limit, nil
}

// compaction is one run over a log.
type compaction struct {
	log     *Log
	ctx     context.Context
	now     int64 // ms since 1970
	config  LogConfig
	recoder *protocol.Recoder
	keys    *offsetMap
	end     int64                // keys knows everything from the dirty part up to here
	last    map[int64]lastAppend // of producers, by id
}

// lastAppend says what a producer has written last.
type lastAppend struct {
	epoch  int16
	offset int64
}

// compact compacts what may be and is settled. cleaning is held.
func (l *Log) compact(ctx context.Context, now time.Time) error {
	v := l.inventory()
	first, limit, err := l.dirtyPart(v, now)
	for limit > 0 && v.segments[limit-1].base >= v.settled {
		limit--
	}
	if err != nil || limit == 0 || v.segments[limit-1].next <= first {
		return err
	}
	limitOffset, dirty := v.segments[limit].base, int64(0)
	for _, seg := range v.segments[:limit] {
		if seg.next > first {
			dirty += seg.size
		}
	}
	c := &compaction{
		log: l, ctx: ctx, now: now.UnixMilli(), config: v.config, recoder: l.store.cleaner.recoder,
		keys: newOffsetMap(int(min(int64(l.store.o.CleanerBytes), 4*dirty))), last: map[int64]lastAppend{},
	}
	l.mu.Lock()
	for id, p := range l.producers {
		if p.n > 0 {
			c.last[id] = lastAppend{p.epoch, p.newest().end}
		}
	}
	l.mu.Unlock()
	before := l.Size()
	for first < limitOffset {
		if err := c.note(first, limitOffset); err != nil {
			return err
		}
		if err := c.rewrite(); err != nil {
			return err
		}
		l.setCompactedTo(c.end)
		first = c.end
		c.keys.clear()
	}
	l.store.log.Info().Str(fieldDir, l.dir).Int64("bytes", before-l.Size()).Int64("offset", first).Msg("compacted the log")
	return nil
}

// ends says why the work is to stop.
func (c *compaction) ends() error {
	if c.log.stopCleaning.Load() {
		return ErrClosed
	}
	return c.log.store.cleanEnds(c.ctx)
}

// each calls visit with the batches of a segment.
func (c *compaction) each(seg segmentInfo, visit func(b protocol.Batch, last bool) error) (err error) {
	l := c.log
	h, err := l.store.files.get(seg.segment, l.path(logName(seg.base)))
	if h == nil {
		return err
	}
	defer func() { err = errors.Join(err, h.release()) }()
	r := &batchReader{file: h.file, limit: seg.size}
	for {
		if err := c.ends(); err != nil {
			return err
		}
		at := r.position
		b, err := r.next()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = visit(b, r.position == r.limit)
		}
		var bad *protocol.BatchError
		if errors.As(err, &bad) {
			err = &damage{at, err.Error()}
		}
		if err != nil {
			return l.corruption(seg.base, err)
		}
	}
}

var errMapFull = errors.New("no room for more keys")

// note reads the log from first on and puts its keys into the map, up to limit or until the map is full; c.end is then how far it got.
func (c *compaction) note(first, limit int64) error {
	c.end = limit
	v := c.log.inventory()
	for _, seg := range v.closed() {
		if seg.next <= first || seg.base >= limit {
			continue
		}
		err := c.each(seg, func(b protocol.Batch, _ bool) error {
			if b.LastOffset() < first {
				return nil
			}
			full := false
			err := c.recoder.Records(b, func(r protocol.Record) bool {
				offset := b.BaseOffset() + int64(r.OffsetDelta)
				if offset < first || r.Key == nil {
					return true
				}
				if full = !c.keys.put(r.Key, offset); full {
					c.end = offset
				}
				return !full
			})
			if err == nil && full {
				err = errMapFull
			}
			return err
		})
		if errors.Is(err, errMapFull) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// rewrite writes all segments anew that have something before c.end.
func (c *compaction) rewrite() error {
	v := c.log.inventory()
	segments := v.closed()
	for len(segments) > 0 && segments[0].base < c.end {
		n, size := 1, segments[0].size
		for n < len(segments) && segments[n].base < c.end && size+segments[n].size <= c.config.SegmentBytes && segments[n].next-segments[0].base <= math.MaxInt32 {
			size += segments[n].size
			n++
		}
		if err := c.rewriteGroup(segments[:n]); err != nil {
			return err
		}
		segments = segments[n:]
	}
	return nil
}

// rewriteGroup replaces segments by one that has only the records that stay.
func (c *compaction) rewriteGroup(group []segmentInfo) (err error) {
	l := c.log
	path := l.path(logName(group[0].base) + cleanedSuffix)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	defer func() {
		if f != nil {
			err = errors.Join(err, f.Close(), os.Remove(path))
		}
	}()
	next := &segment{base: group[0].base, indexes: newIndexes(), maxKnown: true}
	w := bufio.NewWriterSize(f, 256<<10)
	changed, synced := len(group) > 1, int64(0)
	for i, seg := range group {
		err := c.each(seg, func(b protocol.Batch, last bool) error {
			kept, err := c.keep(b, last && i == len(group)-1)
			if err != nil {
				return err
			}
			changed = changed || len(kept) == 0 || &kept[0] != &b[0]
			if len(kept) == 0 {
				return nil
			}
			if _, err := w.Write(kept); err != nil {
				return fmt.Errorf("compact: %w", err)
			}
			next.indexes.add(next.base, next.size, kept, len(kept), c.config.IndexIntervalBytes)
			next.size += int64(len(kept))
			if next.size-synced >= cleanSync {
				synced = next.size
				return errors.Join(w.Flush(), syncData(f))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if !changed {
		return nil
	}
	if err := errors.Join(w.Flush(), syncData(f)); err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	next.indexes.addTime()
	next.indexes.covered = next.size
	whole := f
	f = nil // it is swap's from here on
	return l.swap(group, next, whole)
}

// keep returns what stays of a batch: nothing, the batch itself, or a new one. needed says that its header must stay.
func (c *compaction) keep(b protocol.Batch, needed bool) (protocol.Batch, error) {
	if b.BaseOffset() >= c.end {
		return b, nil
	}
	if p, ok := c.last[b.ProducerID()]; ok && b.ProducerID() >= 0 && p.epoch == b.ProducerEpoch() && p.offset == b.LastOffset() {
		needed = true
	}
	var kept protocol.Batch
	if b.NumRecords() > 0 {
		due := false
		if ms, set := b.DeleteHorizon(); set {
			due = c.now >= ms
		}
		var err error
		kept, err = c.recoder.Compact(b, c.now+c.config.TombstoneRetention.Milliseconds(), func(r protocol.Record) bool {
			offset := b.BaseOffset() + int64(r.OffsetDelta)
			switch {
			case offset >= c.end:
				return true
			case r.Key == nil || c.keys.last(r.Key) > offset:
				return false
			}
			return r.Value != nil || !due
		})
		if err != nil {
			return nil, err
		}
	}
	switch {
	case len(kept) > 0 || !needed:
		return kept, nil
	case b.NumRecords() == 0:
		return b, nil
	default:
		return b.Emptied(), nil
	}
}

// parseSegmentName returns the base offset in the name of a .log file with the given suffix behind it.
func parseSegmentName(name, suffix string) (base int64, ok bool) {
	digits, ok := strings.CutSuffix(name, ".log"+suffix)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	_, err := fmt.Sscanf(digits, "%020d", &base)
	return base, err == nil && base >= 0 && logName(base) == digits+".log"
}
