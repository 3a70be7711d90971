package cmd_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mft/internal/commandtest"
)

// growing writes a file as programs write logs, and remembers every generation
// of it.
type growing struct {
	t    *testing.T
	rng  *rand.Rand
	path string
	file *os.File
	gens []*grown // the last one is the one that grows
}

type grown struct {
	content []byte
	renamed bool // it ended by being moved away, so nothing of it may be lost
}

func newGrowing(t *testing.T, rng *rand.Rand, path string) *growing {
	g := &growing{t: t, rng: rng, path: path}
	g.create()
	t.Cleanup(func() { g.check(g.file.Close()) })
	return g
}

func (g *growing) check(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

// create makes another generation, in a file of its own if there is none of
// the name.
func (g *growing) create() {
	file, err := os.OpenFile(g.path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o644)
	g.check(err)
	if g.file != nil {
		g.check(g.file.Close())
	}
	g.file = file
	g.gens = append(g.gens, &grown{})
	g.append()
}

func (g *growing) now() *grown { return g.gens[len(g.gens)-1] }

// append adds some random bytes, a few or many; a generation begins with its
// number.
func (g *growing) append() {
	data := make([]byte, 1+g.rng.IntN(1<<(3+g.rng.IntN(12))))
	for i := range data {
		data[i] = byte(g.rng.Uint32())
	}
	gen := g.now()
	if len(gen.content) == 0 {
		data = append(fmt.Appendf(nil, "generation %06d\n", len(g.gens)), data...)
	}
	gen.content = append(gen.content, data...)
	_, err := g.file.Write(data)
	g.check(err)
}

// rotate moves the file away, writes a little more to it, and begins another.
func (g *growing) rotate() {
	g.check(os.Rename(g.path, fmt.Sprintf("%s.%d", g.path, len(g.gens))))
	g.append()
	g.now().renamed = true
	g.create()
}

// cut empties the file in place, as copytruncate does.
func (g *growing) cut() {
	g.check(g.file.Truncate(0))
	g.gens = append(g.gens, &grown{})
	g.append()
}

// rewrite replaces the content in place by another one of the same length.
func (g *growing) rewrite() {
	n := len(g.now().content)
	next := &grown{content: fmt.Appendf(nil, "generation %06d\n", len(g.gens)+1)}
	for len(next.content) < n {
		next.content = append(next.content, byte(g.rng.Uint32()))
	}
	g.gens = append(g.gens, next)
	g.check(os.WriteFile(g.path, next.content, 0o644))
}

// replace renames another file of the same length over it.
func (g *growing) replace() {
	n := len(g.now().content)
	next := &grown{content: fmt.Appendf(nil, "generation %06d\n", len(g.gens)+1)}
	for len(next.content) < n {
		next.content = append(next.content, byte(g.rng.Uint32()))
	}
	g.gens = append(g.gens, next)
	temp := filepath.Join(filepath.Dir(g.path), "new")
	g.check(os.WriteFile(temp, next.content, 0o644))
	g.check(os.Rename(temp, g.path))
	file, err := os.OpenFile(g.path, os.O_APPEND|os.O_RDWR, 0)
	g.check(err)
	g.check(g.file.Close())
	g.file = file
}

// step does one of these things, mostly appending.
func (g *growing) step() {
	switch n := g.rng.IntN(200); {
	case n == 0:
		g.rotate()
	case n == 1:
		g.cut()
	case n == 2:
		g.rewrite()
	case n == 3:
		g.replace()
	default:
		g.append()
	}
}

// of returns the generation that content is the beginning of, nil when it is
// of none.
func (g *growing) of(content []byte) *grown {
	if len(content) == 0 {
		return &grown{}
	}
	i := slices.IndexFunc(g.gens, func(gen *grown) bool { return bytes.HasPrefix(gen.content, content) })
	if i < 0 {
		return nil
	}
	return g.gens[i]
}

// checkMirror looks whether the mirror holds nothing that the source never had.
func (g *growing) checkMirror(path string) {
	g.t.Helper()
	for try := 0; ; try++ {
		content, err := os.ReadFile(path)
		if os.IsNotExist(err) { // not yet, or being rotated
			return
		}
		g.check(err)
		if g.of(content) != nil {
			return
		}
		// It may have been cut while it was read; a second time, and a third, it is not.
		if try == 3 {
			at := 0
			var best *grown
			for _, gen := range g.gens {
				n := 0
				for n < min(len(gen.content), len(content)) && gen.content[n] == content[n] {
					n++
				}
				if n > at {
					at, best = n, gen
				}
			}
			of := 0
			if best != nil {
				of = len(best.content)
			}
			g.t.Fatalf("%s has %d bytes, which no generation begins with: %.18q, %d bytes of it are those of one of %d bytes", path, len(content), content, at, of)
		}
	}
}

// TestRealtimeUnderKills lets a file grow, be rotated, cut, rewritten and
// replaced, while broker, producer and consumer are killed in turn. At no time
// the mirror has a byte that its source never had at that place, and in the end
// it is equal. What was moved away is kept whole.
func TestRealtimeUnderKills(t *testing.T) {
	for _, test := range []struct {
		name    string
		kills   int
		encrypt bool
	}{{"clear", 45, false}, {"encrypted", 15, true}} {
		t.Run(test.name, func(t *testing.T) { testRealtimeUnderKills(t, test.kills, test.encrypt) })
	}
}

func testRealtimeUnderKills(t *testing.T, kills int, encrypt bool) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	source, out, data, state := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	var produceKey, consumeKey []string
	if encrypt {
		key := filepath.Join(t.TempDir(), "key")
		commands.Run(t, "mft-admin", "keygen", "-o", key)
		produceKey, consumeKey = []string{"--encrypt-key", key}, []string{"--decrypt-key", key}
	}
	g := newGrowing(t, rng, filepath.Join(source, "app.log"))
	mirror := filepath.Join(out, "app.log")

	b := commands.StartBroker(t, data, "")
	addr := b.Addr
	var all []*commandtest.Process
	started := func(p *commandtest.Process) *commandtest.Process {
		all = append(all, p)
		return p
	}
	logs := func() string {
		var text strings.Builder
		for _, p := range all {
			if out := p.Stderr.String(); out != "" {
				fmt.Fprintf(&text, "%s, process %d:\n%s", filepath.Base(p.Path), p.Pid(), out)
			}
		}
		return text.String()
	}
	produce := func() *commandtest.Process {
		return started(commands.Start(t, nil, "mft-produce", append(produceKey, "-b", addr, "-t", "mirror", "--realtime", "--state", state, "--log-level", "info", g.path)...))
	}
	consume := func(args ...string) *commandtest.Process {
		return started(commands.Start(t, nil, "mft-consume", append(append(args, consumeKey...), "-b", addr, "-t", "mirror", "--dir", out)...))
	}
	p, c := produce(), consume()
	write := func(for_ time.Duration) {
		for until := time.Now().Add(for_); time.Now().Before(until); {
			g.step()
			g.checkMirror(mirror)
			time.Sleep(time.Duration(rng.IntN(4000)) * time.Microsecond)
		}
	}
	for i := range kills {
		write(time.Duration(20+rng.IntN(300)) * time.Millisecond)
		select {
		case <-p.Done():
			t.Fatalf("mft-produce ended: %v\n%s", p.Err(), p.Stderr.String())
		case <-c.Done():
			t.Fatalf("mft-consume ended: %v\n%s", c.Err(), c.Stderr.String())
		default:
		}
		switch i % 3 {
		case 0:
			b.KillNow()
			write(time.Duration(rng.IntN(50)) * time.Millisecond)
			b = commands.StartBroker(t, data, addr)
		case 1:
			p.KillNow()
			write(time.Duration(rng.IntN(50)) * time.Millisecond)
			p = produce()
		case 2:
			c.KillNow()
			write(time.Duration(rng.IntN(50)) * time.Millisecond)
			c = consume()
		}
	}
	for range 20 {
		g.append()
	}
	awaitEqual(t, mirror, g.now().content, logs)

	list, err := filepath.Glob(mirror + ".*")
	if err != nil {
		t.Fatal(err)
	}
	whole := 0
	for _, kept := range list {
		content, err := os.ReadFile(kept)
		if err != nil {
			t.Fatal(err)
		}
		gen := g.of(content)
		switch {
		case gen == nil:
			t.Errorf("%s holds what the source never had", kept)
		case gen.renamed && len(content) < len(gen.content):
			t.Errorf("%s has %d of %d bytes of a file that was moved away", kept, len(content), len(gen.content))
		case gen.renamed:
			whole++
		}
	}
	t.Logf("%d generations, %d kept, %d of them rotated", len(g.gens), len(list), whole)

	// The committed offset is at the end, though the file may grow for weeks.
	c.KillNow()
	once := consume("--once")
	if err := once.WaitFor(2 * time.Minute); err != nil {
		t.Fatalf("mft-consume --once: %v\n%s", err, once.Stderr.String())
	}
	groups := commands.Run(t, "mft-admin", "-b", addr, "groups", "list")
	group := strings.Fields(strings.Split(groups, "\n")[1])[0]
	described := commands.Run(t, "mft-admin", "-b", addr, "groups", "describe", group)
	if !strings.Contains(described, "lag       0\n") {
		t.Errorf("the group is behind:\n%s", described)
	}
	if t.Failed() {
		t.Log(logs())
		if !encrypt {
			t.Log(commands.Run(t, "mft-consume", "-b", addr, "-t", "mirror", "--format", `%o %T %k %h %S\n`))
		}
	}
}

// awaitEqual waits until a file has the content.
func awaitEqual(t *testing.T, path string, want []byte, logs func() string) {
	t.Helper()
	var got []byte
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		var err error
		if got, err = os.ReadFile(path); err == nil && bytes.Equal(got, want) {
			return
		}
	}
	t.Fatalf("%s has %d bytes and is not equal to its source, which has %d\n%s", path, len(got), len(want), logs())
}
