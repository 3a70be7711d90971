package segment

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// LogID names a partition. TopicID tells a topic from an earlier one of the same name.
type LogID struct {
	Topic     string
	TopicID   [16]byte
	Partition int32
}

// dirName is the name of the partition's directory, as in Kafka.
func (id LogID) dirName() string { return fmt.Sprintf("%s-%d", id.Topic, id.Partition) }

func (id LogID) check() error {
	if id.Topic == "" || len(id.Topic) > 249 || id.Topic == "." || id.Topic == ".." || strings.ContainsAny(id.Topic, "/\\\x00:") || id.Partition < 0 {
		return fmt.Errorf("%q, partition %d, cannot name a directory", id.Topic, id.Partition)
	}
	return nil
}

// Defaults of LogConfig.
const (
	DefaultSegmentBytes       = 1 << 30
	DefaultIndexIntervalBytes = 4096
	DefaultFlushInterval      = time.Second
	DefaultFlushBytes         = 64 << 20
)

// LogConfig are the settings of one log. The zero value means the defaults.
type LogConfig struct {
	// SegmentBytes is the size at which the next segment is begun (Kafka's segment.bytes), at most 2 GiB less one byte.
	SegmentBytes int64
	// IndexIntervalBytes is how many bytes lie between two index entries (Kafka's index.interval.bytes).
	IndexIntervalBytes int
	// WriteCaching lets the high watermark follow the end of the log at once, ahead of the disk: an ack then does not mean durable.
	WriteCaching bool
	// FlushInterval is after what time appended bytes are made durable with WriteCaching.
	FlushInterval time.Duration
	// FlushBytes is after how many appended bytes that is done at the latest.
	FlushBytes int64

	// SegmentAge begins the next segment when a batch's timestamp is so much later than that of the first one in the active segment (Kafka's
	// segment.ms). 0: never.
	SegmentAge time.Duration
	// Delete lets RetentionTime and RetentionBytes delete whole segments from the front (Kafka's cleanup.policy=delete).
	Delete bool
	// RetentionTime is how old a segment's greatest timestamp may become (Kafka's retention.ms). 0: without limit.
	RetentionTime time.Duration
	// RetentionBytes is how many bytes of log are kept at least (Kafka's retention.bytes). 0: all.
	RetentionBytes int64
	// Compact keeps the last record of each key (Kafka's cleanup.policy=compact). With Delete, both happen.
	Compact bool
	// TombstoneRetention is how long records without a value are kept after compaction has seen them (Kafka's delete.retention.ms).
	TombstoneRetention time.Duration
	// MinCompactionLag is how old records must be before compaction removes any of them (Kafka's min.compaction.lag.ms).
	MinCompactionLag time.Duration
	// MinDirtyRatio is how much of the log must not have been compacted yet, from 0 to 1, before that is done (Kafka's
	// min.cleanable.dirty.ratio).
	MinDirtyRatio float64
}

func (c LogConfig) withDefaults() LogConfig {
	if c.SegmentBytes <= 0 {
		c.SegmentBytes = DefaultSegmentBytes
	}
	c.SegmentBytes = min(c.SegmentBytes, math.MaxInt32)
	if c.IndexIntervalBytes <= 0 {
		c.IndexIntervalBytes = DefaultIndexIntervalBytes
	}
	if c.FlushInterval <= 0 {
		c.FlushInterval = DefaultFlushInterval
	}
	if c.FlushBytes <= 0 {
		c.FlushBytes = DefaultFlushBytes
	}
	return c
}

// segment is one .log file with its indexes. All but base is guarded by Log.mu.
type segment struct {
	base    int64 // offset of its first record; its name
	size    int64 // bytes of whole batches
	indexes indexes
	// maxKnown says that indexes.max is the segment's greatest timestamp: always so for the active one, looked up when needed for others.
	maxKnown bool
	mended   bool          // its index files were rebuilt since the start
	h        *handle       // the active segment's file; nil once closed, readers then ask the store's fileCache
	readers  int           // ranges that are not released yet
	drained  chan struct{} // closed when readers reaches 0; made when the segment is deleted
	mending  sync.Mutex    // held, without Log.mu, while the index files are written
	retired  bool          // not in the log any more, deleted or replaced: its file has no name that can be relied upon
	pinned   *handle       // the file, while its name is not what it should be and there may be readers
	first    firstTime     // of the active segment, for LogConfig.SegmentAge
}

func logName(base int64) string { return fmt.Sprintf("%020d.log", base) }

// mark is a place in a log: the offset of a record that begins at a position of a segment, or the end of that segment so far.
type mark struct {
	offset   int64
	seg      *segment
	position int64
}

// Log is one partition. Invariant: start <= durable <= end, synced <= durable, and start <= high watermark <= end; the high watermark is
// durable, or end with write caching, and never goes back. What lies between synced and durable rests on the journal, and is in the active segment. All its methods may be called concurrently.
type Log struct {
	store *Store
	id    LogID
	dir   string

	appending sync.Mutex // see the package comment
	cut       bool       // a rollback failed: the active file is to be cut to its size before the next write; guarded by appending
	reserved  int64      // up to where there is room in the active file without its being so long; guarded by appending
	leftRoom  bool       // a killed run may have left such room behind the active file; guarded by appending
	// committing is held across an fdatasync of this log. Only the committer, rolls and checkpoints take it: it keeps them from doing
	// the same work twice.
	committing sync.Mutex
	deleted    atomic.Bool // the journal is to take no more ranges of it
	named      atomic.Bool // the names of the directory and its files are durable; set with committing held

	mu        sync.Mutex
	config    LogConfig
	closed    bool
	done      chan struct{} // closed with the log
	segments  []*segment    // in order; the last one is active
	start     int64         // log start offset
	end       mark          // behind the last record
	synced    mark          // what is known to be on stable storage in the segments' files ends here
	durable   mark          // what is so there or in the journal ends here
	high      mark          // high watermark
	dirtied   time.Time     // when the first byte behind durable was appended, with write caching
	epochs    epochs
	producers producers
	cursors   [3]mark // where recent reads ended
	cursor    int     // the one to be replaced next
	waiters   []*waiter
	watchers  []watcher
	recovered Recovery
	retired   map[*segment]struct{} // not in segments any more, but still read
	// settled is the base offset of what was the active segment at the last checkpoint that is on the disk. Retention and compaction
	// only touch segments before it: neither snapshot nor journal say anything about those.
	settled int64

	cleaning     sync.Mutex  // held by retention and compaction, one log at a time; before appending
	stopCleaning atomic.Bool // the log is being closed
	cleaner      logCleaner  // guarded by cleaning

	highOffset atomic.Int64 // high.offset, for those who need nothing else
	queued     queueState   // guarded by committer.mu
}

// Recovery says what was found in a log when it was opened.
type Recovery struct {
	Scanned int64 // bytes read and checked because they are younger than the last checkpoint
	Cut     int64 // bytes of a torn write that were cut off the end
}

// ID returns the log's name.
func (l *Log) ID() LogID { return l.id }

// Dir returns the log's directory.
func (l *Log) Dir() string { return l.dir }

// Recovery returns what was found when the log was opened.
func (l *Log) Recovery() Recovery { return l.recovered }

// StartOffset returns the offset of the first record that is still there.
func (l *Log) StartOffset() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.start
}

// DurableOffset returns the offset behind the last record that is known to be on stable storage.
func (l *Log) DurableOffset() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.durable.offset
}

// HighWatermark returns the offset behind the last record that may be read.
func (l *Log) HighWatermark() int64 { return l.highOffset.Load() }

// EndOffset returns the offset that the next record will have.
func (l *Log) EndOffset() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end.offset
}

// Size returns the bytes of all segments, without indexes.
func (l *Log) Size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var n int64
	for _, seg := range l.segments {
		n += seg.size
	}
	return n
}

// EndOffsetForEpoch returns the greatest leader epoch <= epoch in the log and the offset at which it ended, so that a client notices that
// records it has seen are gone (OffsetForLeaderEpoch). It returns -1, -1 for an epoch that is newer than the store's.
func (l *Log) EndOffsetForEpoch(epoch int32) (int32, int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epochs.end(epoch, l.end.offset)
}

// Config returns the settings in force, defaults filled in.
func (l *Log) Config() LogConfig {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.config
}

// SetConfig changes the settings from now on. Turning write caching off leaves the high watermark where it is, and makes what is not
// durable yet so at once; turning it on moves the high watermark to the end.
func (l *Log) SetConfig(c LogConfig) {
	l.mu.Lock()
	l.config = c.withDefaults()
	if l.closed {
		l.mu.Unlock()
		return
	}
	if l.config.WriteCaching {
		l.raise(l.end)
	}
	l.mu.Unlock()
	if dirty, pending, _ := l.dirty(); dirty {
		l.store.committer.add(l, pending, true)
	}
}

// active returns the segment that is appended to. Log.mu or Log.appending is held.
func (l *Log) active() *segment { return l.segments[len(l.segments)-1] }

func (l *Log) path(name string) string { return filepath.Join(l.dir, name) }

func (l *Log) offsetsPath(seg *segment) string { return l.path(fmt.Sprintf("%020d.index", seg.base)) }

func (l *Log) timesPath(seg *segment) string { return l.path(fmt.Sprintf("%020d.timeindex", seg.base)) }

// raise moves the high watermark up to m and wakes those who wait for it. Log.mu is held.
func (l *Log) raise(m mark) {
	if m.offset <= l.high.offset {
		return
	}
	l.high = m
	l.highOffset.Store(m.offset)
	l.checkInvariant()
	l.wake()
}

// advance notes that everything before m is on stable storage: in the segments' files if inFiles is set, else in the journal as far as it
// is not there.
func (l *Log) advance(m mark, inFiles bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if inFiles && m.offset > l.synced.offset {
		l.synced = m
	}
	if m.offset > l.durable.offset {
		l.durable = m
		l.dirtied = time.Now()
		l.raise(m)
	}
	l.checkInvariant()
}

// checkInvariant panics when the log's offsets contradict each other: going on would lose or invent records. Log.mu is held.
func (l *Log) checkInvariant() {
	if l.start > l.durable.offset || l.synced.offset > l.durable.offset || l.durable.offset > l.end.offset || l.durable.offset > l.high.offset || l.high.offset > l.end.offset {
		panic(fmt.Sprintf("segment: %s: offsets out of order: start %d, synced %d, durable %d, high watermark %d, end %d",
			l.dir, l.start, l.synced.offset, l.durable.offset, l.high.offset, l.end.offset))
	}
}

// usable says whether the log can be written to.
func (l *Log) usable() error {
	if err := l.store.Err(); err != nil {
		return err
	}
	select {
	case <-l.done:
		return ErrClosed
	case <-l.store.quit:
		return ErrClosed
	default:
		return nil
	}
}

// close wakes everyone and closes the files that no reader holds. The directory stays as it is.
func (l *Log) close() error {
	l.stopCleaning.Store(true)
	l.cleaning.Lock()
	defer l.cleaning.Unlock()
	l.appending.Lock()
	defer l.appending.Unlock()
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	close(l.done)
	l.wake()
	segments := l.segments
	h := l.active().h
	l.active().h = nil
	size := l.active().size
	l.mu.Unlock()
	err := errors.Join(l.unreserve(h.file, size), h.release())
	for _, seg := range segments {
		err = errors.Join(err, l.store.files.drop(seg), l.unpin(seg))
	}
	return err
}
