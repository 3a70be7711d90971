package producer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"
)

// MirrorOptions say which growing files are mirrored, and how.
type MirrorOptions struct {
	FileOptions // of directories

	Poll time.Duration // between two looks that no event asked for; 0: one second
}

// Mirror sends growing files live, as live transfers, until ctx ends, which is
// no error: what is appended is sent at once, and the receiver's file grows
// with this one. A path may be that of a directory, for the files in it, also
// those that come later. Files need not exist yet.
//
// A file that grows is one generation, one transfer. It ends, and another one
// begins, when the file was cut or rewritten, or when another file has its
// name. That is told by content, not by inode alone: a file that begins with
// all that was sent is the same one. A file that was moved away is read to its
// end first; also when that happened between two calls, if it is still in its
// directory.
//
// A file that cannot be read is tried again until it can.
//
// Positions are kept in Config.StateDir, so that the next call goes on where
// this one stopped. Without it, every call sends files anew, and ends what it
// has sent when it stops.
func (p *Producer) Mirror(ctx context.Context, paths []string, o MirrorOptions) (Summary, error) {
	filter, err := newFilter(o.Include, o.Exclude)
	if err != nil {
		return Summary{}, err
	}
	roots, err := newMirrorRoots(paths)
	if err != nil {
		return Summary{}, err
	}
	if o.Poll <= 0 {
		o.Poll = defaultPoll
	}
	if err := p.connect(ctx); err != nil {
		return Summary{}, err
	}
	topicID, err := p.askTopicID(ctx)
	if err != nil {
		return Summary{}, err
	}
	job := &mirrorJob{
		run: p.newRun(ctx), chunk: chunkSize(p.topic.maxBatch, p.sealing.overhead()), topicID: topicID,
		options: o, filter: filter, notes: newNotifier(p.log, o.Poll), mirrors: make(map[string]*mirror),
	}
	defer job.notes.close()
	for _, r := range roots {
		job.work.Go(func() { job.watchRoot(r) })
	}
	job.work.Wait()
	sum, err := job.run.end()
	sum.Mirrored = job.started
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		err = nil
	}
	for _, m := range job.mirrors {
		err = errors.Join(err, m.close())
	}
	return sum, err
}

// newMirrorRoots is newRoots for paths that need not exist yet.
func newMirrorRoots(paths []string) ([]root, error) {
	if len(paths) == 0 {
		return nil, &ArgumentError{"no files given"}
	}
	var roots []root
	names := make(map[string]string)
	for _, arg := range paths {
		r, err := newRoot(arg)
		if err != nil {
			return nil, err
		}
		if other, taken := names[r.name]; taken && r.name != "" {
			return nil, &ArgumentError{fmt.Sprintf("%s and %s would both arrive as %q: send one of them only, or each to a topic of its own", other, arg, r.name)}
		}
		names[r.name] = arg
		if r.path, err = filepath.Abs(arg); err != nil {
			return nil, err
		}
		roots = append(roots, r)
	}
	return roots, nil
}

// mirrorJob is one call of Mirror.
type mirrorJob struct {
	run     *run
	chunk   int    // bytes
	topicID string // hex; "" when the broker has none
	options MirrorOptions
	filter  filter
	notes   *notifier
	work    sync.WaitGroup

	mu      sync.Mutex
	mirrors map[string]*mirror // by name
	started int
}

// watchRoot mirrors one file, or the files of a directory.
func (j *mirrorJob) watchRoot(r root) {
	info, err := os.Stat(r.path)
	if err == nil && info.IsDir() {
		j.watchTree(r)
		return
	}
	name := r.name
	if name == "" {
		j.run.failed("", r.path, errors.New("it is no directory"))
		return
	}
	j.start(r.path, name, false)
}

// watchTree starts a mirror for each file in a directory, as they come.
func (j *mirrorJob) watchTree(r root) {
	wake := j.notes.wakeTree()
	poll := time.NewTicker(j.options.Poll)
	defer poll.Stop()
	told := make(map[string]bool)
	for {
		j.scan(r, told)
		select {
		case <-j.run.ctx.Done():
			return
		case <-wake:
		case <-poll.C:
		}
	}
}

// scan looks for files that are not mirrored yet. told are those that cannot be.
func (j *mirrorJob) scan(r root, told map[string]bool) {
	skip := func(name string, why error) {
		if !told[name] {
			told[name] = true
			j.run.p.log.Warn().Str("file", name).Err(why).Msg("not mirrored")
		}
	}
	err := filepath.WalkDir(r.path, func(file string, entry fs.DirEntry, err error) error {
		rel, relErr := filepath.Rel(r.path, file)
		if err = errors.Join(err, relErr); err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				skip(file, err)
			}
			return nil
		}
		rel = filepath.ToSlash(rel)
		if rel != "." && j.filter.excluded(rel) {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if entry.IsDir() {
			j.notes.addTree(file)
			return nil
		}
		if j.filter.included(rel) && entry.Type().IsRegular() {
			j.start(file, path.Join(r.name, rel), true)
		}
		return nil
	})
	if err != nil {
		skip(r.path, err)
	}
}

// start begins to mirror a file, unless it is already. found tells that it is
// one of a directory, and not named by the caller.
func (j *mirrorJob) start(file, name string, found bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.mirrors[name] != nil {
		return
	}
	m, err := newMirror(j, file, name)
	if err != nil {
		j.run.failed("", name, err)
		return
	}
	m.found = found
	j.mirrors[name] = m
	j.started++
	j.work.Go(m.loop)
}

// stop ends the mirror of a file that is no more; the directory tells when it
// is back.
func (j *mirrorJob) stop(m *mirror) {
	j.notes.leaveFile(m.path)
	err := m.close()
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.mirrors, m.name)
	if err != nil {
		j.run.p.log.Warn().Err(err).Str("file", m.path).Msg("end mirroring the file")
	}
}
