package consumer

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mft/protocol"
)

// mirror is a live transfer: a file of the target that grows, under its name,
// as its source does. It belongs to the goroutine of its partition.
//
// Invariant: [0, have) of the file is what the sender sent. What the file has
// beyond was written by a former run, which was killed before it could note
// that: it is compared with what comes, and cut off where it differs.
type mirror struct {
	id        protocol.TransferID
	part      *partition
	name      string
	mode      fs.FileMode
	mtime     time.Time
	algorithm string // of the digest
	opener    *protocol.Opener
	last      int64 // of an encrypted file: where the chunk that says it is the last one ends; -1: it has not come

	entry   mirrorEntry // as it is durable
	file    *os.File    // nil: closed for a while
	have    int64       // bytes
	length  int64       // of the file, bytes; valid while file is open
	applied int64       // offset after the last record in have
	digest  hash.Hash   // over [0, hashed); nil: the file is read once more at its end
	hashed  int64
	broken  bool        // it cannot go on: bytes are missing after have, or its file is gone
	checked bool        // nothing is in the file beyond have
	resumed time.Time   // since when it may be
	was     fs.FileInfo // of the file, when it was closed for a while
	lost    atomic.Bool // another mirror writes the file of this name

	firstDirty int64 // offset of the first record since the last sync that changed something; noneHeld: none
	dirtyEpoch int32
}

func (m *mirror) errorf(format string, args ...any) error {
	return &TransferError{Name: m.name, ID: string(m.id), Reason: fmt.Sprintf(format, args...)}
}

// newMirror checks what a begin record says. The error says why it is not to
// be received.
func newMirror(part *partition, id protocol.TransferID, man *protocol.Manifest, opener *protocol.Opener, begin *kgo.Record) (*mirror, error) {
	m := &mirror{
		id: id, part: part, name: man.Name, mode: fs.FileMode(man.Mode) & fs.ModePerm, mtime: man.ModTime,
		algorithm: man.Digest, opener: opener, last: -1, firstDirty: noneHeld,
	}
	t, err := newTransfer(part, id, man, opener, begin) // the same rules as for any other file
	m.name = t.name
	return m, err
}

func (m *mirror) target() *target     { return m.part.target }
func (m *mirror) store() *mirrorStore { return m.part.target.work.mirrors }

// create gives the mirror its file. The entry is durable before anything of
// the target changes, so that a run that is killed in between is gone on with.
func (m *mirror) create(e mirrorEntry, previous string) error {
	if previous == protocol.PreviousCut {
		info, err := m.target().root.Lstat(m.name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil && info.Mode().IsRegular() {
			if err := m.store().put(e); err != nil {
				return err
			}
			m.entry = e
			if err := m.open(); err != nil {
				return err
			}
			return m.cut()
		}
	}
	e.Temp = string(m.id)
	if err := m.store().temp(e.Temp, m.mode); err != nil {
		return err
	}
	if err := m.store().put(e); err != nil {
		return err
	}
	m.entry = e
	return m.settleName()
}

// settleName gives the file its name, unless it has it: while the temporary
// file is there, it has not.
func (m *mirror) settleName() error {
	root := m.target().root
	temp := workDir + "/" + mirrorDir + "/" + m.entry.Temp
	if m.entry.Temp == "" {
		return nil
	}
	made, err := root.Lstat(temp)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if now, err := root.Lstat(m.name); err == nil && os.SameFile(now, made) { // it has both names, after a power loss
		return root.Remove(temp)
	}
	parent := path.Dir(m.name)
	if err := root.MkdirAll(parent, 0o777); err != nil {
		return err
	}
	if m.entry.Kept != "" {
		// A file of that name is what was kept when the same was received before;
		// what has the name now is then no more than a part of this one.
		info, err := root.Lstat(m.name)
		_, before := root.Lstat(m.entry.Kept)
		if err == nil && info.Mode().IsRegular() && errors.Is(before, fs.ErrNotExist) {
			if err = root.Rename(m.name, m.entry.Kept); err == nil {
				err = syncDir(root, parent) // before the name is another file's
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	err = root.Rename(temp, m.name)
	if errors.Is(err, fs.ErrExist) || err != nil && m.target().isDir(m.name) {
		return errDirectoryThere
	}
	if err != nil {
		return err
	}
	for dir := parent; ; dir = path.Dir(dir) {
		if err := syncDir(root, dir); err != nil {
			return &syncError{fmt.Errorf("making the name %q durable: %w", m.name, err)}
		}
		if dir == "." {
			return nil
		}
	}
}

// keptName is what a file that is kept is called: with the time at which its
// successor began, which is the same however often that is received.
func keptName(name string, at time.Time) string {
	return name + "." + at.UTC().Format("20060102T150405.000Z")
}

// intact tells whether the file of an entry holds at least what the entry says.
func (e *mirrorEntry) intact(t *target) bool {
	if e.Temp != "" && e.Have == 0 {
		if _, err := t.work.root.Lstat(mirrorDir + "/" + e.Temp); err == nil {
			return true
		}
	}
	info, err := t.root.Lstat(e.Name)
	return err == nil && info.Mode().IsRegular() && info.Size() >= e.Have
}

// open opens the file for a while.
func (m *mirror) open() error {
	if m.file != nil {
		return nil
	}
	file, err := m.target().root.OpenFile(m.name, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrPermission) { // its mode is that of the source, which may be read-only
		if chmodErr := m.target().root.Chmod(m.name, m.mode|0o600); chmodErr == nil {
			file, err = m.target().root.OpenFile(m.name, os.O_RDWR, 0)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return m.errorf("its file was removed here: start the receiver again to mirror it from its beginning")
	}
	if err != nil {
		return fmt.Errorf("opening %q: %w", m.name, err)
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	if m.was != nil && !os.SameFile(m.was, info) {
		return errors.Join(m.errorf("its file was replaced here: start the receiver again to mirror it from its beginning"), file.Close())
	}
	if info.Size() < m.have {
		return errors.Join(m.errorf("its file was cut here to %d bytes, %d had arrived: start the receiver again to mirror it from its beginning", info.Size(), m.have), file.Close())
	}
	m.file, m.length = file, info.Size()
	m.part.openFiles.Add(1)
	return nil
}

// park closes the file until the next record.
func (m *mirror) park() error {
	if m.file == nil {
		return nil
	}
	file := m.file
	m.file = nil
	m.part.openFiles.Add(-1)
	was, err := file.Stat()
	if err == nil {
		m.was = was
	}
	return errors.Join(err, file.Close())
}

// cut cuts off what the file has beyond have.
func (m *mirror) cut() error {
	if m.length <= m.have {
		return nil
	}
	if err := m.file.Truncate(m.have); err != nil {
		return fmt.Errorf("cutting %q: %w", m.name, err)
	}
	m.length = m.have
	if m.hashed > m.have {
		m.digest = nil
	}
	return nil
}

// goOn takes a repeated begin: the sender was started again, and goes on at from.
func (m *mirror) goOn(from int64) error {
	if from > m.have {
		if m.broken {
			return nil
		}
		m.broken = true
		return m.errorf("its sender goes on at byte %d, %d arrived here: what is between is not in the topic any more", from, m.have)
	}
	m.have, m.broken = from, false
	m.checked, m.resumed = false, time.Now()
	return nil
}

// write takes the bytes at offset. It may be called again after an error.
func (m *mirror) write(offset int64, data []byte) (fresh int64, err error) {
	end := offset + int64(len(data))
	switch {
	case m.broken || end <= m.have:
		return 0, nil
	case offset > m.have:
		m.broken = true
		return 0, m.errorf("the bytes from %d to %d have not arrived, and are not in the topic any more; the file stays as it is until its sender begins it anew", m.have, offset)
	}
	data = data[m.have-offset:]
	if err := m.open(); err != nil {
		return 0, err
	}
	rest := data
	if n := min(m.length-m.have, int64(len(data))); n > 0 {
		there := make([]byte, n)
		if _, err := m.file.ReadAt(there, m.have); err != nil {
			return 0, fmt.Errorf("reading %q: %w", m.name, err)
		}
		if bytes.Equal(there, data[:n]) {
			rest = data[n:]
		} else if err := m.cut(); err != nil {
			return 0, err
		}
	}
	if len(rest) > 0 {
		if _, err := m.file.WriteAt(rest, end-int64(len(rest))); err != nil {
			if info, statErr := m.file.Stat(); statErr == nil {
				m.length = info.Size() // a part of it may be there
			}
			if isTooLarge(err) {
				return 0, m.errorf("the file system holds no file of %d bytes", end)
			}
			return 0, fmt.Errorf("writing %q: %w", m.name, err)
		}
		m.length = max(m.length, end)
	}
	if m.digest != nil && m.hashed < end {
		m.digest.Write(data[int64(len(data))-(end-max(m.hashed, m.have)):])
		m.hashed = end
	}
	m.have = end
	return int64(len(data)), nil
}

// syncMirror makes what was written durable, but not that it is noted. It may
// run beside the goroutine of the partition.
func syncMirror(file *os.File, name string) error {
	if err := file.Sync(); err != nil {
		return &syncError{fmt.Errorf("making %q durable: %w", name, err)}
	}
	return nil
}

// sameFile tells whether the name still is that of the open file.
func (m *mirror) sameFile() bool {
	mine, err := m.file.Stat()
	if err != nil {
		return false
	}
	now, err := m.target().root.Lstat(m.name)
	return err == nil && os.SameFile(mine, now)
}

// complete checks the whole file against its end and gives it its mtime. stop
// ends it with errDropped.
func (m *mirror) complete(end *protocol.End, stop <-chan struct{}) error {
	if err := m.open(); err != nil {
		return err
	}
	switch {
	case end.Size != m.have:
		return m.errorf("its end says it has %d bytes, %d arrived", end.Size, m.have)
	case m.opener != nil && m.last != m.have:
		return m.errorf("it has %d bytes, and its last chunk ends at %d", m.have, m.last)
	}
	if err := m.cut(); err != nil {
		return err
	}
	if m.algorithm != "" || end.Digest != "" {
		sum, err := m.sum(stop)
		if err != nil {
			return err
		}
		if sum != end.Digest {
			return m.errorf("its content does not match its digest: %s %s was announced, %s is here; the file is kept",
				cmp.Or(m.algorithm, protocol.DigestXXH3), cmp.Or(end.Digest, "(none)"), sum)
		}
	}
	if mtime := end.ModTime; !mtime.IsZero() {
		if err := m.target().root.Chtimes(m.name, time.Time{}, mtime); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("mtime of %q: %w", m.name, err)
		}
	}
	if err := m.file.Chmod(m.mode); err != nil {
		return fmt.Errorf("mode of %q: %w", m.name, err)
	}
	return syncMirror(m.file, m.name)
}

// sum is the digest of the file, which is read once more when it was not
// computed as it came.
func (m *mirror) sum(stop <-chan struct{}) (string, error) {
	if m.digest == nil || m.hashed != m.have {
		digest, err := protocol.NewDigest(m.algorithm)
		if err != nil {
			return "", m.errorf("%v", err)
		}
		for at := int64(0); at < m.have; {
			select {
			case <-stop:
				return "", errDropped
			default:
			}
			n, err := io.Copy(digest, io.NewSectionReader(m.file, at, min(m.have-at, 8<<20)))
			if err != nil {
				return "", fmt.Errorf("reading %q back to check it: %w", m.name, err)
			}
			if n == 0 {
				return "", m.errorf("its file was cut here to %d bytes, %d had arrived", at, m.have)
			}
			at += n
		}
		m.digest, m.hashed = digest, m.have
	}
	return hex.EncodeToString(m.digest.Sum(nil)), nil
}
