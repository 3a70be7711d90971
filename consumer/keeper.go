package consumer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// keepInterval is how often what is open is written down, at most. What came
// since is read again after a kill.
const keepInterval = time.Second

// keeper writes down what the partitions of a receiver have open, and gives it
// back to the next one. Its methods may be called from several goroutines.
//
// A file that comes and goes within keepInterval costs nothing: only partitions
// that have temporary files open are written down.
type keeper struct {
	work *work
	log  zerolog.Logger
	fail func(error) // what is on the disk is not known any more

	wake chan struct{} // capacity 1
	stop chan struct{}
	done sync.WaitGroup

	mu      sync.Mutex
	head    kept // without Partitions
	parts   map[int32]*keptPartition
	changed bool // since it was written
	there   bool // the file is

	writing sync.Mutex
	synced  map[string]int64 // temporary files, and how many bytes of each were there when it was made durable
	told    bool             // that it cannot be written
}

// newKeeper begins with what a receiver that is gone has left.
func newKeeper(w *work, log zerolog.Logger, fail func(error)) *keeper {
	k := &keeper{
		work: w, log: log, fail: fail, wake: make(chan struct{}, 1), stop: make(chan struct{}),
		parts: make(map[int32]*keptPartition), synced: make(map[string]int64),
	}
	if w.left != nil {
		k.head, k.there = *w.left, true
		for i := range w.left.Partitions {
			k.parts[w.left.Partitions[i].ID] = &w.left.Partitions[i]
		}
		k.head.Partitions = nil
	}
	if w.note != nil {
		k.there, k.changed = true, true
		log.Warn().Str("dir", w.path).Err(w.note).Msg("what an earlier run had received in part cannot be taken up, it is received again")
	}
	k.done.Go(k.run)
	return k
}

// serve says whose partitions these are from now on. What is left of others is
// of no use.
func (k *keeper) serve(group, topic string, id [16]byte) {
	k.mu.Lock()
	same := k.head.Group == group && k.head.Topic == topic && bytes.Equal(k.head.TopicID, id[:]) && id != [16]byte{}
	k.mu.Unlock()
	if !same {
		k.discard("it is of another group or topic")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.head = kept{Group: group, Topic: topic, TopicID: id[:]}
}

// discard drops everything that is kept, with its temporary files.
func (k *keeper) discard(why string) {
	k.mu.Lock()
	parts := k.parts
	k.parts = make(map[int32]*keptPartition)
	k.changed = true
	k.mu.Unlock()
	if len(parts) > 0 {
		k.log.Info().Str("dir", k.work.path).Str("reason", why).Msg("what was received in part is dropped, and received again")
	}
	for _, p := range parts {
		for i := range p.Open {
			k.remove(p.Open[i].Temp)
		}
	}
	k.kick()
}

// remove removes a temporary file that is of no use.
func (k *keeper) remove(temp string) {
	if temp == "" {
		return
	}
	if err := k.work.root.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.log.Warn().Str("dir", k.work.path).Err(err).Msg("a temporary file could not be removed")
	}
}

// of is what is kept of a partition, nil for nothing.
func (k *keeper) of(id int32) *keptPartition {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.parts[id]
}

// any tells whether something is kept.
func (k *keeper) any() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.parts) > 0
}

// put replaces what is kept of a partition; nil: nothing of it is open.
func (k *keeper) put(id int32, p *keptPartition) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if p == nil && k.parts[id] == nil || bytes.Equal(k.head.TopicID, make([]byte, 16)) {
		return
	}
	if p == nil {
		delete(k.parts, id)
	} else {
		k.parts[id] = p
	}
	k.changed = true
	k.kick()
}

func (k *keeper) kick() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// run writes, not too often.
func (k *keeper) run() {
	for {
		select {
		case <-k.wake:
		case <-k.stop:
			return
		}
		if err := k.write(); isSyncError(err) {
			k.fail(err)
		}
		pause := time.NewTimer(keepInterval / 2)
		select {
		case <-pause.C:
		case <-k.stop:
			pause.Stop()
			return
		}
	}
}

// close writes for the last time. names are the files in the work directory
// that have to stay. The error is that of an fsync.
func (k *keeper) close() (names []string, err error) {
	close(k.stop)
	k.done.Wait()
	if err = k.write(); !isSyncError(err) {
		err = nil // it is told
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.parts) == 0 || !k.there {
		return nil, err
	}
	for _, p := range k.parts {
		for i := range p.Open {
			if p.Open[i].Temp != "" {
				names = append(names, p.Open[i].Temp)
			}
		}
	}
	return append(names, stateFile), err
}

// write makes the temporary files durable and replaces the state, or removes it
// when there is nothing in it. An error that is not of an fsync is told.
func (k *keeper) write() error {
	k.writing.Lock()
	defer k.writing.Unlock()
	k.mu.Lock()
	if !k.changed {
		k.mu.Unlock()
		return nil
	}
	k.changed = false
	state, there := k.head, k.there
	state.Partitions = nil
	for _, p := range k.parts {
		state.Partitions = append(state.Partitions, *p)
	}
	k.mu.Unlock()

	var err error
	switch {
	case len(state.Partitions) > 0:
		slices.SortFunc(state.Partitions, func(a, b keptPartition) int { return int(a.ID) - int(b.ID) })
		if err = k.sync(&state); err == nil {
			err = k.replace(&state)
			there = err == nil || there
		}
	case there:
		clear(k.synced)
		if err = k.work.root.Remove(stateFile); err == nil || errors.Is(err, fs.ErrNotExist) {
			there, err = false, nil
		}
	}
	k.mu.Lock()
	k.there = there
	if err != nil {
		k.changed = true // the next put, or close, tries again
	}
	k.mu.Unlock()
	switch {
	case err == nil:
		if k.told {
			k.told = false
			k.log.Warn().Str("dir", k.work.path).Msg("what is received in part can be written down again")
		}
	case !isSyncError(err) && !k.told:
		k.told = true
		k.log.Warn().Str("dir", k.work.path).Err(err).Msg("what is received in part cannot be written down: after a kill more of it is received again")
	}
	return err
}

// sync makes the temporary files durable.
func (k *keeper) sync(state *kept) error {
	synced := make(map[string]int64)
	for i := range state.Partitions {
		for j := range state.Partitions[i].Open {
			t := &state.Partitions[i].Open[j]
			if t.Temp == "" {
				continue
			}
			if size, ok := k.synced[t.Temp]; !ok || size != t.size {
				if err := syncTemp(k.work.root, t.Temp); err != nil {
					return err
				}
			}
			synced[t.Temp] = t.size
		}
	}
	k.synced = synced
	return nil
}

// syncTemp makes a temporary file durable. One that is gone, or already has the
// mode of the file that it becomes, is being placed: whoever does that syncs it.
func syncTemp(root *os.Root, temp string) error {
	file, err := root.OpenFile(temp, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("temporary file: %w", err)
	}
	if err := errors.Join(file.Sync(), file.Close()); err != nil {
		return &syncError{fmt.Errorf("making a temporary file durable: %w", err)}
	}
	return nil
}

// replace writes the state: a new file, and then its name.
func (k *keeper) replace(state *kept) error {
	for i := range state.Partitions {
		for j := range state.Partitions[i].Open {
			t := &state.Partitions[i].Open[j]
			t.Have = t.Have[:0:0]
			for _, r := range t.raw.ranges {
				t.Have = append(t.Have, [2]int64{r.start, r.end})
			}
		}
	}
	text, err := state.encode()
	if err != nil {
		return err
	}
	const next = stateFile + ".new"
	file, err := k.work.root.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err := file.Write(text); err != nil {
		return errors.Join(err, file.Close())
	}
	if err := errors.Join(file.Sync(), file.Close()); err != nil {
		return &syncError{fmt.Errorf("making %s durable: %w", next, err)}
	}
	if err := k.work.root.Rename(next, stateFile); err != nil {
		return err
	}
	if err := syncDir(k.work.root, "."); err != nil {
		return &syncError{fmt.Errorf("making %s durable: %w", stateFile, err)}
	}
	return nil
}

// readKept reads the state that a receiver has left; nil: none, or none that
// can be used, which note says.
func readKept(root *os.Root) (k *kept, note error) {
	file, err := root.Open(stateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(file, maxStateBytes))
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	return parseKept(text)
}
