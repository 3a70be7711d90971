package producer

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	failedKind    = "failed" // of thing in the state directory
	failedExt     = ".json"
	maxFailedAge  = 90 * 24 * time.Hour
	maxFailedKept = 100_000
)

// FailedFile is a file that could finally not be sent. It is kept in
// Config.StateDir until it is sent.
type FailedFile struct {
	Topic  string    `json:"topic"`
	Path   string    `json:"path"` // absolute
	Name   string    `json:"name"` // that it was to be sent under
	Reason string    `json:"reason"`
	Tries  int       `json:"tries"`
	At     time.Time `json:"at"`
}

// Failed lists the files that could finally not be sent to a topic, "" for all
// topics, the oldest first.
func Failed(stateDir, topic string) ([]FailedFile, error) {
	dir := filepath.Join(stateDir, failedKind)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || stateDir == "" {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the state directory: %w", err)
	}
	var all []FailedFile
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), failedExt) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var f FailedFile
		if err == nil {
			err = json.Unmarshal(text, &f)
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w: remove it if it is damaged", filepath.Join(dir, entry.Name()), err)
		}
		if topic == "" || f.Topic == topic {
			all = append(all, f)
		}
	}
	slices.SortFunc(all, func(a, b FailedFile) int {
		return cmpOr(a.At.Compare(b.At), strings.Compare(a.Path, b.Path))
	})
	return all, nil
}

func cmpOr(first, second int) int {
	if first != 0 {
		return first
	}
	return second
}

// deadLetters keeps the files of one topic that could not be sent.
type deadLetters struct {
	dir, topic string // dir is "" when none are kept

	mu    sync.Mutex
	there map[string]bool // names of the files in dir
}

func openDeadLetters(stateDir, topic string) (*deadLetters, error) {
	d := &deadLetters{topic: topic}
	if stateDir == "" {
		return d, nil
	}
	s := state{stateDir}
	var err error
	if d.there, err = s.pruned(failedKind, maxFailedAge, maxFailedKept, os.Remove); err != nil {
		return nil, err
	}
	d.dir = filepath.Join(stateDir, failedKind)
	return d, nil
}

func (d *deadLetters) fileOf(path string) (file string, abs string, err error) {
	if abs, err = filepath.Abs(path); err != nil {
		return "", "", err
	}
	id := keyOf(d.topic + "\x00" + abs)
	return hex.EncodeToString(id[:]) + failedExt, abs, nil
}

// put keeps a file.
func (d *deadLetters) put(f source, tries int, why error) error {
	if d.dir == "" {
		return nil
	}
	file, abs, err := d.fileOf(f.path)
	if err != nil {
		return err
	}
	text, err := json.Marshal(FailedFile{Topic: d.topic, Path: abs, Name: f.name, Reason: why.Error(), Tries: tries, At: time.Now().UTC()})
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	temp, err := os.CreateTemp(d.dir, "new-*")
	if err != nil {
		return err
	}
	_, err = temp.Write(append(text, '\n'))
	if err = errors.Join(err, temp.Close()); err == nil {
		err = os.Rename(temp.Name(), filepath.Join(d.dir, file))
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	if d.there == nil {
		d.there = make(map[string]bool)
	}
	d.there[file] = true
	return nil
}

// drop forgets a file, which was sent or is not to be sent any more.
func (d *deadLetters) drop(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.there) == 0 {
		return nil
	}
	file, _, err := d.fileOf(path)
	if err != nil || !d.there[file] {
		return err
	}
	delete(d.there, file)
	if err := os.Remove(filepath.Join(d.dir, file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// gaveUp notes a file that is not tried any more.
func (r *run) gaveUp(id string, f source, tries int, why error) {
	if errors.Is(why, fs.ErrNotExist) {
		r.forget(f)
	} else if err := r.letters.put(f, tries, why); err != nil {
		r.p.log.Warn().Err(err).Str("file", f.path).Msg("the list of failed files cannot be written")
	}
	r.failed(id, f.name, why)
}

// forget takes a file off the list of those that failed, if it is there.
func (r *run) forget(f source) {
	if err := r.letters.drop(f.path); err != nil {
		r.p.log.Warn().Err(err).Str("file", f.path).Msg("the list of failed files cannot be written")
	}
}

// SendFailed sends files that could not be sent before, under the names that
// they were to have. What is sent, or gone, is on the list no more.
func (p *Producer) SendFailed(ctx context.Context, files []FailedFile) (Summary, error) {
	if err := p.connect(ctx); err != nil {
		return Summary{}, err
	}
	defer p.streams.warmUp(ctx, p.cfg.Acks == "" || p.cfg.Acks == AcksAll)()
	job, err := p.newFileJob(ctx)
	if err != nil {
		return Summary{}, err
	}
	var sources []source
	for _, f := range files {
		info, err := os.Lstat(f.Path)
		if err != nil {
			job.run.gaveUp("", source{path: f.Path, name: f.Name}, f.Tries+1, err)
			continue
		}
		sources = append(sources, source{path: f.Path, name: f.Name})
		job.run.tell(func(_ *Summary, events *Events) {
			if events.Found != nil {
				events.Found(1, info.Size())
			}
		})
	}
	job.sendAll(sources)
	for job.awaitRetries() {
		job.sendAll(job.takeRetries())
	}
	return job.run.end()
}
