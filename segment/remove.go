package segment

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

const (
	metadataName  = "partition.metadata"
	deletedSuffix = "-delete"
	// Removing a large file at once keeps the file system's journal, and with it every fsync, busy for long: it is cut shorter piece by piece.
	removePiece = 16 << 20
	removePause = 5 * time.Millisecond
)

// writeMetadata writes a log's partition.metadata, as Kafka does (org.apache.kafka.storage.internals.checkpoint.PartitionMetadataFile):
//
//	version: 0
//	topic_id: <16 bytes in URL-safe base64 without padding>
func writeMetadata(dir string, topicID [16]byte) error {
	text := "version: 0\ntopic_id: " + base64.RawURLEncoding.EncodeToString(topicID[:]) + "\n"
	return os.WriteFile(filepath.Join(dir, metadataName), []byte(text), 0o644)
}

// readMetadata returns the topic id in a log's partition.metadata, or a *CorruptionError.
func readMetadata(dir string) (topicID [16]byte, err error) {
	text, err := os.ReadFile(filepath.Join(dir, metadataName))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return topicID, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "topic_id: "); ok && strings.HasPrefix(string(text), "version: 0\n") {
			if id, err := base64.RawURLEncoding.DecodeString(value); err == nil && len(id) == len(topicID) {
				copy(topicID[:], id)
				return topicID, nil
			}
		}
	}
	return topicID, &CorruptionError{Dir: dir, File: metadataName, Reason: "the topic id is missing"}
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// DeleteLog closes the log if it is open and deletes it: when it returns, the log is gone for good, although its space comes back
// only by and by. Ranges that are not released yet stay readable.
func (s *Store) DeleteLog(id LogID) error {
	if err := id.check(); err != nil {
		return err
	}
	name := id.dirName()
	s.mu.Lock()
	l, open := s.logs[name]
	switch {
	case s.closed:
		s.mu.Unlock()
		return ErrClosed
	case open && l == nil:
		s.mu.Unlock()
		return fmt.Errorf("%s is being opened or deleted", name)
	case open && l.id != id:
		s.mu.Unlock()
		return nil // that one is gone, and this is another
	}
	s.logs[name] = nil
	s.opening.Add(1)
	s.mu.Unlock()
	defer s.opening.Done()
	err := s.deleteLog(id, l)
	s.note(record{recordDeleted, appendLogID(nil, id)})
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.logs, name)
	if p, ok := s.points[name]; ok && p.id == id {
		delete(s.points, name)
	}
	if r := s.redone[name]; r != nil && r.id == id {
		delete(s.redone, name)
	}
	return err
}

// deleteLog is DeleteLog while the name is reserved; l is nil when the log is not open.
func (s *Store) deleteLog(id LogID, l *Log) error {
	if l == nil {
		found, err := readMetadata(filepath.Join(s.dir, topicsName, id.dirName()))
		if err == nil && found != id.TopicID {
			return nil // that one is gone, and this is another
		}
		return s.deleteDir(id.dirName(), nil)
	}
	l.deleted.Store(true)
	err := l.close()
	return errors.Join(err, s.deleteDir(id.dirName(), l.drain()))
}

// drain returns channels that are closed once no range of the closed log is in use any more.
func (l *Log) drain() []<-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	var waits []<-chan struct{}
	for _, seg := range slices.AppendSeq(slices.Clone(l.segments), maps.Keys(l.retired)) {
		if seg.readers > 0 {
			waits = append(waits, seg.drain())
		}
	}
	return waits
}

// drain returns a channel that is closed once no range of the segment is in use any more; there are some. Log.mu is held.
func (seg *segment) drain() <-chan struct{} {
	if seg.drained == nil {
		seg.drained = make(chan struct{})
	}
	return seg.drained
}

// deleteDir renames a log's directory so that it is not a log any more, durably, and lets the remover have it.
func (s *Store) deleteDir(name string, drained []<-chan struct{}) error {
	topics := filepath.Join(s.dir, topicsName)
	var random [8]byte
	if _, err := rand.Read(random[:]); err != nil {
		return err
	}
	suffix := "." + hex.EncodeToString(random[:]) + deletedSuffix
	deleted := filepath.Join(topics, name[:min(len(name), 255-len(suffix))]+suffix)
	err := os.Rename(filepath.Join(topics, name), deleted)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syncDir(topics)
	}
	if err != nil {
		return fmt.Errorf("delete the log %s: %w", name, err)
	}
	s.remover.add(removal{deleted, drained})
	return nil
}

// RemoveOrphans goes through the directories at the start: it finishes deletions that were under way, and deletes logs of topics that are
// not known any more, as well as directories whose creation was cut short. Directories that it cannot make sense of stay; their paths
// are returned. Call it after the metadata is complete, and before logs are created.
func (s *Store) RemoveOrphans(known func(LogID) bool) (strange []string, err error) {
	topics := filepath.Join(s.dir, topicsName)
	entries, err := os.ReadDir(topics)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	for name, p := range s.points {
		if !known(p.id) {
			delete(s.points, name)
		}
	}
	var gone []LogID
	for name, r := range s.redone {
		if !known(r.id) {
			delete(s.redone, name)
			gone = append(gone, r.id)
		}
	}
	s.mu.Unlock()
	for _, id := range gone { // or the next start would bring it back, in the place of a topic of the same name
		s.note(record{recordDeleted, appendLogID(nil, id)})
	}
	for _, e := range entries {
		path := filepath.Join(topics, e.Name())
		if e.IsDir() && strings.HasSuffix(e.Name(), deletedSuffix) {
			s.remover.add(removal{path, nil})
			continue
		}
		id, ok := parseDirName(e.Name())
		if !e.IsDir() || !ok {
			strange = append(strange, path)
			continue
		}
		var damaged *CorruptionError
		id.TopicID, err = readMetadata(path)
		switch {
		case errors.As(err, &damaged):
			empty, err := s.isEmptyLog(path)
			if err != nil {
				return strange, err
			}
			if !empty {
				strange = append(strange, path)
				continue
			}
			if slices.ContainsFunc(s.openLogs(), func(l *Log) bool { return l.dir == path }) {
				continue
			}
		case err != nil:
			return strange, err
		case known(id):
			continue
		}
		s.log.Info().Str(fieldDir, path).Msg("removing the data of a topic that was deleted")
		if err := s.deleteDir(e.Name(), nil); err != nil {
			return strange, err
		}
	}
	return strange, nil
}

// isEmptyLog says whether a directory has no records in it.
func (s *Store) isEmptyLog(dir string) (bool, error) {
	segments, err := (&Log{store: s, dir: dir}).listSegments()
	return !slices.ContainsFunc(segments, func(seg *segment) bool { return seg.size > 0 || seg.base > 0 }), err
}

// parseDirName is the reverse of LogID.dirName, without the topic's id.
func parseDirName(name string) (LogID, bool) {
	i := strings.LastIndexByte(name, '-')
	if i <= 0 {
		return LogID{}, false
	}
	n, err := strconv.ParseInt(name[i+1:], 10, 32)
	id := LogID{Topic: name[:i], Partition: int32(n)}
	return id, err == nil && id.check() == nil && id.dirName() == name
}

// removal is a file, or a directory with its files, to be removed once nobody reads it any more.
type removal struct {
	path    string
	drained []<-chan struct{}
}

// remover removes files and directories in the background, one at a time.
type remover struct {
	log  zerolog.Logger
	mu   sync.Mutex
	todo []removal
	wake chan struct{} // cap 1
	quit chan struct{}
	done sync.WaitGroup
}

func newRemover(log zerolog.Logger) *remover {
	r := &remover{log: log, wake: make(chan struct{}, 1), quit: make(chan struct{})}
	r.done.Go(r.run)
	return r
}

func (r *remover) add(x removal) {
	r.mu.Lock()
	r.todo = append(r.todo, x)
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// close stops in the middle of the work; RemoveOrphans at the next start goes on.
func (r *remover) close() {
	close(r.quit)
	r.done.Wait()
}

func (r *remover) run() {
	for {
		r.mu.Lock()
		todo := r.todo
		r.todo = nil
		r.mu.Unlock()
		for _, x := range todo {
			if !r.await(x.drained) {
				return
			}
			if err := r.remove(x.path); err != nil {
				if errors.Is(err, ErrClosed) {
					return
				}
				r.log.Warn().Err(err).Str(fieldDir, x.path).Msg("deleted data could not be removed, it is tried again at the next start")
			}
		}
		if len(todo) > 0 {
			continue
		}
		select {
		case <-r.wake:
		case <-r.quit:
			return
		}
	}
}

func (r *remover) await(drained []<-chan struct{}) bool {
	for _, c := range drained {
		select {
		case <-c:
		case <-r.quit:
			return false
		}
	}
	return true
}

// remove removes a file, or a directory with the files in it.
func (r *remover) remove(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) { // with the directory that it was in
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return r.removeFiles(filepath.Dir(path), fs.FileInfoToDirEntry(info))
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	if err := r.removeFiles(path, entries...); err != nil {
		return err
	}
	return os.Remove(path)
}

// removeFiles removes files in a directory, large ones piece by piece.
func (r *remover) removeFiles(dir string, entries ...os.DirEntry) error {
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		info, err := e.Info()
		if err != nil {
			return err
		}
		for size := info.Size() - removePiece; size > 0 && info.Mode().IsRegular(); size -= removePiece {
			if err := os.Truncate(path, size); err != nil {
				return err
			}
			select {
			case <-time.After(removePause):
			case <-r.quit:
				return ErrClosed
			}
		}
		if err := os.Remove(path); err != nil {
			return err
		}
		select {
		case <-r.quit:
			return ErrClosed
		default:
		}
	}
	return nil
}
