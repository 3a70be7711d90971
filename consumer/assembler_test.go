package consumer

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"mft/protocol"
)

// bench is a partition with all behind it, but no broker before it.
type bench struct {
	*partition
	placer *placer
	target *target
	report *reporter
}

func newBench(t testing.TB, dir string) *bench {
	t.Helper()
	target, err := openTarget(dir)
	if err != nil {
		t.Fatal(err)
	}
	report := &reporter{}
	ctx, cancel := context.WithCancel(context.Background())
	receipts, err := newReceipts(&FilesConfig{NoReceipts: true}, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	placer := newPlacer(ctx, &FilesConfig{}, target, report, receipts)
	p := &partition{
		receipts: receipts,
		target:   target, placer: placer, report: report, changed: func() {},
		ledger: newLedger(-1), inPlace: map[int64]bool{}, until: math.MaxInt64, abandon: time.Hour,
		transfers: map[protocol.TransferID]*transfer{}, settled: newOutcomes(16), stable: -1,
		in: make(chan fetched), quit: make(chan struct{}), dropped: make(chan struct{}), done: make(chan struct{}),
	}
	b := &bench{p, placer, target, report}
	go p.run()
	t.Cleanup(cancel)
	return b
}

// close ends it all and returns what was done.
func (b *bench) close(t testing.TB) Summary {
	t.Helper()
	b.stop(false)
	<-b.done
	b.discardAll()
	b.placer.close()
	b.target.work.intents.passed("", "", 0, math.MaxInt64) // as a commit does
	if err := b.target.close(); err != nil {
		t.Error(err)
	}
	select {
	case <-b.placer.failed:
		t.Error(b.placer.err)
	default:
	}
	return b.report.total(time.Now())
}

// FuzzAssembler feeds any sequence of file records: nothing outside the
// directory changes, nothing temporary is left, and a file that is placed has
// the content that its digest was made of.
func FuzzAssembler(f *testing.F) {
	names := []string{"a", "a/b", "a/b/c", "../out", "/abs", "link/x", "x/../../y", ".mft-partial/lock", "sub/..", "CON", "a\\..\\b", strings.Repeat("l", 300)}
	f.Add([]byte{0, 0, 0, 1, 0, 0, 2, 0, 0})
	f.Add([]byte{0, 0, 0, 0, 1, 1, 1, 1, 0, 1, 0, 0, 2, 0, 0, 2, 1, 0})
	f.Add([]byte{0, 0, 3, 1, 0, 0, 2, 0, 0, 0, 1, 5, 1, 1, 0, 2, 1, 0, 4, 2, 1, 2, 2, 0, 3, 3, 0})
	f.Add([]byte{1, 0, 9, 2, 0, 0, 0, 0, 7, 1, 0, 200, 2, 0, 0, 5, 0, 0, 6, 1, 1})
	f.Fuzz(func(t *testing.T, moves []byte) {
		if len(moves) > 300 {
			return
		}
		parent := t.TempDir()
		dir := filepath.Join(parent, "in")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(parent, "out"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(parent, "out"), filepath.Join(dir, "link")); err != nil {
			t.Skip("no symlinks here:", err)
		}
		b := newBench(t, dir)
		ups := make([]*upload, 5)
		for i := range ups {
			ups[i] = newUpload("u", []byte(strings.Repeat(string(rune('a'+i)), 10*i)))
		}
		var records []*kgo.Record
		for i := 0; i+2 < len(moves); i += 3 {
			u, arg := ups[int(moves[i+1])%len(ups)], int(moves[i+2])
			n := len(u.content)
			var r *kgo.Record
			switch moves[i] % 7 {
			case 0:
				u.manifest.Name = names[arg%len(names)]
				if arg >= 128 {
					u.manifest.Size = protocol.SizeUnknown
				}
				r = u.begin()
			case 1:
				from := arg % (n + 1)
				r = u.chunk(from, min(n, from+1+arg/8))
			case 2:
				r = u.end()
			case 3:
				r = u.abort()
			case 4:
				dir := newDir(names[arg%len(names)], protocol.Mode(arg)|0o700)
				dir.id = u.id
				r = dir.begin()
			case 5:
				r = u.endAs(protocol.End{Size: int64(arg), Digest: "00"})
			case 6:
				r = u.chunk(0, n)
				r.Value = append(r.Value, byte(arg))
			}
			r.Offset, r.Timestamp = int64(len(records)), time.Now()
			records = append(records, r)
		}
		b.in <- fetched{records, int64(len(records))}
		b.in <- fetched{nil, int64(len(records))} // taken when the records are dealt with
		b.close(t)

		found := tree(t, parent)
		for name, content := range found {
			switch {
			case name == "in/" || name == "out/" || name == "in/link" || !strings.HasPrefix(name, "in/"):
				if name != "in/" && name != "out/" && name != "in/link" {
					t.Errorf("%q is outside the directory", name)
				}
			case strings.Contains(name, workDir):
				t.Errorf("%q is left", name)
			case !strings.HasSuffix(name, "/"):
				if content != "" && (len(content)%10 != 0 || content != strings.Repeat(content[:1], len(content)) || len(content) != 10*int(content[0]-'a')) {
					t.Errorf("%q holds %q, which was never sent whole", name, content)
				}
			}
		}
		if at, _, _ := b.ledger.point(); at > int64(len(records)) {
			t.Errorf("commit at %d of %d", at, len(records))
		}
	})
}

func TestPersist(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir())
	tries := 0
	err := b.placer.persist(b.dropped, func() error {
		if tries++; tries < 3 {
			return &os.PathError{Op: "write", Path: "x", Err: errFull}
		}
		return nil
	})
	if err != nil || tries != 3 {
		t.Errorf("a full disk: %v after %d tries", err, tries)
	}
	tries = 0
	err = b.placer.persist(b.dropped, func() error { tries++; return &syncError{errFull} })
	if err == nil || tries != 1 {
		t.Errorf("a failed fsync: %v after %d tries", err, tries)
	}
	b.stop(true)
	if err := b.placer.persist(b.dropped, func() error { return errFull }); !errors.Is(err, errDropped) {
		t.Errorf("a partition that was taken away: %v", err)
	}
	b.close(t)
}

func TestEscapeIsRecognized(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Symlink(t.TempDir(), filepath.Join(dir, "link")); err != nil {
		t.Skip("no symlinks here:", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{root.Mkdir("link/x", 0o700), root.Mkdir("../x", 0o700), root.Rename("f", "link/f")} {
		if refusal(err) != "it leads out of the directory" {
			t.Errorf("%v is not recognized", err)
		}
	}
	if refusal(syscall.ENOSPC) != "" || refusal(nil) != "" {
		t.Error("what is no refusal is one")
	}
}

func TestLeftoversAreRemoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	work := filepath.Join(dir, workDir)
	if err := os.MkdirAll(filepath.Join(work, "deep"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"0123.1": "half", pidFile: "1\n", lockFile: "", memberFile: "mft-before"} {
		if err := os.WriteFile(filepath.Join(work, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	target, err := openTarget(dir)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(work)
	if err != nil || len(entries) != 3 {
		t.Errorf("%v, %v", entries, err)
	}
	if target.work.member != "mft-before" {
		t.Errorf("a killed receiver's membership is lost: %s", target.work.member)
	}
	if err := target.close(); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
