package producer

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// What WatchOptions are when they say nothing.
const (
	DefaultSettle    = 2 * time.Second
	DefaultScanEvery = 10 * time.Second
)

const (
	maxCandidates = 1 << 15     // files that are being looked at, waiting or being sent; more wait on their disk
	maxGivenUp    = 1 << 14     // files that failed which are remembered, not to be tried until they change
	maxTold       = 1 << 12     // entries that were left out which are remembered, to be told once
	watchBackoff  = time.Minute // at most, between two tries of a file
	scanShare     = 20          // scans take at most one part in so many of the time
)

// WatchOptions say which files of the watched directories are sent, when, and
// what becomes of them then.
type WatchOptions struct {
	FileOptions

	// Settle is how long a file must not have changed (its size, and when it
	// and its inode were last written) to count as complete; 0: DefaultSettle.
	// One that was renamed into its directory is complete, where the system
	// tells that (Linux).
	Settle time.Duration
	// DoneMarker makes a file complete when there is one of its name with this
	// at the end, as ".done", beside it, and only then. Markers are not sent.
	DoneMarker string
	// ScanEvery is how often everything is looked at, for what the system did
	// not tell, or cannot, as on network file systems; 0: DefaultScanEvery.
	ScanEvery time.Duration

	After After // what becomes of a file when all of it is acknowledged
}

// watchState is where a file is on its way.
type watchState int

const (
	settling watchState = iota // it is looked at again at its time
	waiting                    // complete, for a reader
	sending                    // it has been handed to a reader
	leaving                    // it is acknowledged, After is under way
)

// candidate is a file that is not in the ledger as it is.
type candidate struct {
	dir   *watchedDir
	name  string // slash separated, below the directory
	look  stamp  // as it was last seen
	state watchState
	due   time.Time // of the next look
	tries int       // that failed
	moved bool      // renamed into its directory: complete
}

// watchedDir is one directory whose files are sent.
type watchedDir struct {
	root
	abs    string // absolute
	ledger *watchLedger
	lost   bool // it is not there
}

// watcher sends the files of directories. One goroutine (loop) owns all of it;
// readers and promises tell it by its mailbox.
type watcher struct {
	p      *Producer
	job    *fileJob
	o      WatchOptions
	filter filter
	dirs   []*watchedDir
	after  *afterwards

	events *dirWatcher // nil where there are none
	found  chan source // to the readers
	mail   mailbox

	candidates map[string]*candidate // by path
	looks      lookQueue
	queue      []*candidate // complete
	givenUp    map[string]stamp
	told       map[string]bool
	scanAt     time.Time
	full       bool // candidates were turned away: scan again when there is room
	failedOnce bool // a scan failed, which was told
}

// Watch sends the files of directories as they become complete, and again when
// they are replaced by others, until ctx ends, which is no error.
//
// It takes directories as SendFiles does: "dir" sends "dir/a", "dir/" sends
// "a". Only files are sent; directories arise where they arrive. What was sent
// is kept in a ledger in Config.StateDir, so that a restart sends nothing
// twice: a file is sent again only when its size or modification time differ, or
// when its inode or the time of that do and its content, too. A file is taken
// when it is complete, see WatchOptions; one that changes nevertheless while it
// is sent is given up and taken later. One that cannot be read is tried again,
// in growing intervals, and then left until it changes.
//
// Directories that go away are waited for. A second Watch of a directory for
// the same topic with the same StateDir gets a *WatchedError.
func (p *Producer) Watch(ctx context.Context, dirs []string, o WatchOptions) (sum Summary, err error) {
	w := &watcher{
		p: p, o: o, found: make(chan source), mail: mailbox{wake: make(chan struct{}, 1)},
		candidates: make(map[string]*candidate), givenUp: make(map[string]stamp), told: make(map[string]bool),
	}
	if w.o.Settle <= 0 {
		w.o.Settle = DefaultSettle
	}
	if w.o.ScanEvery <= 0 {
		w.o.ScanEvery = DefaultScanEvery
	}
	if w.filter, err = newFilter(o.Include, o.Exclude); err != nil {
		return Summary{}, err
	}
	defer func() { err = errors.Join(err, w.closeLedgers()) }()
	if err := w.openDirs(dirs); err != nil {
		return Summary{}, err
	}
	if w.after, err = newAfterwards(o.After, w.dirs, &w.mail); err != nil {
		return Summary{}, err
	}
	defer w.after.close()
	if err := p.connect(ctx); err != nil {
		if ctx.Err() != nil {
			err = nil
		}
		return Summary{}, err
	}
	if w.events, err = newDirWatcher(); err != nil {
		p.log.Warn().Err(err).Stringer("every", w.o.ScanEvery).Msg("no change events to be had: directories are looked at now and then")
	} else {
		defer func() { err = errors.Join(err, w.events.close()) }()
	}

	defer p.streams.warmUp(ctx, p.cfg.Acks == "" || p.cfg.Acks == AcksAll)()
	if w.job, err = p.newFileJob(ctx); err != nil {
		return Summary{}, err
	}
	var readers sync.WaitGroup
	readers.Go(func() { w.job.sendFrom(w.found) })
	workErr := w.loop(w.job.run.ctx)
	w.job.run.cancel(workErr) // nil: what is being read is interrupted by ctx
	close(w.found)
	readers.Wait()
	sum, err = w.job.run.end()
	if ctx.Err() != nil && workErr == nil && errors.Is(err, context.Cause(ctx)) {
		err = nil
	}
	// What was acknowledged meanwhile is noted, and done with.
	err = errors.Join(err, w.readMail())
	w.after.close()
	return sum, errors.Join(err, w.readMail())
}

// openDirs checks the directories and opens their ledgers.
func (w *watcher) openDirs(args []string) (err error) {
	if err := w.checkDirs(args); err != nil {
		return err
	}
	stateDir := ""
	if w.p.cfg.StateDir != "" {
		if stateDir, err = (state{w.p.cfg.StateDir}).dir(watchKind); err != nil {
			return err
		}
	} else if w.o.After.Kind != AfterDelete && w.o.After.Kind != AfterMove {
		w.p.log.Warn().Msg("there is no state directory: a restart sends all files again")
	}
	for _, d := range w.dirs {
		if d.ledger, err = openLedger(stateDir, d.abs, w.p.cfg.Topic); err != nil {
			return err
		}
	}
	return nil
}

// checkDirs takes the arguments, which must be directories.
func (w *watcher) checkDirs(args []string) error {
	roots, err := newRoots(args)
	if err != nil {
		return err
	}
	for _, r := range roots {
		info, err := os.Stat(r.path)
		if err == nil && !info.IsDir() {
			err = &ArgumentError{fmt.Sprintf("%s is no directory: only directories are watched", r.path)}
		}
		if err != nil {
			return err
		}
		abs, err := filepath.Abs(r.path)
		if err != nil {
			return err
		}
		for _, other := range w.dirs {
			if within(abs, other.abs) || within(other.abs, abs) {
				return &ArgumentError{fmt.Sprintf("%s and %s: one is in the other, watch that one only", other.path, r.path)}
			}
		}
		w.dirs = append(w.dirs, &watchedDir{root: r, abs: abs})
	}
	return nil
}

func (w *watcher) closeLedgers() (err error) {
	for _, d := range w.dirs {
		if d.ledger != nil {
			err = errors.Join(err, d.ledger.close())
		}
	}
	return err
}

// loop runs until ctx ends. The error is one of a ledger that cannot be kept.
func (w *watcher) loop(ctx context.Context) error {
	var events <-chan dirEvent
	if w.events != nil {
		events = w.events.events
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var (
			out  chan<- source
			next source
		)
		for len(w.queue) > 0 && w.queue[0].state != waiting {
			w.queue = w.queue[1:]
		}
		if len(w.queue) > 0 {
			out, next = w.found, w.source(w.queue[0])
		}
		select {
		case <-ctx.Done():
			return nil
		case out <- next:
			w.queue[0].state = sending
			w.queue = w.queue[1:]
		case e := <-events:
			w.event(e)
		case <-w.mail.wake:
		case <-timer.C:
		}
		if err := w.readMail(); err != nil {
			return err
		}
		now := time.Now()
		w.lookAgain(now)
		if w.full && len(w.candidates) < maxCandidates/2 {
			w.scanAt = now
		}
		if !now.Before(w.scanAt) {
			if err := w.scan(ctx); err != nil {
				return err
			}
			w.scanAt = time.Now().Add(max(w.o.ScanEvery, scanShare*time.Since(now)))
		}
		wake := w.scanAt
		if len(w.looks) > 0 && w.looks[0].due.Before(wake) {
			wake = w.looks[0].due
		}
		timer.Reset(max(time.Until(wake), 0))
	}
}

// source is what a reader is given.
func (w *watcher) source(c *candidate) source {
	path := c.path()
	return source{path: path, name: c.sentName(), taken: &taken{
		look:  c.look,
		acked: func(digest string) { w.mail.put(letter{path: path, kind: letterAcked, digest: digest}) },
		failed: func(id string, why error) {
			w.mail.put(letter{path: path, kind: letterFailed, id: id, err: why})
		},
	}}
}

// taken is what a watcher wants to know of a file that is sent for it. Both
// functions are called from wherever, at most one of them.
type taken struct {
	look   stamp // it must be as it was seen
	acked  func(digest string)
	failed func(id string, why error) // id is "" when it was not begun
}

func (c *candidate) path() string     { return filepath.Join(c.dir.abs, filepath.FromSlash(c.name)) }
func (c *candidate) sentName() string { return joinName(c.dir.root.name, c.name) }

func joinName(root, name string) string {
	if root == "" {
		return name
	}
	return root + "/" + name
}

// readMail deals with what became of files.
func (w *watcher) readMail() error {
	for _, l := range w.mail.take() {
		c := w.candidates[l.path]
		if c == nil {
			continue
		}
		var err error
		switch l.kind {
		case letterAcked:
			err = w.acked(c, l.digest)
		case letterFailed:
			w.notSent(c, l.id, l.err)
		case letterLeft:
			err = w.left(c, l.err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// acked notes that a file is sent, and has done with it what is to be done.
func (w *watcher) acked(c *candidate, digest string) error {
	e := ledgerEntry{stamp: c.look, digest: keyOf(digest), marker: w.marker(c)}
	if err := c.dir.ledger.sent(c.name, e); err != nil {
		return err
	}
	c.tries = 0
	w.leave(c)
	return nil
}

// leave starts what is to be done with a file that is sent.
func (w *watcher) leave(c *candidate) {
	if w.o.After.Kind == AfterKeep {
		delete(w.candidates, c.path())
		return
	}
	c.state = leaving
	w.after.start(c, w.o.DoneMarker)
}

// left is told what came of it. A file that is still there is in the ledger,
// and the next scan tries again.
func (w *watcher) left(c *candidate, why error) error {
	delete(w.candidates, c.path())
	switch {
	case why == nil:
		w.after.told = false
		return c.dir.ledger.forget(c.name)
	case errors.Is(why, errReplaced): // by another one, which is sent in its turn
		w.candidate(c.dir, c.name, false)
	case !w.after.told:
		w.after.told = true
		w.p.log.Warn().Err(why).Str("file", c.path()).Stringer("after", w.o.After).
			Msg("the file is sent and could not be taken away: trying again now and then, also with those that follow")
	}
	return nil
}

// notSent decides what becomes of a file that was not sent.
func (w *watcher) notSent(c *candidate, id string, why error) {
	_, changed := errors.AsType[*changedError](why)
	switch {
	case w.job.run.ctx.Err() != nil: // of an interrupted run only its summary tells
	case errors.Is(why, fs.ErrNotExist):
		w.drop(c)
		w.p.log.Debug().Str("file", c.path()).Msg("the file is gone before it was sent")
		if id != "" {
			w.retried(c, id, why)
		}
	case changed:
		c.tries++
		w.again(c, w.o.Settle)
		if id != "" {
			w.retried(c, id, why)
		}
	case worthRetrying(why) && c.tries < w.p.cfg.retries():
		c.tries++
		w.again(c, min(w.p.cfg.retryWait(c.tries), watchBackoff))
		w.p.log.Warn().Err(why).Str("file", c.path()).Stringer("again_in", time.Until(c.due).Round(time.Millisecond)).Msg("the file cannot be sent, trying again")
	default:
		w.giveUp(c, id, why)
	}
}

func (w *watcher) retried(c *candidate, id string, why error) {
	w.job.run.tell(func(_ *Summary, events *Events) {
		if events.Retried != nil {
			events.Retried(id, c.sentName(), why)
		}
	})
}

// giveUp leaves a file alone until it changes.
func (w *watcher) giveUp(c *candidate, id string, why error) {
	w.drop(c)
	if len(w.givenUp) >= maxGivenUp {
		clear(w.givenUp)
	}
	w.givenUp[c.path()] = c.look
	w.job.run.gaveUp(id, source{path: c.path(), name: c.sentName()}, c.tries+1, why)
}

func (w *watcher) drop(c *candidate) { delete(w.candidates, c.path()) }

// skipped tells once of an entry that is left out.
func (w *watcher) skipped(path, name, reason string) {
	if w.told[path] {
		return
	}
	if len(w.told) >= maxTold {
		clear(w.told)
	}
	w.told[path] = true
	w.job.run.skipped(name, reason)
}

// mailbox takes letters from any goroutine without making it wait.
type mailbox struct {
	mu      sync.Mutex
	letters []letter
	wake    chan struct{} // capacity 1
}

type letterKind int

const (
	letterAcked letterKind = iota
	letterFailed
	letterLeft
)

// letter tells what became of a file.
type letter struct {
	path   string
	kind   letterKind
	digest string
	id     string
	err    error
}

func (m *mailbox) put(l letter) {
	m.mu.Lock()
	m.letters = append(m.letters, l)
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *mailbox) take() []letter {
	m.mu.Lock()
	defer m.mu.Unlock()
	letters := m.letters
	m.letters = nil
	return letters
}

// lookQueue holds the times at which files are looked at again, the next first.
type lookQueue []look

type look struct {
	due  time.Time
	path string
}

func (q lookQueue) Len() int           { return len(q) }
func (q lookQueue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q lookQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *lookQueue) Push(x any)        { *q = append(*q, x.(look)) }
func (q *lookQueue) Pop() any {
	last := len(*q) - 1
	l := (*q)[last]
	*q = (*q)[:last]
	return l
}

var _ heap.Interface = (*lookQueue)(nil)
