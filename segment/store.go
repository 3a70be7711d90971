package segment

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"
	"github.com/rs/zerolog"
)

// Names of fields in log messages.
const (
	fieldDir  = "dir"
	fieldBase = "segment"
)

// Defaults of Options.
const (
	DefaultCheckpointBytes = 256 << 20
	DefaultJournalBytes    = 16 << 20
)

// Options are what a Store needs from its owner. Restore, Apply and Snapshot are never called at the same time; each may be nil when there is no
// metadata.
type Options struct {
	Logger zerolog.Logger
	// Clock tells the time; nil means time.Now.
	Clock func() time.Time
	// Restore is called at most once, in Open and before any Apply, with what Snapshot returned last.
	Restore func(state []byte) error
	// Apply carries out a metadata entry: in Open for those that the last Snapshot does not include, later for those proposed, each after it has become
	// durable and in the same order. Its error goes to the proposer; it must depend on nothing but the state, since the entry will be
	// applied again, with the same result, by Open. entry is only valid during the call.
	Apply func(entry []byte) error
	// Snapshot returns the complete state after all that was applied so far.
	Snapshot func() ([]byte, error)
	// CheckpointBytes is after how many appended bytes a checkpoint is made: recovery reads at most about as much. 0 means 256 MiB.
	CheckpointBytes int64
	// JournalBytes is at what size of the journal a checkpoint is made. 0 means 16 MiB.
	JournalBytes int64
	// CleanInterval is how often retention and compaction look for work (see Clean). 0 means 30 s, less than 0 never.
	CleanInterval time.Duration
	// CleanerBytes bounds the memory in which compaction notes the last offset of each key; it goes over a log in several passes when
	// that does not suffice. 0 means 32 MiB.
	CleanerBytes int

	journalFrom int // replaces the constant of this name when it is not 0
}

// Store is one data directory, open in this process only. Its methods may be called concurrently.
type Store struct {
	dir   string
	o     Options
	log   zerolog.Logger
	lock  *flock.Flock
	epoch int32

	reserves bool // see Log.reserve

	files     *fileCache
	committer *committer
	remover   *remover
	cleaner   *cleaner

	proposals   chan *proposal
	noted       chan struct{}   // cap 1: notes got a record
	checkpoints chan chan error // requests to the metadata goroutine, each with where to tell the outcome (cap 1, may be nil)
	appended    atomic.Int64    // bytes since the last checkpoint began
	journalFull atomic.Bool     // checkpoints do not keep up: data is to go elsewhere
	quit        chan struct{}   // closed by Close
	stopped     chan struct{}   // closed when the metadata goroutine has ended
	stopErr     error           // of the last checkpoint and of closing the journal; valid once stopped is closed

	failOnce sync.Once
	failed   chan struct{}
	failure  atomic.Pointer[error]

	mu      sync.Mutex
	closed  bool
	logs    map[string]*Log     // by directory name; nil while one is being opened
	points  map[string]logPoint // from the snapshot, of logs that were not opened yet
	redone  map[string]*redo    // what the journal says of logs that were not opened yet
	notes   []record            // for the next group of the journal
	opening sync.WaitGroup
}

// Open opens a data directory, creating it when it is missing or empty, and brings the metadata up to date through Restore and Apply.
// Logs are opened one by one with OpenLog.
//
// Errors: *InUseError, *FormatError, *CorruptionError, or what the operating system says.
func Open(dir string, o Options) (s *Store, err error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Restore == nil {
		o.Restore = func([]byte) error { return nil }
	}
	if o.Apply == nil {
		o.Apply = func([]byte) error { return nil }
	}
	if o.CheckpointBytes <= 0 {
		o.CheckpointBytes = DefaultCheckpointBytes
	}
	if o.JournalBytes <= 0 {
		o.JournalBytes = DefaultJournalBytes
	}
	if o.CleanInterval == 0 {
		o.CleanInterval = DefaultCleanInterval
	}
	if o.CleanerBytes <= 0 {
		o.CleanerBytes = DefaultCleanerBytes
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, topicsName), 0o755); err != nil {
		return nil, fmt.Errorf("create the data directory: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	s = &Store{
		dir: dir, o: o, log: o.Logger, lock: lock, reserves: canReserve(dir),
		files:       newFileCache(openFiles),
		proposals:   make(chan *proposal, 128),
		checkpoints: make(chan chan error, 1),
		quit:        make(chan struct{}),
		stopped:     make(chan struct{}),
		failed:      make(chan struct{}),
		logs:        map[string]*Log{},
		points:      map[string]logPoint{},
		redone:      map[string]*redo{},
		noted:       make(chan struct{}, 1),
	}
	j, err := s.load()
	if err != nil {
		return nil, errors.Join(err, lock.Unlock())
	}
	s.committer = newCommitter(s)
	s.remover = newRemover(s.log)
	s.cleaner = newCleaner(s)
	go s.runMetadata(j)
	return s, nil
}

// Dir returns the data directory as an absolute path.
func (s *Store) Dir() string { return s.dir }

// Epoch returns the leader epoch of this run of the store: one more than that of the last, whatever became of that.
func (s *Store) Epoch() int32 { return s.epoch }

func (s *Store) clock() time.Time { return s.o.Clock() }

// Failed is closed when an fsync has failed: what it covered may or may not be on the disk. Nothing is made durable from then on; the owner should
// stop, and let recovery at the next start find out what is there.
func (s *Store) Failed() <-chan struct{} { return s.failed }

// Err returns why the store has failed, nil as long as it has not.
func (s *Store) Err() error {
	if err := s.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// fail makes the store fail. Only the first reason counts.
func (s *Store) fail(err error) {
	s.failOnce.Do(func() {
		err = fmt.Errorf("%w: the data directory %s has failed, restart to recover: %w", ErrFailed, s.dir, err)
		s.failure.Store(&err)
		s.log.Error().Err(err).Msg("storage failure")
		close(s.failed)
	})
}

// grown counts appended bytes and asks for a checkpoint when there are enough.
func (s *Store) grown(n int64) {
	if s.appended.Add(n) >= s.o.CheckpointBytes {
		s.requestCheckpoint(nil)
	}
}

// requestCheckpoint asks for a checkpoint without waiting for it. It reports whether the request was taken; another may be pending.
func (s *Store) requestCheckpoint(done chan error) bool {
	select {
	case s.checkpoints <- done:
		return true
	default:
		return false
	}
}

// Checkpoint writes the state down now, so that the next start has little to recover.
func (s *Store) Checkpoint(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case s.checkpoints <- done:
	case <-s.quit:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-done:
		return err
	case <-s.stopped:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close ends all work, makes what was appended durable, writes a last checkpoint, and closes logs, journal and LOCK. Ranges that are not released
// yet stay readable. After a failure of the store nothing is written.
func (s *Store) Close() error {
	// 1. No log is opened any more.
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.opening.Wait()
	// 2. Proposals and appends are refused. The metadata goroutine makes the last checkpoint, which makes all logs durable, and closes the
	//    journal. An append that is on its way is recovered at the next start, as after a crash.
	close(s.quit)
	<-s.stopped
	s.cleaner.close()
	err := s.stopErr
	// 3. The logs are closed: whoever still waits is woken.
	for _, l := range s.openLogs() {
		err = errors.Join(err, l.close())
	}
	// 4. The background ends.
	s.committer.close()
	s.remover.close()
	return errors.Join(err, s.lock.Unlock())
}

// openLogs returns the logs that are open.
func (s *Store) openLogs() []*Log {
	s.mu.Lock()
	defer s.mu.Unlock()
	logs := make([]*Log, 0, len(s.logs))
	for _, l := range s.logs {
		if l != nil {
			logs = append(logs, l)
		}
	}
	return logs
}
