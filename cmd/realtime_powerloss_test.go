//go:build linux

package cmd_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mft/internal/powerfs"
)

// TestRealtimePowerLoss cuts the power of the machine of the receiver, again
// and again, while a file grows and is rotated. What is on the disk afterwards
// may hold anything that was not made durable; in the end the mirror is equal, and
// what was rotated is there, whole.
func TestRealtimePowerLoss(t *testing.T) {
	const cuts = 8
	seed := fromEnvironment(t, "MFT_POWER_SEED", uint64(time.Now().UnixNano()))
	t.Logf("MFT_POWER_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	disk, dir := powerfs.NewDisk(slowestSync, seed), t.TempDir()
	mount, err := disk.Mount(dir)
	if errors.As(err, new(*powerfs.UnavailableError)) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.Unmount(); err != nil {
			t.Error(err)
		}
	})
	b := startBroker(t)
	g := newGrowing(t, random, filepath.Join(t.TempDir(), "app.log"))
	p := commands.Start(t, nil, "mft-produce", "-b", b.Addr, "-t", "mirror", "--realtime", "--state", t.TempDir(), g.path)
	var total powerfs.Survey
	rotated := 0
	var logs strings.Builder
	consume := func() func() {
		c := commands.Start(t, nil, "mft-consume", "-b", b.Addr, "-t", "mirror", "--dir", dir, "-g", "group")
		return func() {
			c.KillNow()
			logs.WriteString(c.Stderr.String())
		}
	}
	kill := consume()
	for range cuts {
		for until := time.Now().Add(time.Duration(random.IntN(2500)) * time.Millisecond); time.Now().Before(until); {
			g.append()
			if random.IntN(100) == 0 {
				// A file that is rotated before the last rotation was seen would come and go unnoticed.
				if content, err := os.ReadFile(filepath.Join(dir, "app.log")); err == nil && len(content) > 0 && g.of(content) == g.now() {
					g.rotate()
					rotated++
				}
			}
			time.Sleep(time.Duration(random.IntN(5000)) * time.Microsecond)
		}
		total.Add(mount.Cut(powerfs.RandomLoss(random), random))
		kill()
		if err := mount.Unmount(); err != nil {
			t.Fatal(err)
		}
		if mount, err = disk.Mount(dir); err != nil {
			t.Fatal(err)
		}
		kill = consume()
	}
	g.append()
	mirror := filepath.Join(dir, "app.log")
	awaitEqual(t, mirror, g.now().content, p.Stderr.String)
	list, err := filepath.Glob(mirror + ".*")
	if err != nil {
		t.Fatal(err)
	}
	whole := 0
	for _, gen := range g.gens {
		for _, kept := range list {
			content, err := os.ReadFile(kept)
			if err != nil {
				t.Fatal(err)
			}
			if gen.renamed && bytes.Equal(content, gen.content) {
				whole++
				break
			}
		}
	}
	if whole != rotated {
		t.Errorf("%d of %d rotated files are there, whole, among %d", whole, rotated, len(list))
		for _, kept := range list {
			content, err := os.ReadFile(kept)
			if err != nil {
				t.Fatal(err)
			}
			same, of := 0, 0
			for _, gen := range g.gens {
				n := 0
				for n < min(len(content), len(gen.content)) && content[n] == gen.content[n] {
					n++
				}
				if n > same {
					same, of = n, len(gen.content)
				}
			}
			t.Logf("%s has %d bytes, the first %d of a generation of %d", kept, len(content), same, of)
		}
	}
	kill()
	if t.Failed() {
		t.Logf("%s\n%s", logs.String(), p.Stderr.String())
	}
	t.Logf("%d cuts, %d rotations; %v", cuts, rotated, total)
	if total.Pages == 0 {
		t.Error("there was nothing to lose at the cuts: they were no test")
	}
}
