package segment

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mft/protocol"
)

// Repair says what it will do, does only that, and leaves a directory that opens, is sound, keeps every whole batch at its offset, and goes on.
func TestRepair(t *testing.T) {
	closed, crashed, batch := makeInspected(t)
	in := func(name string) string { return filepath.Join("topics", testTopic.dirName(), name) }
	other := filepath.Join("topics", "other-3", logName(0))
	proposed := -1 // where the group of "b" is; there may be others before it
	for _, r := range inspect(t, crashed).records {
		if r.Name == "metadata" && string(r.Payload) == "b" {
			proposed = int(r.Position)
		}
	}
	if proposed < 0 {
		t.Fatal("the journal does not have what was proposed")
	}
	type damages map[string]func([]byte) []byte
	for _, tc := range []struct {
		name      string
		from      string
		damages   damages
		cuts      int
		left      int
		lost      []int64 // base offsets of batches of the test topic
		lostOther []int64
		lostEntry string
	}{
		{"nothing", closed, nil, 0, 0, nil, nil, ""},
		{"nothing after a crash", crashed, nil, 0, 0, nil, nil, ""},
		{"a torn tail", crashed, damages{other: cutBy(3)}, 0, 0, nil, nil, ""},
		{"two batches of a closed segment", closed, damages{in(logName(8)): func(b []byte) []byte { return flipped(batch - 1)(flipped(3*batch - 1)(b)) }}, 2, 0, []int64{8, 12}, nil, ""},
		{"a length", closed, damages{in(logName(8)): flipped(batch + 10)}, 1, 0, []int64{10}, nil, ""},
		{"a base offset", closed, damages{in(logName(8)): flipped(batch + 7)}, 1, 0, []int64{10}, nil, ""},
		{"a closed segment after a crash", crashed, damages{in(logName(8)): flipped(-1)}, 1, 0, []int64{14}, nil, ""},
		{"a closed segment cut", closed, damages{in(logName(16)): cutBy(batch + 2)}, 1, 0, []int64{20, 22}, nil, ""},
		{"the only batch of the active segment", closed, damages{in(logName(24)): flipped(batch - 1)}, 1, 0, []int64{24}, nil, ""},
		{"the active segment", closed, damages{other: flipped(batch + 30)}, 1, 0, nil, []int64{2}, ""},
		{"a closed segment cut behind a batch", closed, damages{in(logName(16)): cutBy(batch)}, 1, 0, []int64{22}, nil, ""},
		{"a closed segment emptied", closed, damages{in(logName(16)): func([]byte) []byte { return nil }}, 1, 0, []int64{16, 18, 20, 22}, nil, ""},
		{"the active segment cut in a batch", closed, damages{other: cutBy(3)}, 1, 0, nil, []int64{12}, ""},
		{"the active segment cut behind a batch", closed, damages{other: cutBy(batch)}, 1, 0, nil, []int64{12}, ""},
		{"indexes", closed, damages{
			in("00000000000000000008.index"):     flipped(9),
			in("00000000000000000016.timeindex"): cutBy(1),
		}, 2, 0, nil, nil, ""},
		{"a group of the journal", crashed, damages{filepath.Join("journal", "2", "00000000000000000001"): flipped(proposed + 10)}, 1, 0, nil, nil, "b"},
		{"the active segment after a crash", crashed, damages{other: flipped(batch + 30)}, 0, 1, nil, nil, ""},
		{"the snapshot", closed, damages{snapshotName: flipped(40)}, 0, 1, nil, nil, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			whole := copyDir(t, tc.from)
			d := copyDir(t, tc.from)
			for file, corrupt := range tc.damages {
				edit(t, filepath.Join(d, file), corrupt)
			}
			before := copyDir(t, d)
			r, err := PlanRepair(d)
			must(t, err)
			if len(r.Cuts) != tc.cuts || len(r.Left) != tc.left {
				t.Fatalf("cuts %+v, left %v", r.Cuts, r.Left)
			}
			if !sameFiles(t, before, d) {
				t.Fatal("planning changed something")
			}
			var inUse *InUseError
			if _, err := Open(d, Options{}); !errors.As(err, &inUse) {
				t.Errorf("opened during a repair, or %v", err)
			}
			must(t, r.Apply())
			must(t, r.Close())
			if tc.left > 0 {
				return
			}
			if x := inspect(t, d); len(x.of(Damage, DamagedIndex)) > 0 {
				t.Fatalf("after the repair: %v", x.findings)
			}
			checkRepaired(t, whole, d, testTopic, tc.lost)
			if tc.name != "a torn tail" { // the journal may put it back
				checkRepaired(t, whole, d, LogID{"other", [16]byte{9}, 3}, tc.lostOther)
			}
			var m ledger
			s := openStore(t, d, m.options())
			want := []string{"a", "b", "c"}
			if i := slices.Index(want, tc.lostEntry); i >= 0 {
				want = slices.Delete(want, i, i+1)
			}
			if !slices.Equal(m.entries, want) {
				t.Errorf("entries %q", m.entries)
			}
			for _, id := range []LogID{testTopic, {"other", [16]byte{9}, 3}} {
				openLog(t, s, id, LogConfig{})
			}
			closeStore(t, s)
			if x := inspect(t, d); len(x.of(Damage, DamagedIndex, Torn)) > 0 {
				t.Fatalf("after a start: %v", x.findings)
			}
		})
	}
}

// sameFiles says whether two directories hold the same but for LOCK.
func sameFiles(t testing.TB, a, b string) bool {
	t.Helper()
	content := func(dir string) map[string]string {
		files := map[string]string{}
		must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || d.Name() == "LOCK" {
				return err
			}
			data, err := os.ReadFile(path)
			rel, rerr := filepath.Rel(dir, path)
			files[rel] = string(data)
			return errors.Join(err, rerr)
		}))
		return files
	}
	x, y := content(a), content(b)
	if len(x) != len(y) {
		return false
	}
	for name := range x {
		if x[name] != y[name] {
			return false
		}
	}
	return true
}

// checkRepaired compares a log with what it was: all batches but the lost ones are there, its end is as it was unless its tail was torn, and it goes on.
func checkRepaired(t *testing.T, whole, repaired string, id LogID, lost []int64) {
	t.Helper()
	var m, n ledger
	s := openStore(t, copyDir(t, whole), m.options())
	want := readAll(t, openLog(t, s, id, LogConfig{}), 0, 1<<20)
	want = slices.DeleteFunc(slices.Clone(want), func(b protocol.Batch) bool { return slices.Contains(lost, b.BaseOffset()) })
	r := openStore(t, copyDir(t, repaired), n.options())
	l := openLog(t, r, id, LogConfig{})
	got := slices.DeleteFunc(readAll(t, l, 0, 1<<20), func(b protocol.Batch) bool { return b.NumRecords() == 0 })
	if len(got) != len(want) {
		t.Fatalf("%d batches, want %d", len(got), len(want))
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			t.Errorf("batch %d differs", i)
		}
	}
	end := l.EndOffset()
	if a := appendBatch(t, l, batchOf(t, 1, 10, 5000, nil)); a.BaseOffset != end {
		t.Errorf("went on at %d instead of %d", a.BaseOffset, end)
	}
	waitDurable(t, l)
	checkTimes(t, l)
}

// TestRepairInTheWay: what lies between two batches of which none is missing is cut out, and nothing takes its place.
func TestRepairInTheWay(t *testing.T) {
	closed, _, batch := makeInspected(t)
	path := filepath.Join(closed, "topics", testTopic.dirName(), logName(8))
	whole, err := os.ReadFile(path)
	must(t, err)
	for _, at := range []int{0, batch, len(whole)} {
		must(t, os.WriteFile(path, slices.Insert(slices.Clone(whole), at, bytes.Repeat([]byte{7}, 30)...), 0o644))
		r, err := PlanRepair(closed)
		must(t, err)
		if len(r.Cuts) != 1 || r.Cuts[0].Bytes != 30 || !strings.Contains(r.Cuts[0].Does, "in the place of no record") || len(r.Left) > 0 {
			t.Errorf("at %d: %+v, left %v", at, r.Cuts, r.Left)
		}
		must(t, r.Apply())
		must(t, r.Close())
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, whole) {
			t.Errorf("at %d: repaired to %d bytes, want the %d there were: %v", at, len(got), len(whole), err)
		}
		if x := inspect(t, closed); len(x.of(Damage, DamagedIndex, Torn)) > 0 {
			t.Errorf("at %d: %v", at, x.findings)
		}
	}
}

// hasForgery tells whether there is a whole batch where none was: across the place of two others, or another one in the place of one. Nobody can tell
// such a one from the right one, or that those before it are missing. segment is what damaged was, batches of the same size.
func hasForgery(damaged, segment []byte, size int) bool {
	const unchecked = 12 // a checksum does not cover the base offset and the length
	for at := range damaged {
		b, _, err := protocol.NextBatch(damaged[at:])
		if err != nil || b.CheckCRC() != nil {
			continue
		}
		if at%size != 0 {
			return true
		}
		for other := 0; other+size <= len(segment); other += size {
			if other > at && len(b) == size && bytes.Equal(b[unchecked:], segment[other+unchecked:other+size]) {
				return true
			}
		}
	}
	return false
}

// FuzzRepair: whatever is written over a closed segment, or cut off it, unless it is a whole batch itself, a repair leaves a log without damage that opens, in which every batch
// that was left whole is where it was, and a second repair has nothing to do.
func FuzzRepair(f *testing.F) {
	closed, _, batch := makeInspected(f)
	part := filepath.Join(closed, "topics", testTopic.dirName())
	segment, err := os.ReadFile(filepath.Join(part, logName(8)))
	must(f, err)
	f.Add(uint16(10), uint16(0), []byte{1})
	f.Add(uint16(batch+8), uint16(0), []byte{0, 0, 1, 0})
	f.Add(uint16(batch), uint16(0), segment[:batch]) // a whole batch again
	f.Add(uint16(2*batch-10), uint16(0), bytes.Repeat([]byte{2}, 200))
	f.Add(uint16(0), uint16(batch+5), []byte{})
	f.Add(uint16(0), uint16(len(segment)), []byte{})
	f.Fuzz(func(t *testing.T, at, cut uint16, over []byte) {
		d := quickCopy(t, closed)
		damaged := slices.Clone(segment)
		damaged = damaged[:len(damaged)-min(len(damaged), int(cut))]
		if int(at) < len(damaged) {
			copy(damaged[at:], over)
		}
		if hasForgery(damaged, segment, batch) {
			return
		}
		must(t, os.WriteFile(filepath.Join(d, "topics", testTopic.dirName(), logName(8)), damaged, 0o644))
		r, err := PlanRepair(d)
		must(t, err)
		must(t, r.Apply())
		must(t, r.Close())
		if x := inspect(t, d); len(x.of(Damage, DamagedIndex, Torn)) > 0 {
			t.Fatalf("after %+v: %v", r.Cuts, x.findings)
		}
		again, err := PlanRepair(d)
		must(t, err)
		if len(again.Cuts)+len(again.Left) > 0 {
			t.Errorf("a second repair would do %+v, leave %v", again.Cuts, again.Left)
		}
		must(t, again.Close())
		s := openStore(t, d, Options{})
		l := openLog(t, s, testTopic, LogConfig{})
		got := map[string]bool{}
		for _, b := range readAll(t, l, 8, 1<<20) {
			got[string(b)] = true
		}
		for i := 0; (i+1)*batch <= len(damaged); i++ {
			if b := segment[i*batch : (i+1)*batch]; bytes.Equal(damaged[i*batch:(i+1)*batch], b) && !got[string(b)] {
				t.Errorf("batch %d was whole and is gone", i)
			}
		}
		if l.EndOffset() != 26 {
			t.Errorf("end %d", l.EndOffset())
		}
	})
}
