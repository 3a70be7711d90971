package segment

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mft/protocol"
)

// inspected is what an Inspector saw.
type inspected struct {
	files, batches, offsets, times int
	records                        []JournalRecord
	snapshots                      []Snapshot
	findings                       []Finding
}

func inspect(t testing.TB, path string) (x inspected) {
	t.Helper()
	in := Inspector{
		Records:     true,
		File:        func(string, int64) error { x.files++; return nil },
		Batch:       func(int64, protocol.Batch) error { x.batches++; return nil },
		OffsetEntry: func(int, int64, int64) error { x.offsets++; return nil },
		TimeEntry:   func(int, int64, int64) error { x.times++; return nil },
		Snapshot:    func(s Snapshot) error { x.snapshots = append(x.snapshots, s); return nil },
		JournalRecord: func(r JournalRecord) error {
			r.Payload = slices.Clone(r.Payload)
			x.records = append(x.records, r)
			return nil
		},
		Finding: func(f Finding) error { x.findings = append(x.findings, f); return nil },
	}
	must(t, in.Inspect(path))
	return x
}

// worst returns the findings of the given severities.
func (x inspected) of(severities ...Severity) (found []Finding) {
	for _, f := range x.findings {
		if slices.Contains(severities, f.Severity) {
			found = append(found, f)
		}
	}
	return found
}

// makeInspected makes a data directory of two logs: one with three closed segments of four batches and one batch in the active segment, and one
// with a single segment. crashed is it as it is before it is closed, after more was written.
func makeInspected(t testing.TB) (closed, crashed string, batch int) {
	t.Helper()
	dir := t.TempDir()
	var m ledger
	s := openStore(t, dir, m.options())
	propose(t, s, "a")
	b := batchOf(t, 2, 40, 0, nil)
	l := openLog(t, s, testTopic, LogConfig{SegmentBytes: int64(4 * len(b)), IndexIntervalBytes: 1})
	other := openLog(t, s, LogID{"other", [16]byte{9}, 3}, LogConfig{})
	fill := func(l *Log, n int) {
		for range n {
			appendBatch(t, l, batchOf(t, 2, 40, l.EndOffset()*10+1, nil))
		}
		waitDurable(t, l)
	}
	fill(l, 13)
	fill(other, 5)
	must(t, s.Checkpoint(context.Background()))
	propose(t, s, "b")
	propose(t, s, "c")
	fill(other, 2)
	crashed = copyDir(t, dir)
	closeStore(t, s)
	return dir, crashed, len(b)
}

func TestInspect(t *testing.T) {
	closed, crashed, _ := makeInspected(t)
	for _, dir := range []string{closed, crashed} {
		x := inspect(t, dir)
		if len(x.findings) > 0 || x.batches != 20 || x.offsets < 9 || x.times < 9 || len(x.snapshots) != 1 || len(x.snapshots[0].Logs) != 2 {
			t.Errorf("%+v", x)
		}
	}
	var proposed []string
	for _, r := range inspect(t, crashed).records {
		if r.Name == "metadata" {
			proposed = append(proposed, string(r.Payload))
		}
	}
	if !slices.Equal(proposed, []string{"b", "c"}) {
		t.Errorf("journal: %q", proposed)
	}
	roomy := copyDir(t, crashed)
	edit(t, generationFile(filepath.Join(roomy, journalName), 2), with(make([]byte, 5000)...))
	if x := inspect(t, roomy); len(x.findings) > 0 {
		t.Errorf("zeros behind the journal: %v", x.findings)
	}
	part := filepath.Join("topics", testTopic.dirName())
	for path, want := range map[string]inspected{
		part:                            {batches: 13},
		filepath.Join(part, logName(8)): {batches: 4},
		filepath.Join(part, "00000000000000000008.index"):     {offsets: 3},
		filepath.Join(part, "00000000000000000008.timeindex"): {times: 3},
		filepath.Join(part, metadataName):                     {},
		snapshotName:                                          {},
		"journal":                                             {},
		filepath.Join("journal", "2"):                         {},
	} {
		x := inspect(t, filepath.Join(crashed, path))
		if len(x.findings) > 0 || x.files == 0 || x.batches != want.batches || want.offsets > 0 && x.offsets != want.offsets || want.times > 0 && x.times != want.times {
			t.Errorf("%s: %+v", path, x)
		}
	}
	if err := new(Inspector).Inspect(t.TempDir()); err == nil {
		t.Error("an empty directory is inspected")
	}
}

// Each kind of damage is found, where it is.
func TestInspectFindsDamage(t *testing.T) {
	closed, crashed, batch := makeInspected(t)
	in := func(name string) string { return filepath.Join("topics", testTopic.dirName(), name) }
	other := filepath.Join("topics", "other-3", logName(0))
	for _, tc := range []struct {
		name, from, file string
		corrupt          func([]byte) []byte // nil: removed
		severity         Severity
		at, offset       int64
	}{
		{"a data bit", closed, in(logName(8)), flipped(2*batch - 3), Damage, int64(batch), 10},
		{"a base offset", closed, in(logName(8)), flipped(batch + 7), Damage, int64(batch), 10},
		{"a base offset of the last batch", closed, in(logName(8)), flipped(3*batch + 7), Damage, int64(3 * batch), 14},
		{"a length", closed, in(logName(8)), flipped(batch + 10), Damage, int64(batch), 10},
		{"a closed segment cut", closed, in(logName(8)), cutBy(1), Damage, int64(3 * batch), 14},
		{"the active segment cut", closed, in(logName(24)), cutBy(batch), Damage, 0, 24},
		{"the active segment missing", closed, in(logName(24)), nil, Damage, 0, 24},
		{"a closed segment missing", closed, in(logName(8)), nil, Damage, int64(4 * batch), 8},
		{"a closed segment cut behind a batch", closed, in(logName(8)), cutBy(batch), Damage, int64(3 * batch), 14},
		{"an index entry", closed, in("00000000000000000008.index"), flipped(10), DamagedIndex, 8, 8},
		{"an index missing", closed, in("00000000000000000008.index"), nil, DamagedIndex, 0, 8},
		{"an index cut", closed, in("00000000000000000008.index"), cutBy(3), DamagedIndex, 16, 8},
		{"a time index entry", closed, in("00000000000000000008.timeindex"), flipped(17), DamagedIndex, 12, 8},
		{"the snapshot", closed, snapshotName, flipped(20), Damage, 0, -1},
		{"no snapshot", closed, snapshotName, nil, Damage, 0, -1},
		{"the topic's id", closed, in(metadataName), cutBy(4), Damage, 0, -1},
		{"no topic id", closed, in(metadataName), nil, Damage, 0, -1},
		{"a group in the journal", crashed, "journal/2/00000000000000000001", flipped(10), Damage, 0, -1},
		{"the journal's tail", crashed, "journal/2/00000000000000000001", cutBy(1), Torn, 0, -1},
		{"the log's tail", crashed, other, cutBy(1), Torn, int64(6 * batch), 12},
		{"damage behind the checkpoint", crashed, other, flipped(-5), Torn, int64(6 * batch), 12},
		{"damage before the checkpoint", crashed, other, flipped(batch - 5), Damage, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := copyDir(t, tc.from)
			path := filepath.Join(d, filepath.FromSlash(tc.file))
			if tc.corrupt == nil {
				must(t, os.Remove(path))
			} else {
				edit(t, path, tc.corrupt)
			}
			x := inspect(t, d)
			for _, f := range x.findings {
				if f.Severity == tc.severity && (f.Byte == tc.at || strings.Contains(tc.file, "journal")) && f.Offset == tc.offset && f.Reason != "" && f.Dir != "" {
					return
				}
			}
			t.Errorf("found %v", x.findings)
		})
	}
}

// Whatever bit is flipped, in whatever file, inspection says so: only the leader epoch of a batch is covered by nothing.
func TestInspectFindsEveryFlip(t *testing.T) {
	_, crashed, batch := makeInspected(t)
	err := filepath.WalkDir(crashed, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "LOCK" {
			return err
		}
		whole, err := os.ReadFile(path)
		must(t, err)
		for i := range whole {
			if filepath.Ext(path) == ".log" && i%batch >= 12 && i%batch < 16 {
				continue
			}
			if d.Name() == metadataName && i > 11 && len(whole)-i > 1 {
				continue // the id itself
			}
			must(t, os.WriteFile(path, flipped(i)(slices.Clone(whole)), 0o644))
			if x := inspect(t, crashed); len(x.of(Damage, DamagedIndex, Torn)) == 0 {
				t.Errorf("%s: byte %d flipped: %v", path, i, x.findings)
			}
		}
		must(t, os.WriteFile(path, whole, 0o644))
		return nil
	})
	must(t, err)
}
