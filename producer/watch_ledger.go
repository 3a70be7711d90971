package producer

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
	"unicode/utf8"

	"github.com/zeebo/xxh3"
)

const (
	watchKind     = "watch"        // of thing in the state directory
	ledgerVersion = 1              // of the file
	ledgerSlack   = 4096           // lines that say nothing any more, beyond as many as there are entries, until the file is rewritten
	ledgerGone    = 10_000         // entries of files that are gone which are kept
	ledgerGrace   = 24 * time.Hour // no entry goes for so long after the directory became another one: it may come back
)

// watchLedger knows which files of one directory were sent to one topic.
//
// It is a file of JSON lines, each about one name: the last one counts. In
// memory it holds 100 bytes or so of each file that is there, and no names.
// It has the lock of its file, so that no two processes send the same files.
// It is used by one goroutine.
type watchLedger struct {
	file    *os.File // nil: nothing is kept
	lock    *os.File
	path    string
	header  ledgerLine
	entries map[ledgerKey]ledgerEntry
	lines   int // in the file
	dirty   bool

	round uint32    // of looking at everything
	root  stamp     // of the directory, at the last round: inode and dev
	grace time.Time // until when nothing is pruned
}

type ledgerKey [16]byte

func keyOf(name string) ledgerKey { return xxh3.Hash128([]byte(name)).Bytes() }

// ledgerEntry is what was sent under a name.
type ledgerEntry struct {
	stamp
	digest ledgerKey // of the digest of its content
	marker int64     // when its done-marker was made, Unix ns; 0: there was none
	round  uint32    // when it was last seen
}

// ledgerLine is a line of the file. The first one has a version, the others a name.
type ledgerLine struct {
	Version int    `json:"version,omitempty"`
	Topic   string `json:"topic,omitempty"`
	Dir     string `json:"dir,omitempty"`

	Name   string `json:"name,omitempty"` // slash separated, below Dir; as hexadecimal when it is no UTF-8
	Hex    bool   `json:"hex,omitempty"`
	Gone   bool   `json:"gone,omitempty"`
	Size   int64  `json:"size,omitempty"`
	MTime  int64  `json:"mtime,omitempty"` // Unix ns, as the next ones
	CTime  int64  `json:"ctime,omitempty"`
	Inode  uint64 `json:"inode,omitempty"`
	Dev    uint64 `json:"dev,omitempty"`
	Digest string `json:"digest,omitempty"` // 32 hexadecimal digits
	Marker int64  `json:"marker,omitempty"`
}

// WatchedError tells that another process sends the files of a directory.
type WatchedError struct{ Dir, Topic string }

func (e *WatchedError) Error() string {
	return fmt.Sprintf("%s is watched for topic %s by another process already: stop that one, or give this one a state directory of its own", e.Dir, e.Topic)
}

// openLedger opens the ledger of a directory (an absolute path) and a topic
// below the directory stateDir; without one it is in memory only.
func openLedger(stateDir, dir, topic string) (*watchLedger, error) {
	l := &watchLedger{entries: make(map[ledgerKey]ledgerEntry)}
	if stateDir == "" {
		return l, nil
	}
	l.path = ledgerPath(stateDir, dir, topic)
	l.header = ledgerLine{Version: ledgerVersion, Topic: topic, Dir: dir}
	var err error
	if l.lock, err = os.OpenFile(l.path+".lock", os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, fmt.Errorf("the ledger of %s: %w", dir, err)
	}
	ok, err := lockFile(l.lock)
	if err == nil && !ok {
		err = &WatchedError{dir, topic}
	}
	if err == nil {
		l.file, err = os.OpenFile(l.path, os.O_RDWR|os.O_CREATE, 0o600)
	}
	if err == nil {
		err = l.load()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the ledger of %s: %w", dir, err), l.close())
	}
	return l, nil
}

func ledgerPath(stateDir, dir, topic string) string {
	id := keyOf(topic + "\x00" + dir)
	return filepath.Join(stateDir, hex.EncodeToString(id[:8])+".ledger")
}

// load reads the file. A last line that is not whole, as a power cut leaves it,
// is cut off. A ledger that cannot be understood is not guessed at.
func (l *watchLedger) load() error {
	good, err := l.read(l.file)
	if err != nil {
		return err
	}
	if err := l.file.Truncate(good); err != nil {
		return err
	}
	if _, err := l.file.Seek(good, io.SeekStart); err != nil {
		return err
	}
	if good == 0 {
		return l.append(l.header)
	}
	return nil
}

// read reads lines and returns how many bytes are whole ones.
func (l *watchLedger) read(from io.Reader) (good int64, err error) {
	r := bufio.NewReaderSize(from, 64<<10)
	for {
		text, err := r.ReadBytes('\n')
		if err == io.EOF {
			break
		}
		if err != nil {
			return good, err
		}
		var line ledgerLine
		if err := json.Unmarshal(text, &line); err != nil {
			if bytes.ContainsRune(text, 0) { // room that was never written
				break
			}
			return good, fmt.Errorf("%s is damaged at byte %d: remove it to have all files sent again: %w", l.path, good, err)
		}
		good += int64(len(text))
		l.lines++
		if line.Version > 0 || good == int64(len(text)) {
			if line.Version != ledgerVersion {
				return good, fmt.Errorf("%s has version %d and this mft-produce knows %d: use the mft-produce that wrote it", l.path, line.Version, ledgerVersion)
			}
			l.root.inode, l.root.dev = line.Inode, line.Dev
			continue
		}
		if err := l.apply(line); err != nil {
			return good, fmt.Errorf("%s is damaged before byte %d: %w", l.path, good, err)
		}
	}
	return good, nil
}

func (l *watchLedger) apply(line ledgerLine) error {
	name, err := line.name()
	if err != nil {
		return err
	}
	if line.Gone {
		delete(l.entries, keyOf(name))
	} else {
		l.entries[keyOf(name)] = line.entry()
	}
	return nil
}

func (line ledgerLine) name() (string, error) {
	if !line.Hex {
		return line.Name, nil
	}
	raw, err := hex.DecodeString(line.Name)
	return string(raw), err
}

func (line ledgerLine) entry() ledgerEntry {
	e := ledgerEntry{stamp: stamp{line.Size, line.MTime, line.CTime, line.Inode, line.Dev}, marker: line.Marker}
	if raw, err := hex.DecodeString(line.Digest); err == nil {
		copy(e.digest[:], raw)
	}
	return e
}

func lineOf(name string, e ledgerEntry) ledgerLine {
	line := ledgerLine{Size: e.size, MTime: e.mtime, CTime: e.ctime, Inode: e.inode, Dev: e.dev, Marker: e.marker, Digest: hex.EncodeToString(e.digest[:])}
	line.setName(name)
	return line
}

func (line *ledgerLine) setName(name string) {
	if line.Name = name; !utf8.ValidString(name) {
		line.Name, line.Hex = hex.EncodeToString([]byte(name)), true
	}
}

// append writes lines. They are durable after sync.
func (l *watchLedger) append(lines ...ledgerLine) error {
	if l.file == nil {
		return nil
	}
	var text bytes.Buffer
	for _, line := range lines {
		b, err := json.Marshal(line)
		if err != nil {
			return err
		}
		text.Write(b)
		text.WriteByte('\n')
	}
	at, err := l.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if _, err := l.file.Write(text.Bytes()); err != nil { // half of it would hide what is written next
		_, seekErr := l.file.Seek(at, io.SeekStart)
		return errors.Join(fmt.Errorf("writing the ledger: %w", err), l.file.Truncate(at), seekErr)
	}
	l.lines += len(lines)
	l.dirty = true
	return nil
}

// sync makes durable what was written.
func (l *watchLedger) sync() error {
	if l.file == nil || !l.dirty {
		return nil
	}
	if err := l.file.Sync(); err != nil {
		return fmt.Errorf("writing the ledger: %w", err)
	}
	l.dirty = false
	return nil
}

func (l *watchLedger) close() error {
	var err error
	if l.file != nil {
		err = errors.Join(l.sync(), l.file.Close())
	}
	if l.lock != nil {
		err = errors.Join(err, l.lock.Close())
	}
	return err
}

// look returns what was sent under a name, and notes that the file is there.
func (l *watchLedger) look(name string) (ledgerEntry, bool) {
	key := keyOf(name)
	e, ok := l.entries[key]
	if ok && e.round != l.round {
		e.round = l.round
		l.entries[key] = e
	}
	return e, ok
}

// sent notes what was sent under a name.
func (l *watchLedger) sent(name string, e ledgerEntry) error {
	e.round = l.round
	l.entries[keyOf(name)] = e
	return l.append(lineOf(name, e))
}

// forget drops a name, whose file was taken away.
func (l *watchLedger) forget(name string) error {
	key := keyOf(name)
	if _, ok := l.entries[key]; !ok {
		return nil
	}
	delete(l.entries, key)
	line := ledgerLine{Gone: true}
	line.setName(name)
	return l.append(line)
}

// begin begins a round of looking at everything; root is the directory's stamp.
func (l *watchLedger) begin(root stamp, now time.Time) error {
	l.round++
	if root.inode == l.root.inode && root.dev == l.root.dev {
		return nil
	}
	if l.root.inode != 0 {
		l.grace = now.Add(ledgerGrace)
	}
	l.root = root
	line := l.header
	line.Inode, line.Dev = root.inode, root.dev
	return l.append(line)
}

// end ends a round that saw everything: entries of files that are gone go,
// when there are many of them, and so do lines that say nothing any more.
func (l *watchLedger) end(now time.Time) error {
	if len(l.entries) > ledgerGone && now.After(l.grace) {
		gone := 0
		for _, e := range l.entries {
			if e.round != l.round {
				gone++
			}
		}
		for key, e := range l.entries {
			if gone <= ledgerGone {
				break
			}
			if e.round != l.round {
				delete(l.entries, key)
				gone--
			}
		}
	}
	if l.lines > 2*len(l.entries)+ledgerSlack {
		return l.compact()
	}
	return l.sync()
}

// compact writes the file anew with the lines that count, and puts it in place
// of the old one.
func (l *watchLedger) compact() (err error) {
	if l.file == nil {
		return nil
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("rewriting the ledger %s: %w", l.path, err)
		}
	}()
	if err := l.sync(); err != nil {
		return err
	}
	lines, err := l.writeCompacted(l.path + ".new")
	if err != nil {
		_, seekErr := l.file.Seek(0, io.SeekEnd)
		return errors.Join(err, seekErr)
	}
	// Closed first: elsewhere than on Unix the name of an open file cannot be taken.
	err = errors.Join(l.file.Close(), os.Rename(l.path+".new", l.path), syncDirectory(filepath.Dir(l.path)))
	file, openErr := os.OpenFile(l.path, os.O_RDWR, 0o600)
	if openErr != nil {
		return errors.Join(err, openErr)
	}
	l.file = file
	if _, seekErr := file.Seek(0, io.SeekEnd); err != nil || seekErr != nil {
		return errors.Join(err, seekErr)
	}
	l.lines = lines
	return nil
}

func (l *watchLedger) writeCompacted(path string) (lines int, err error) {
	if _, err := l.file.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	fresh, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err = errors.Join(err, fresh.Close()); err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	r, w := bufio.NewReaderSize(l.file, 64<<10), bufio.NewWriterSize(fresh, 64<<10)
	header := l.header
	header.Inode, header.Dev = l.root.inode, l.root.dev
	text, err := json.Marshal(header)
	if err != nil {
		return 0, err
	}
	if _, err := w.Write(append(text, '\n')); err != nil {
		return 0, err
	}
	lines = 1
	written := make(map[ledgerKey]bool, len(l.entries))
	for {
		text, err := r.ReadBytes('\n')
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, err
		}
		var line ledgerLine
		if err := json.Unmarshal(text, &line); err != nil {
			return 0, err
		}
		if line.Version != 0 || line.Gone {
			continue
		}
		name, err := line.name()
		if err != nil {
			return 0, err
		}
		key := keyOf(name)
		e, ok := l.entries[key]
		e.round = 0
		if !ok || written[key] || e != line.entry() {
			continue
		}
		written[key] = true
		if _, err := w.Write(text); err != nil {
			return 0, err
		}
		lines++
	}
	return lines, errors.Join(w.Flush(), fresh.Sync())
}
