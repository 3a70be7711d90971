package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/gofrs/flock"

	"mft/protocol"
)

// Repair is what can be done about the damage in a data directory. It holds the directory's LOCK until Close.
type Repair struct {
	// Cuts are what Apply would do, in order.
	Cuts []Cut
	// Left are findings that Apply does nothing about.
	Left []Finding

	lock  *flock.Flock
	steps []func() error // one for each of Cuts
}

// Cut is one change to a file: Bytes from Byte on are taken out and kept in a file beside it, Saved; an index is only built anew.
type Cut struct {
	Finding
	Saved string // path of that file; empty when there is nothing to be kept
	Does  string // for people
}

// PlanRepair looks at a data directory that no broker has open and finds out what would make it whole again, as far as that is possible.
// It changes nothing.
//
//   - Batches that are damaged are taken out of their segment. An empty batch takes the place of their offsets; all that is around them stays.
//   - Indexes that do not fit are built anew.
//   - Groups of the journal that are damaged, with later ones behind them, are taken out.
//
// A torn end is left alone: the broker knows better what to do about it. A snapshot cannot be repaired.
//
// Errors: *InUseError, *FormatError, and what the operating system says.
func PlanRepair(dir string) (r *Repair, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if !isStore(dir) {
		return nil, fmt.Errorf("%s is not a data directory: repair works on a whole one", dir)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	r = &Repair{lock: lock}
	if err := r.plan(dir); err != nil {
		return nil, errors.Join(err, lock.Unlock())
	}
	return r, nil
}

// Close gives the data directory free.
func (r *Repair) Close() error { return r.lock.Unlock() }

// Apply makes the cuts. It ends at the first that fails; those before it are done.
func (r *Repair) Apply() error {
	for i, step := range r.steps {
		if err := step(); err != nil {
			return fmt.Errorf("repair %s: %w", filepath.Join(r.Cuts[i].Dir, r.Cuts[i].File), err)
		}
	}
	return nil
}

func (r *Repair) add(c Cut, step func() error) {
	r.Cuts = append(r.Cuts, c)
	r.steps = append(r.steps, step)
}

// plan sorts the findings into those that something can be done about and the others.
func (r *Repair) plan(dir string) error {
	s := &inspection{store: dir}
	var err error
	if s.snap, err = readSnapshot(dir); err != nil && !isCorrupt(err) {
		return err
	}
	damaged := map[string][]Finding{} // by path
	var order []string
	clean := true // the last checkpoint covers everything: the journal would not put records back where they were
	s.Inspector = &Inspector{
		JournalRecord: func(j JournalRecord) error {
			clean = clean && (recordKind(j.Kind) == recordMetadata || recordKind(j.Kind) == recordEpoch)
			return nil
		},
		Finding: func(f Finding) error {
			path := filepath.Join(f.Dir, f.File)
			switch {
			case f.Severity == Note || f.Severity == Torn:
			case f.File == snapshotName || f.File == metadataName || f.Bytes == 0 && f.Severity == Damage && !isShort(path, f):
				r.Left = append(r.Left, f)
			default:
				if damaged[path] == nil {
					order = append(order, path)
				}
				damaged[path] = append(damaged[path], f)
			}
			return nil
		},
	}
	if err := s.inspectStore(); err != nil {
		return err
	}
	for _, path := range order {
		found := damaged[path]
		switch {
		case s.snap == nil:
			r.Left = append(r.Left, found...)
		case found[0].Severity == DamagedIndex:
			r.planIndex(path, found[0])
		case filepath.Ext(path) == ".log":
			if err := r.planSegment(s, path, found, clean); err != nil {
				return err
			}
		default:
			r.planGeneration(path, found)
		}
	}
	return nil
}

// isShort says that a finding is about a segment that ends too early.
func isShort(path string, f Finding) bool {
	info, err := os.Stat(path)
	return err == nil && filepath.Ext(path) == ".log" && info.Size() == f.Byte
}

func (r *Repair) planIndex(path string, f Finding) {
	f.Bytes = 0
	r.add(Cut{Finding: f, Does: "build it anew from its segment"}, func() error { return rebuildIndexFiles(path) })
}

// rebuildIndexFiles makes both indexes of the segment that one of the files belongs to.
func rebuildIndexFiles(path string) (err error) {
	base, _ := parseFileName(filepath.Base(path))
	dir := filepath.Dir(path)
	log := filepath.Join(dir, logName(base))
	f, err := os.Open(log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	x, err := rebuildIndexes(f, base, info.Size(), DefaultIndexIntervalBytes)
	if err != nil {
		return err
	}
	x.addTime()
	stem := log[:len(log)-len(".log")]
	return errors.Join(writeIndex(stem+".index", x.offsets.tail), writeIndex(stem+".timeindex", x.times.tail))
}

// planSegment takes damaged batches out of a segment. Positions in the segment that was active at the last checkpoint are written down in
// snapshot and journal: it must be closed first, by beginning the next, which is only possible when nothing was written since.
func (r *Repair) planSegment(s *inspection, path string, found []Finding, clean bool) error {
	dir := filepath.Dir(path)
	base, _ := parseFileName(filepath.Base(path))
	p := s.livePoint(dir)
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	unknown := slices.ContainsFunc(found, func(f Finding) bool {
		return f.Next < f.Offset || f.Next == 0 && f.Byte+f.Bytes == info.Size()
	})
	if p == nil || unknown || base > p.base || base == p.base && (!clean || info.Size() > p.position) {
		for _, f := range found {
			f.Reason += "; it cannot be cut before the broker has put its last writes in order: start it, stop it with SIGTERM, then repair"
			r.Left = append(r.Left, f)
		}
		return nil
	}
	for _, f := range found {
		c := Cut{Finding: f, Saved: savedName(path, f), Does: fmt.Sprintf("cut %d bytes out: the records with offsets %d to %d are lost, an empty batch takes their place", f.Bytes, f.Offset, f.Next-1)}
		if f.Next == f.Offset {
			c.Does = fmt.Sprintf("cut %d bytes out, in the place of no record", f.Bytes)
		}
		if f.Bytes == 0 {
			c.Saved, c.Does = "", fmt.Sprintf("go on without what is missing: the records with offsets %d to %d are lost, an empty batch takes their place", f.Offset, f.Next-1)
		}
		r.add(c, func() error { return nil })
	}
	r.steps[len(r.steps)-1] = func() error {
		if base == p.base {
			if err := beginSegment(s, dir, p); err != nil {
				return err
			}
		}
		if err := cutOut(path, found); err != nil {
			return err
		}
		return errors.Join(rebuildIndexFiles(path), syncDir(dir))
	}
	return nil
}

func savedName(path string, f Finding) string { return fmt.Sprintf("%s.cut-at-%d", path, f.Byte) }

// beginSegment makes an empty segment at the log's end the active one.
func beginSegment(s *inspection, dir string, p *logPoint) error {
	f, err := os.OpenFile(filepath.Join(dir, logName(p.offset)), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close(), syncDir(dir)); err != nil {
		return err
	}
	p.base, p.position = p.offset, 0
	p.offsets, p.times, p.unmarked, p.max, p.lastTime = 0, 0, 0, timeEntry{timestamp: -1}, -1
	return s.snap.write(s.store)
}

// cutOut replaces a file by one without the given parts, which are kept in files of their own. Either file is whole at any moment.
func cutOut(path string, parts []Finding) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	var rest []io.Reader
	at := int64(0)
	for _, part := range parts {
		if part.Bytes > 0 {
			if err := writeWhole(savedName(path, part), io.NewSectionReader(f, part.Byte, part.Bytes)); err != nil {
				return err
			}
		}
		rest = append(rest, io.NewSectionReader(f, at, part.Byte-at))
		at = part.Byte + part.Bytes
		if part.Next == part.Offset { // no offset is without a batch
			continue
		}
		empty, err := emptyBatch(part.Offset, part.Next)
		if err != nil {
			return err
		}
		rest = append(rest, bytes.NewReader(empty))
	}
	rest = append(rest, io.NewSectionReader(f, at, info.Size()-at))
	return writeFrom(path, filepath.Dir(path), io.MultiReader(rest...))
}

// emptyBatch is a batch without records that stands for offsets that have none any more, such as Kafka's compaction leaves.
func emptyBatch(from, next int64) (protocol.Batch, error) {
	if next <= from || next-from > math.MaxInt32 {
		return nil, fmt.Errorf("%d to %d are not the offsets of a batch", from, next-1)
	}
	b, err := protocol.EncodeBatch(protocol.BatchOptions{BaseOffset: from}, []protocol.Record{{}})
	if err != nil {
		return nil, err
	}
	b = b[:protocol.BatchHeaderLen]
	be := binary.BigEndian
	be.PutUint32(b[8:], protocol.BatchHeaderLen-12)
	be.PutUint32(b[12:], 0) // leader epoch
	be.PutUint32(b[23:], uint32(next-from-1))
	be.PutUint64(b[27:], math.MaxUint64) // no timestamps
	be.PutUint64(b[35:], math.MaxUint64)
	be.PutUint32(b[57:], 0) // records
	be.PutUint32(b[17:], crc32.Checksum(b[21:], castagnoli))
	return b, nil
}

// writeFrom replaces a file by one with the given content, written in a directory of the same file system first, and makes it durable.
func writeFrom(path, temporaryDir string, content io.Reader) error {
	temporary := filepath.Join(temporaryDir, temporaryPrefix+filepath.Base(path))
	f, err := os.Create(temporary)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return syncDir(filepath.Dir(path))
}

func writeWhole(path string, content io.Reader) error {
	return writeFrom(path, filepath.Dir(path), content)
}

// planGeneration takes damaged groups out of a generation of the journal and numbers the others anew.
func (r *Repair) planGeneration(path string, found []Finding) {
	journal := filepath.Dir(filepath.Dir(path)) // the wal's own directory is not for other files
	name := filepath.Base(filepath.Dir(path))
	for i, f := range found {
		saved := savedName(filepath.Join(journal, name), f)
		c := Cut{Finding: f, Saved: saved, Does: fmt.Sprintf("cut %d bytes out; committed offsets and changes of topics in them are lost, and a topic that was "+
			"created in them is taken for deleted by the broker, which removes its directory: copy the data directory first", f.Bytes)}
		r.add(c, func() error {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if err := writeWhole(saved, bytes.NewReader(data[f.Byte:f.Byte+f.Bytes])); err != nil || i < len(found)-1 {
				return err
			}
			generation, _ := parseGeneration(name)
			if data, err = withoutDamage(data, generation); err != nil {
				return err
			}
			return writeFrom(path, journal, bytes.NewReader(data))
		})
	}
}

// withoutDamage returns the whole groups of a generation, numbered without gaps.
func withoutDamage(data []byte, generation uint64) (out []byte, err error) {
	n := uint64(0)
	err = walkGeneration(data, generation, func(_ int64, _ uint64, body []byte) error {
		var records []record
		if err := eachRecord(body, func(r record) error {
			records = append(records, r)
			return nil
		}); err != nil {
			return err
		}
		n++
		group := appendGroup(nil, generation, n, records)
		out = append(binary.AppendUvarint(out, uint64(len(group))), group...)
		return nil
	}, func(int64, int64, bool) error { return nil })
	return out, err
}
