package consumer

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestLedger checks the invariant against a plain model, over random histories.
func TestLedger(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		l := newLedger(-1)
		open, done := []int64{}, []int64{}
		last := int64(-1)
		for offset := int64(0); offset < 200; offset++ {
			switch random.IntN(3) {
			case 0:
				l.begin(offset, int32(offset))
				open = append(open, offset)
			case 1:
				if len(open) > 0 {
					i := random.IntN(len(open))
					l.finish(open[i])
					done = append(done, open[i])
					open = slices.Delete(open, i, i+1)
				}
			}
			next := offset + 1
			l.passed(next, 7)
			got, _, n := l.point()
			list := n.done
			want := next
			if len(open) > 0 {
				want = slices.Min(open)
			}
			if got != want || got < last {
				t.Fatalf("seed %d, offset %d: commit %d, want %d, before %d", seed, offset, got, want, last)
			}
			last = got
			for _, begin := range done {
				if (begin > got) != slices.Contains(list, begin) {
					t.Fatalf("seed %d: %d is done, the commit is %d, the list %v", seed, begin, got, list)
				}
			}
		}
	}
}

func TestNote(t *testing.T) {
	t.Parallel()
	id := [16]byte{1, 2, 3, 255}
	long := note{topicID: id}
	for i := range int64(100_000) {
		long.done = append(long.done, 1000+i*(1+i%300))
	}
	slices.Sort(long.done)
	long.done = slices.Compact(long.done)
	for _, n := range []note{{}, {topicID: id}, {done: []int64{1, 2, 1 << 40}}, {topicID: id, done: []int64{5}}, long} {
		const committed = 0
		text := n.encode(committed)
		if len(text) > maxNoteBytes {
			t.Errorf("a note of %d bytes", len(text))
		}
		got, err := parseNote(text, committed)
		if err != nil {
			t.Fatal(err)
		}
		if got.topicID != n.topicID || len(got.done) > len(n.done) || !slices.Equal(got.done, n.done[:len(got.done)]) {
			t.Errorf("%d offsets came back as %d others", len(n.done), len(got.done))
		}
		if len(n.done) < 1000 && len(got.done) != len(n.done) {
			t.Errorf("%d of %d offsets came back", len(got.done), len(n.done))
		}
	}
}

func FuzzParseNote(f *testing.F) {
	f.Add("mft1 - -", int64(0))
	f.Add(note{topicID: [16]byte{9}, done: []int64{10, 20, 1 << 62}}.encode(5), int64(5))
	f.Add("mft1 - ////", int64(1<<62))
	f.Add(note{mirrors: []mirrorPoint{{3, 9}, {1, 2}}}.encode(10), int64(10))
	f.Add("somebody else's", int64(3))
	f.Fuzz(func(t *testing.T, text string, committed int64) {
		n, err := parseNote(text, committed)
		if err != nil {
			return
		}
		last := committed
		for _, begin := range n.done {
			if begin <= last {
				t.Fatalf("%q: %d follows %d", text, begin, last)
			}
			last = begin
		}
		if len(text) <= maxNoteBytes {
			again, err := parseNote(n.encode(committed), committed)
			if len(again.mirrors) > len(n.mirrors) || !slices.Equal(again.mirrors, n.mirrors[:len(again.mirrors)]) {
				t.Fatalf("%q: %v comes back as %v", text, n.mirrors, again.mirrors)
			}
			if err != nil || again.topicID != n.topicID || len(n.mirrors) == 0 && !slices.Equal(again.done, n.done) {
				t.Fatalf("%q does not come back: %v", text, err)
			}
		}
	})
}

func FuzzExtents(f *testing.F) {
	f.Add([]byte{0, 10, 10, 10, 30, 5, 15, 20})
	f.Add([]byte{20, 5, 0, 5, 5, 15, 0, 40})
	f.Add([]byte{1, 0, 255, 255})
	f.Fuzz(func(t *testing.T, moves []byte) {
		var x extents
		var have [600]bool
		for i := 0; i+1 < len(moves); i += 2 {
			start, end := int64(moves[i]), int64(moves[i])+int64(moves[i+1])
			covered, fresh := true, int64(0)
			for b := start; b < end; b++ {
				if !have[b] {
					have[b], covered = true, false
					fresh++
				}
			}
			if end > start && x.covers(start, end) != covered {
				t.Fatalf("covers(%d, %d) = %t", start, end, !covered)
			}
			got, err := x.add(start, end)
			if err != nil || got != fresh {
				t.Fatalf("add(%d, %d) = %d, %v; want %d", start, end, got, err, fresh)
			}
		}
		total, last := int64(0), int64(-1)
		for _, r := range x.ranges {
			if r.start <= last || r.end <= r.start {
				t.Fatalf("ranges %v", x.ranges)
			}
			for b := r.start; b < r.end; b++ {
				if !have[b] {
					t.Fatalf("byte %d in %v", b, x.ranges)
				}
			}
			total, last = total+r.end-r.start, r.end
		}
		if total != x.total {
			t.Fatalf("total %d, ranges hold %d", x.total, total)
		}
	})
}
