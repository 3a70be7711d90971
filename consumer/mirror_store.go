package consumer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"mft/protocol"
)

// mirrorDir is the directory in the work directory that live transfers use:
//
//	state   the mirrors that are open, and how much of them is durable
//	<id>    the file of a mirror that is about to get its name
//
// A receiver that stops leaves it there while mirrors are open.
const mirrorDir = "mirrors"

const (
	mirrorStateFile    = mirrorDir + "/state"
	mirrorStateVersion = 1
	maxFinished        = 1024 // mirrors that are remembered after their end
)

// mirrorEntry is an open mirror as the state has it.
type mirrorEntry struct {
	Transfer  protocol.TransferID `json:"transfer"`
	Topic     string              `json:"topic"`
	TopicID   []byte              `json:"topic_id,omitempty"`
	Partition int32               `json:"partition"`
	Name      string              `json:"name"`

	// The begin record.
	Begin  int64  `json:"begin"` // its offset
	Time   int64  `json:"time"`  // its timestamp, ms since 1970
	Value  []byte `json:"value"`
	Sealed bool   `json:"sealed,omitempty"`

	Have    int64  `json:"have"`           // bytes of the file that are durable
	Applied int64  `json:"applied"`        // offset after the last record that is in them
	Last    *int64 `json:"last,omitempty"` // of an encrypted file: where the chunk that says it is the last one ends
	Temp    string `json:"temp,omitempty"` // in mirrorDir, the file until it gets its name
	Kept    string `json:"kept,omitempty"` // what the file that had the name is called from then on
}

// mirrorStore keeps the open mirrors of a work directory on disk. Its methods
// may be called from several goroutines.
type mirrorStore struct {
	root *os.Root // of the work directory

	mu       sync.Mutex
	made     bool // the directory is there, durably
	open     map[protocol.TransferID]mirrorEntry
	finished []protocol.TransferID
	active   map[string]*mirror // by name: the mirror that writes the file of that name now
}

type mirrorState struct {
	Version  int                   `json:"v"`
	Open     []mirrorEntry         `json:"open"`
	Finished []protocol.TransferID `json:"finished"`
}

// openMirrorStore reads the state, and removes files that nothing refers to.
func openMirrorStore(root *os.Root) (*mirrorStore, error) {
	s := &mirrorStore{root: root, open: make(map[protocol.TransferID]mirrorEntry), active: make(map[string]*mirror)}
	text, err := root.ReadFile(mirrorStateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the state of mirrors: %w", err)
	}
	var state mirrorState
	if err := json.Unmarshal(text, &state); err != nil {
		return nil, fmt.Errorf("the state of mirrors, %s/%s, is damaged: %w: remove it to receive growing files from their beginnings", workDir, mirrorStateFile, err)
	}
	if state.Version > mirrorStateVersion {
		return nil, fmt.Errorf("%s/%s was written by a newer mft-consume: update this one", workDir, mirrorStateFile)
	}
	kept := map[string]bool{"state": true}
	for _, e := range state.Open {
		s.open[e.Transfer] = e
		kept[e.Temp] = true
	}
	s.finished = state.Finished
	list, err := fs.ReadDir(root.FS(), mirrorDir)
	for _, entry := range list {
		if !kept[entry.Name()] {
			err = errors.Join(err, root.RemoveAll(mirrorDir+"/"+entry.Name()))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("removing what is left of mirrors: %w", err)
	}
	return s, nil
}

// update changes the state and makes that durable.
func (s *mirrorStore) update(change func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	state := mirrorState{Version: mirrorStateVersion, Finished: s.finished, Open: []mirrorEntry{}}
	for _, e := range s.open {
		state.Open = append(state.Open, e)
	}
	text, err := json.Marshal(state)
	if err == nil {
		err = s.write(text)
	}
	if err != nil {
		return fmt.Errorf("writing the state of mirrors: %w", err)
	}
	return nil
}

// makeDir makes mirrorDir and its name durable, once.
func (s *mirrorStore) makeDir() error {
	if s.made {
		return nil
	}
	if err := s.root.Mkdir(mirrorDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := syncDir(s.root, "."); err != nil {
		return err
	}
	s.made = true
	return nil
}

func (s *mirrorStore) write(text []byte) error {
	if err := s.makeDir(); err != nil {
		return err
	}
	temp := mirrorStateFile + ".new"
	file, err := s.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = bytes.NewReader(text).WriteTo(file)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := s.root.Rename(temp, mirrorStateFile); err != nil {
		return err
	}
	return syncDir(s.root, mirrorDir)
}

// put enters or changes mirrors.
func (s *mirrorStore) put(entries ...mirrorEntry) error {
	return s.update(func() {
		for _, e := range entries {
			s.open[e.Transfer] = e
		}
	})
}

// finish removes a mirror and remembers that it is done with, or only removes it.
func (s *mirrorStore) finish(id protocol.TransferID, remember bool) error {
	return s.update(func() {
		delete(s.open, id)
		if remember {
			s.finished = append(s.finished[max(0, len(s.finished)+1-maxFinished):], id)
		}
	})
}

// entry returns an open mirror, and whether a transfer was finished.
func (s *mirrorStore) entry(id protocol.TransferID) (e mirrorEntry, open, finished bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, open = s.open[id]
	for _, f := range s.finished {
		finished = finished || f == id
	}
	return e, open, finished
}

// of returns the open mirrors of a partition.
func (s *mirrorStore) of(topic string, topicID [16]byte, partition int32) []mirrorEntry {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []mirrorEntry
	for _, e := range s.open {
		if e.Topic == topic && e.Partition == partition && (topicID == [16]byte{} || len(e.TopicID) == 0 || bytes.Equal(e.TopicID, topicID[:])) {
			list = append(list, e)
		}
	}
	return list
}

// temp makes an empty file of that name in mirrorDir.
func (s *mirrorStore) temp(name string, mode fs.FileMode) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.makeDir(); err != nil {
		return err
	}
	file, err := s.root.OpenFile(mirrorDir+"/"+name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(file.Chmod(mode), file.Close())
}

// take makes m the one that writes the file of its name. Another one, in
// another partition perhaps, has lost it.
func (s *mirrorStore) take(m *mirror) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if other := s.active[m.name]; other != nil && other != m {
		other.lost.Store(true)
	}
	s.active[m.name] = m
}

// leave is the reverse of take.
func (s *mirrorStore) leave(m *mirror) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active[m.name] == m {
		delete(s.active, m.name)
	}
}

// empty tells whether no mirror is open.
func (s *mirrorStore) empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open) == 0
}
