package producer

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"
)

const (
	fileReaders = 4    // files open at a time
	walkAhead   = 4096 // files found and not yet begun
)

// ArgumentError tells of paths or globs that make no sense.
type ArgumentError struct{ Reason string }

func (e *ArgumentError) Error() string { return e.Reason }

// FileOptions choose among the files below the paths given.
//
// A glob without a slash is matched against the last part of a name, one with
// a slash against the whole name below the path given, where ** stands for any
// number of parts. What is excluded is not looked into.
type FileOptions struct {
	Include []string // send only files that match one of these
	Exclude []string // leave out files and directories that match one of these
}

// SendFiles sends files and directories, these with all that is below them,
// and returns when all are acknowledged or ctx ends.
//
// A path "dir" sends "dir/a", "dir/b/c" and so on, "dir/" sends "a", "b/c"; a
// file goes by the last part of its path. Directories are sent after what is
// in them. Symbolic links are sent as links. Everything else that is neither
// file nor directory is skipped. A file that changes while it is read, or cannot be
// read, is tried again: see Config.Retries. What could not be sent is in the Summary and stops nothing else;
// the error is for what stopped the whole: a broker that refuses, or ctx.
func (p *Producer) SendFiles(ctx context.Context, paths []string, o FileOptions) (Summary, error) {
	filter, err := newFilter(o.Include, o.Exclude)
	if err != nil {
		return Summary{}, err
	}
	roots, err := newRoots(paths)
	if err != nil {
		return Summary{}, err
	}
	if err := p.connect(ctx); err != nil {
		return Summary{}, err
	}
	defer p.streams.warmUp(ctx, p.cfg.Acks == "" || p.cfg.Acks == AcksAll)()
	job, err := p.newFileJob(ctx)
	if err != nil {
		return Summary{}, err
	}
	dirs := job.sendTrees(roots, filter)
	for job.awaitRetries() {
		job.sendAll(job.takeRetries())
	}
	for _, dir := range dirs {
		if job.run.ctx.Err() != nil {
			break
		}
		job.sendDir(dir)
	}
	return job.run.end()
}

// newRoots checks the arguments: two that stand for the same name would
// overwrite each other where they arrive, and when none exists there is
// nothing to do.
func newRoots(paths []string) ([]root, error) {
	if len(paths) == 0 {
		return nil, &ArgumentError{"no files given"}
	}
	var (
		roots   []root
		exists  bool
		missing error
		names   = make(map[string]string)
	)
	for _, arg := range paths {
		r, err := newRoot(arg)
		if err != nil {
			return nil, err
		}
		if other, taken := names[r.name]; taken && r.name != "" {
			return nil, &ArgumentError{fmt.Sprintf("%s and %s would both arrive as %q: send one of them only, or each to a topic of its own", other, arg, r.name)}
		}
		names[r.name] = arg
		if _, err := os.Lstat(arg); err != nil {
			missing = err
		} else {
			exists = true
		}
		roots = append(roots, r)
	}
	if !exists {
		return nil, missing
	}
	return roots, nil
}

// fileJob is one call of SendFiles.
type fileJob struct {
	run   *run
	chunk int // bytes

	mu      sync.Mutex
	retries []source
}

// newFileJob begins a run that sends files. The Producer is connected.
func (p *Producer) newFileJob(ctx context.Context) (*fileJob, error) {
	letters, err := openDeadLetters(p.cfg.StateDir, p.cfg.Topic)
	if err != nil {
		return nil, err
	}
	job := &fileJob{run: p.newRun(ctx), chunk: chunkSize(p.topic.maxBatch, p.sealing.overhead())}
	job.run.letters = letters
	job.run.resume = p.newResumption()
	if job.run.confirm, err = job.run.newConfirmations(job.run.resume.goesOn()); err != nil {
		_, endErr := job.run.end()
		if endErr != nil {
			return nil, endErr
		}
		return nil, err
	}
	return job, nil
}

// sendTrees walks the roots and sends their files as it finds them, several
// at a time. It returns the directories.
func (j *fileJob) sendTrees(roots []root, filter filter) []source {
	found := make(chan source, walkAhead)
	w := &walker{run: j.run, filter: filter, found: found}
	var walk sync.WaitGroup
	walk.Go(func() {
		defer close(found)
		for _, r := range roots {
			w.walkRoot(j.run.ctx, r)
		}
	})
	j.sendFrom(found)
	walk.Wait()
	return w.dirs
}

func (j *fileJob) sendAll(files []source) {
	found := make(chan source, len(files))
	for _, f := range files {
		found <- f
	}
	close(found)
	j.sendFrom(found)
}

func (j *fileJob) sendFrom(found <-chan source) {
	var readers sync.WaitGroup
	for range fileReaders {
		readers.Go(func() {
			for f := range found {
				if j.run.ctx.Err() != nil {
					return
				}
				if f.link {
					j.sendLink(f)
				} else {
					j.sendFile(f)
				}
			}
		})
	}
	readers.Wait()
}

// retry notes that f is to be sent anew, unless that was tried often enough.
func (j *fileJob) retry(f source) bool {
	if f.tries >= j.run.p.cfg.retries() {
		return false
	}
	f.tries++
	j.mu.Lock()
	defer j.mu.Unlock()
	j.retries = append(j.retries, f)
	return true
}

func (j *fileJob) takeRetries() []source {
	j.mu.Lock()
	defer j.mu.Unlock()
	files := j.retries
	j.retries = nil
	return files
}

// awaitRetries reports whether files are to be sent anew, and gives them some
// time to come to rest.
func (j *fileJob) awaitRetries() bool {
	j.mu.Lock()
	tries := 0
	for _, f := range j.retries {
		tries = max(tries, f.tries)
	}
	j.mu.Unlock()
	if tries == 0 {
		return false
	}
	timer := time.NewTimer(j.run.p.cfg.retryWait(tries))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-j.run.ctx.Done():
		return false
	}
}
