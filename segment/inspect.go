package segment

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/gofrs/flock"

	"mft/protocol"
)

// Severity says what a Finding means for the data.
type Severity string

const (
	// Damage is stored bytes that are not what was written. The broker answers reads of it with an error, or does not start.
	Damage Severity = "damage"
	// DamagedIndex is an index that does not fit its segment. No record is lost; the broker rebuilds it when it needs it.
	DamagedIndex Severity = "index"
	// Torn is the end of something that was being written when the broker stopped. It was never acknowledged, or the journal holds
	// it too; the broker puts it in order at its next start.
	Torn Severity = "torn"
	// Note is nothing wrong, but worth knowing.
	Note Severity = "note"
)

// Finding is one thing that an Inspector found.
type Finding struct {
	Severity Severity
	Dir      string
	File     string // in Dir; empty when it is about the whole directory
	Byte     int64  // position in File where it begins
	Bytes    int64  // how many are affected, 0 when that cannot be said
	Offset   int64  // first record offset that is affected, -1 when it is not about records
	Next     int64  // first one behind that is not, 0 when that cannot be said
	Reason   string
}

func (f Finding) String() string {
	where := filepath.Join(f.Dir, f.File)
	if f.File != "" {
		where += fmt.Sprintf(" at byte %d", f.Byte)
	}
	if f.Offset >= 0 {
		where += fmt.Sprintf(", offset %d", f.Offset)
	}
	return fmt.Sprintf("%s: %s: %s", f.Severity, where, f.Reason)
}

// Inspector reads data directories and their parts without changing anything, tells what is in them, and checks it. Each of its functions is called in the
// order in which things lie on disk; one that is nil is not called; an error of one ends the inspection and is returned.
type Inspector struct {
	// Records also decodes the records of every batch, which finds what a right checksum over wrong records would hide.
	Records bool

	// File begins a file, of the given size in bytes.
	File func(path string, size int64) error
	// Batch is a whole batch with a right checksum, where it begins in its segment. It is valid during the call.
	Batch func(position int64, b protocol.Batch) error
	// OffsetEntry and TimeEntry are entry i of an index, with absolute offsets.
	OffsetEntry func(i int, offset, position int64) error
	TimeEntry   func(i int, timestamp, offset int64) error
	// Snapshot is the content of meta.snapshot.
	Snapshot func(Snapshot) error
	// JournalRecord is a record of a group of the journal.
	JournalRecord func(JournalRecord) error
	// Finding is something that is wrong or noteworthy, told where it is met.
	Finding func(Finding) error
}

// Snapshot is what meta.snapshot says.
type Snapshot struct {
	Version    uint32
	Generation uint64 // of the journal, the first to be replayed
	Epoch      int32  // leader epoch
	State      []byte // the owner's state, as Options.Snapshot returned it
	Logs       []SnapshotLog
}

// SnapshotLog is what meta.snapshot says of one log: everything before EndOffset is durable, the last of it in Segment up to Position.
type SnapshotLog struct {
	LogID
	StartOffset, EndOffset int64
	Segment                int64 // base offset of the active segment
	Position               int64 // bytes of it
	Epochs, Producers      int   // how many are remembered
}

// JournalRecord is one record of the journal.
type JournalRecord struct {
	Position int64  // of its group in the file
	Group    uint64 // the group's number in its generation, from 1
	Kind     byte
	Name     string // of the kind; empty when this program does not know it
	Payload  []byte // valid during the call
}

// Inspect reads what path names: a data directory, its journal or a generation of it, the directory of a partition, or a file of any of these.
// The parts of a data directory are judged in its light: what was durable at the last checkpoint, and what need not be whole.
//
// Errors: *FormatError, those of the functions, and what the operating system says. Damage is no error but a Finding.
func (in *Inspector) Inspect(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	s := &inspection{Inspector: in}
	if err := s.findStore(path); err != nil {
		return err
	}
	if path == s.store {
		return s.inspectStore()
	}
	if !info.IsDir() {
		return s.inspectFile(path)
	}
	if _, ok := parseGeneration(filepath.Base(path)); ok && filepath.Base(filepath.Dir(path)) == journalName {
		return s.inspectGeneration(filepath.Dir(path), filepath.Base(path), true)
	}
	if filepath.Base(path) == journalName {
		return s.inspectJournal(path)
	}
	segments, err := inspectedSegments(path)
	if err != nil {
		return err
	}
	if len(segments) == 0 {
		if _, err := os.Stat(filepath.Join(path, metadataName)); err != nil {
			return fmt.Errorf("%s is neither a data directory nor one of a partition or a journal", path)
		}
	}
	return s.inspectLog(path)
}

// inspection is one run of an Inspector.
type inspection struct {
	*Inspector
	store string // the data directory; empty when there is none
	snap  *snapshot
	live  bool // a broker has it open
}

// findStore looks for the data directory that path is, or is in, and reads its snapshot.
func (s *inspection) findStore(path string) error {
	for dir, depth := path, 0; depth < 4; dir, depth = filepath.Dir(dir), depth+1 {
		if isStore(dir) {
			s.store = dir
			break
		}
	}
	if s.store == "" {
		return nil
	}
	var err error
	if s.live, err = inUse(s.store); err != nil {
		return err
	}
	if s.live {
		if err := s.tell(Finding{Severity: Note, Dir: s.store, File: "LOCK", Offset: -1,
			Reason: "a broker has the directory open: what it is writing at this moment can look unfinished"}); err != nil {
			return err
		}
	}
	s.snap, err = readSnapshot(s.store)
	if isCorrupt(err) {
		return nil // told when the file is inspected
	}
	return err
}

func isStore(dir string) bool {
	for _, name := range []string{topicsName, journalName} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

func isCorrupt(err error) bool {
	var c *CorruptionError
	return errors.As(err, &c)
}

// inUse reports whether a process has the data directory open. It does not hold on to the lock.
func inUse(dir string) (bool, error) {
	path := filepath.Join(dir, "LOCK")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	lock := flock.New(path, flock.SetFlag(os.O_RDONLY))
	ok, err := lock.TryRLock()
	if err != nil {
		return false, fmt.Errorf("look at the lock of the data directory: %w", err)
	}
	return !ok, lock.Unlock()
}

// tell hands a finding on.
func (s *inspection) tell(f Finding) error {
	if s.Finding == nil {
		return nil
	}
	return s.Finding(f)
}

// told hands damage on as a finding; other errors pass.
func (s *inspection) told(err error) error {
	var c *CorruptionError
	if !errors.As(err, &c) {
		return err
	}
	return s.tell(Finding{Severity: Damage, Dir: c.Dir, File: c.File, Byte: c.Offset, Offset: -1, Reason: c.Reason})
}

func (s *inspection) begin(path string, size int64) error {
	if s.File == nil {
		return nil
	}
	return s.File(path, size)
}

// inspectStore goes through a whole data directory: snapshot, journal, partitions.
func (s *inspection) inspectStore() error {
	if err := s.inspectSnapshot(filepath.Join(s.store, snapshotName)); err != nil {
		return err
	}
	if err := s.inspectJournal(filepath.Join(s.store, journalName)); err != nil {
		return err
	}
	topics := filepath.Join(s.store, topicsName)
	entries, err := os.ReadDir(topics)
	if err != nil {
		return err
	}
	found := map[string]bool{}
	for _, e := range entries {
		dir := filepath.Join(topics, e.Name())
		switch {
		case !e.IsDir():
			err = s.tell(Finding{Severity: Note, Dir: topics, File: e.Name(), Offset: -1, Reason: "not one of ours"})
		case strings.HasSuffix(e.Name(), deletedSuffix):
			err = s.tell(Finding{Severity: Note, Dir: dir, Offset: -1, Reason: "deleted; the broker goes on removing it"})
		default:
			found[e.Name()] = true
			if err = s.inspectLog(dir); s.live && errors.Is(err, os.ErrNotExist) {
				err = nil // the topic was deleted meanwhile
			}
		}
		if err != nil {
			return err
		}
	}
	if s.snap == nil {
		return nil
	}
	for _, p := range s.snap.logs {
		if !found[p.id.dirName()] && p.offset > 0 && !s.live {
			if err := s.tell(Finding{Severity: Damage, Dir: filepath.Join(topics, p.id.dirName()), Offset: p.start,
				Reason: fmt.Sprintf("the directory is missing although it had records up to offset %d", p.offset-1)}); err != nil {
				return err
			}
		}
	}
	return nil
}

// inspectFile goes through one file.
func (s *inspection) inspectFile(path string) error {
	dir, name := filepath.Split(path)
	dir = filepath.Clean(dir)
	switch {
	case name == snapshotName || strings.HasSuffix(name, ".snapshot"):
		return s.inspectSnapshot(path)
	case name == metadataName:
		return s.inspectMetadata(dir)
	case filepath.Base(filepath.Dir(dir)) == journalName:
		return s.inspectGeneration(filepath.Dir(dir), filepath.Base(dir), true)
	}
	base, ok := parseFileName(name)
	if !ok {
		return fmt.Errorf("%s: not a file of a data directory (*.log, *.index, *.timeindex, %s, %s, a file of the journal)", path, snapshotName, metadataName)
	}
	segments, err := inspectedSegments(dir)
	if err != nil {
		return err
	}
	for i, seg := range segments {
		if seg.base == base {
			return s.inspectSegment(dir, segments, i, filepath.Ext(name))
		}
	}
	return fmt.Errorf("%s: its segment %s is missing, without which it says nothing", path, logName(base))
}

// inspectSnapshot goes through meta.snapshot.
func (s *inspection) inspectSnapshot(path string) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return s.tell(Finding{Severity: Damage, Dir: filepath.Dir(path), File: filepath.Base(path), Offset: -1,
			Reason: "the file is missing: it cannot be made anew, restore it from a copy"})
	} else if err != nil {
		return err
	}
	if err := s.begin(path, int64(len(data))); err != nil {
		return err
	}
	snap, err := decodeSnapshot(path, data)
	if err != nil {
		return s.told(err)
	}
	if s.Snapshot == nil {
		return nil
	}
	out := Snapshot{Version: snapshotVersion, Generation: snap.generation, Epoch: snap.epoch, State: snap.state}
	for _, p := range snap.logs {
		out.Logs = append(out.Logs, SnapshotLog{
			LogID: p.id, StartOffset: p.start, EndOffset: p.offset, Segment: p.base, Position: p.position,
			Epochs: len(p.epochs), Producers: len(p.producers),
		})
	}
	return s.Inspector.Snapshot(out)
}

// inspectMetadata goes through a partition.metadata.
func (s *inspection) inspectMetadata(dir string) error {
	path := filepath.Join(dir, metadataName)
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		if s.store == "" {
			return nil // loose segment files
		}
		return s.tell(Finding{Severity: Damage, Dir: dir, File: metadataName, Offset: -1, Reason: "the file is missing, which says to which topic the directory belongs"})
	} else if err != nil {
		return err
	}
	if err := s.begin(path, info.Size()); err != nil {
		return err
	}
	id, err := readMetadata(dir)
	if err != nil {
		return s.told(err)
	}
	if p := s.point(dir); p != nil && p.id.TopicID != id {
		return s.tell(Finding{Severity: Note, Dir: dir, File: metadataName, Offset: -1, Reason: "the last checkpoint knows another topic of that name"})
	}
	return nil
}

// point returns what the snapshot says of the log in dir, or nil.
func (s *inspection) point(dir string) *logPoint {
	if s.snap == nil || filepath.Dir(dir) != filepath.Join(s.store, topicsName) {
		return nil
	}
	for i := range s.snap.logs {
		if p := &s.snap.logs[i]; p.id.dirName() == filepath.Base(dir) {
			return p
		}
	}
	return nil
}
