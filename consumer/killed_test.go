package consumer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A receiver that is to be killed runs in a process of its own: this test
// binary, started again with childVariable set.
const childVariable = "MFT_TEST_RECEIVER" // "brokers topic dir"

// child is the main function of that process.
func child() int {
	f := strings.Fields(os.Getenv(childVariable))
	_, err := ReceiveFiles(context.Background(), FilesConfig{
		Config: Config{Brokers: strings.Split(f[0], ","), Topic: f[1], Logger: zerolog.New(os.Stderr).Level(zerolog.InfoLevel)},
		Dir:    f[2], Once: true,
		Events: Events{Done: func(id, _ string) { fmt.Println(id) }},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func childCommand(t testing.TB, s *sender, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+strings.Join(s.brokers, ",")+" "+s.topic+" "+dir)
	cmd.Stderr = os.Stderr
	return cmd
}

// TestKilled kills a receiver at random moments and starts it again.
func TestKilled(t *testing.T) { onBoth(t, testKilled) }

func testKilled(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "killed", 2)
	dir := t.TempDir()
	random := rand.New(rand.NewPCG(5, 6))
	want := map[string]string{}
	const files = 400
	for p := range int32(2) {
		var all []*kgo.Record
		pinned := newUpload(fmt.Sprintf("big%d", p), randomBytes(60_000)) // begins first, ends last
		all = append(all, pinned.begin())
		rest := append(pinned.chunks(1000), pinned.end())
		for i := range files / 2 {
			u := newUpload(fmt.Sprintf("d%d/f%d-%d", i%10, p, i), randomBytes(random.IntN(5000)))
			all = append(all, u.records(1000)...)
			want[u.manifest.Name] = string(u.content)
			if i%4 == 0 {
				all, rest = append(all, rest[0]), rest[1:]
			}
		}
		all = append(all, rest...)
		s.send(p, all...)
		want[pinned.manifest.Name] = string(pinned.content)
	}
	placed, kills, seen := 0, 0, map[string]int{}
	for round := 0; ; round++ {
		cmd := childCommand(t, s, dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		limit := 1 + random.IntN(90)
		for limit > 0 && lines.Scan() {
			seen[lines.Text()]++
			placed, limit = placed+1, limit-1
		}
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		kills++
		if allThere(t, dir, want) || kills > 25 {
			break
		}
	}
	summary := receive(t, s.config(dir))
	if summary.Partly() {
		t.Errorf("last run: %+v", summary)
	}
	equalTrees(t, dir, want)
	for id, times := range seen { // one that was killed before it could tell is not seen
		if times > 1 {
			t.Errorf("transfer %s was placed %d times", id, times)
		}
	}
	t.Logf("%d kills, %d placings of %d files", kills, placed+summary.Files, len(want))
}

func allThere(t *testing.T, dir string, want map[string]string) bool {
	t.Helper()
	for name, content := range want {
		got, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil || string(got) != content {
			return false
		}
	}
	return true
}
