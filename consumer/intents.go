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

// placedFile, in the work directory, holds the intents.
const placedFile = "placed"

const (
	rewriteIntents = 4 << 20 // bytes of the file, most of them of no use any more, at which it is written anew
	maxRecovered   = 1 << 17 // intents of killed runs that are kept; the oldest go first
	maxIntentLine  = 1 << 20 // bytes of one, in any case more than names and reasons take
)

// intent says that a file is about to get its name. It is durable before the
// file does, and stays until the group's offset, or its receipt, tells that
// the file is in place. So a receiver that is started again after a kill knows
// which files it had placed: those whose temporary file is gone. What is to be
// done after that, it does then: a command, a receipt.
type intent struct {
	Transfer  protocol.TransferID `json:"transfer"`
	Temp      string              `json:"temp"` // its temporary file in the work directory
	Topic     string              `json:"topic"`
	Group     string              `json:"group"`
	Partition int32               `json:"partition"`
	Begin     int64               `json:"begin"`             // offset of its begin record
	Receipt   json.RawMessage     `json:"receipt,omitempty"` // in clear
	Sealed    json.RawMessage     `json:"sent,omitempty"`    // the receipt to be sent, if that is another
	Void      bool                `json:"void,omitempty"`    // it did not get its name after all

	placed bool // it has its name
}

// intents keeps the intents of a work directory in a file of one JSON object a
// line. Its methods may be called from several goroutines.
//
// Invariant: every line of live is in the file, durable, before write returns.
// What else is in the file speaks of files that are done with.
type intents struct {
	root *os.Root // of the work directory
	path string   // of the file, for messages

	noSync bool // see FilesConfig.NoSync

	mu        sync.Mutex
	file      *os.File // nil until there is something to write
	size      int64
	live      map[protocol.TransferID]*intent
	recovered []*intent // of files that were placed before a kill, oldest first
}

// openIntents reads what a killed receiver has left. It must be called before
// temporary files are removed.
func openIntents(root *os.Root, path string) (*intents, error) {
	i := &intents{root: root, path: path, live: make(map[protocol.TransferID]*intent)}
	text, err := root.ReadFile(placedFile)
	if errors.Is(err, fs.ErrNotExist) {
		return i, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	for _, in := range parseIntents(text) {
		_, err := root.Lstat(in.Temp)
		switch {
		case err == nil: // not placed
		case !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("looking for a temporary file beside %s: %w", path, err)
		default:
			i.recovered = append(i.recovered, in)
		}
	}
	i.recovered = i.recovered[max(0, len(i.recovered)-maxRecovered):]
	for _, in := range i.recovered {
		in.placed = true
		i.live[in.Transfer] = in
	}
	// Before a temporary file is removed, nothing may speak of it any more.
	return i, i.rewrite(i.recovered)
}

// parseIntents reads the lines up to the first that is cut, which a power cut
// may leave: what follows it was never durable. The last of a transfer counts.
func parseIntents(text []byte) (list []*intent) {
	at := make(map[protocol.TransferID]int)
	for {
		line, rest, whole := bytes.Cut(text, []byte("\n"))
		in := new(intent)
		if !whole || len(line) > maxIntentLine || json.Unmarshal(line, in) != nil {
			break
		}
		text = rest
		if n, ok := at[in.Transfer]; ok {
			list[n] = nil
			delete(at, in.Transfer)
		}
		if !in.Void && in.Temp != "" {
			at[in.Transfer] = len(list)
			list = append(list, in)
		}
	}
	kept := list[:0]
	for _, in := range list {
		if in != nil {
			kept = append(kept, in)
		}
	}
	return kept
}

// appendLine appends in as encoding/json would write it. What is long in it, the
// receipts, is JSON already, which that would go through once more.
func appendLine(text []byte, in *intent) ([]byte, error) {
	receipts := []json.RawMessage{in.Receipt, in.Sealed}
	short := *in
	short.Receipt, short.Sealed = nil, nil
	line, err := json.Marshal(&short)
	if err != nil {
		return text, err
	}
	text = append(text, line[:len(line)-1]...)
	for i, name := range []string{`,"receipt":`, `,"sent":`} {
		if len(receipts[i]) > 0 {
			text = append(append(text, name...), receipts[i]...)
		}
	}
	return append(text, "}\n"...), nil
}

// rewrite makes the file anew with these intents alone, or removes it.
func (i *intents) rewrite(list []*intent) error {
	if i.file != nil {
		file := i.file
		i.file, i.size = nil, 0
		if err := file.Close(); err != nil {
			return &syncError{fmt.Errorf("closing %s: %w", i.path, err)}
		}
	}
	var text []byte
	for _, in := range list {
		var err error
		if text, err = appendLine(text, in); err != nil {
			return err
		}
	}
	next := placedFile + ".new"
	err := i.root.WriteFile(next, text, 0o600)
	if err == nil {
		i.file, err = i.root.OpenFile(next, os.O_RDWR, 0o600)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", i.path, err)
	}
	if err := i.sync(); err != nil {
		return err
	}
	if !removeOpenFiles { // nor renamed
		err := i.file.Close()
		i.file = nil
		if err == nil {
			if err = i.root.Rename(next, placedFile); err == nil {
				i.file, err = i.root.OpenFile(placedFile, os.O_RDWR, 0o600)
			}
		}
		if err != nil {
			return fmt.Errorf("writing %s: %w", i.path, err)
		}
	} else if err := i.root.Rename(next, placedFile); err != nil {
		return fmt.Errorf("writing %s: %w", i.path, err)
	}
	i.size = int64(len(text))
	return i.syncNames()
}

// sync makes what is in the file durable.
func (i *intents) sync() error {
	if i.noSync {
		return nil
	}
	if err := i.file.Sync(); err != nil {
		return &syncError{fmt.Errorf("making %s durable: %w", i.path, err)}
	}
	return nil
}

// syncNames makes the names in the work directory durable.
func (i *intents) syncNames() error {
	if i.noSync {
		return nil
	}
	if err := syncDir(i.root, "."); err != nil {
		return &syncError{fmt.Errorf("making the work directory beside %s durable: %w", i.path, err)}
	}
	return nil
}

// write makes intents durable, and that their temporary files are there. It
// may be called again after an error that passes.
func (i *intents) write(list []*intent) error {
	if len(list) == 0 {
		return nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.file == nil || i.size > rewriteIntents {
		live := make([]*intent, 0, len(i.live))
		for _, in := range i.live {
			live = append(live, in)
		}
		if err := i.rewrite(live); err != nil {
			return err
		}
	}
	if err := i.append(list); err != nil {
		return err
	}
	for _, in := range list {
		i.live[in.Transfer] = in
	}
	return nil
}

// append writes lines behind what is there, and syncs. A failed write is
// overwritten by the next.
func (i *intents) append(list []*intent) error {
	var text []byte
	for _, in := range list {
		var err error
		if text, err = appendLine(text, in); err != nil {
			return err
		}
	}
	// The names of the temporary files first: an intent whose temporary file is
	// gone tells that the file was placed.
	if err := i.syncNames(); err != nil {
		return err
	}
	if _, err := i.file.WriteAt(text, i.size); err != nil {
		return fmt.Errorf("writing %s: %w", i.path, err)
	}
	if err := i.sync(); err != nil {
		return err
	}
	i.size += int64(len(text))
	return nil
}

// void tells that a transfer did not get its name. It must be called before
// its temporary file is removed for that.
func (i *intents) void(id protocol.TransferID) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.live[id] == nil {
		return nil
	}
	if err := i.append([]*intent{{Transfer: id, Void: true}}); err != nil {
		return err
	}
	delete(i.live, id)
	return nil
}

// placed tells that a transfer got its name.
func (i *intents) placed(id protocol.TransferID) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if in := i.live[id]; in != nil {
		in.placed = true
	}
}

// forget tells that others remember that the transfer is in place.
func (i *intents) forget(id protocol.TransferID) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.live, id)
}

// passed tells that the group's offset has passed a partition up to offset.
func (i *intents) passed(topic, group string, partition int32, offset int64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for id, in := range i.live {
		if in.Partition == partition && in.Begin < offset && in.Topic == topic && in.Group == group {
			delete(i.live, id)
		}
	}
}

// close ends the use of the file. It tells whether the file has to stay: there
// is something in it that nobody else knows. After an error temporary files
// must stay, too.
func (i *intents) close() (stay bool, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	var known []*intent
	for _, in := range i.live {
		if in.placed {
			known = append(known, in)
		}
	}
	if len(known) < len(i.live) {
		err = i.rewrite(known)
	}
	if i.file != nil {
		err = errors.Join(err, i.file.Close())
		i.file = nil
	}
	return len(known) > 0, err
}
