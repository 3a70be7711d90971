package cmd_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"mft/internal/commandtest"
)

// allocated is how many bytes a file takes of the disk.
func allocated(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}

// sparseFile makes a file of random bytes at some places and holes elsewhere.
func sparseFile(t *testing.T, path string, size int64, pieces ...[2]int64) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	random := rand.NewChaCha8([32]byte{1})
	for _, piece := range pieces {
		data := make([]byte, piece[1])
		_, err := random.Read(data)
		must(t, err)
		_, err = f.WriteAt(data, piece[0])
		must(t, err)
	}
	must(t, f.Truncate(size), f.Sync(), f.Close())
}

// Holes of files arrive as holes, wherever they are.
func TestSparseFiles(t *testing.T) {
	const mib = 1 << 20
	source := t.TempDir()
	in := func(name string) string { return filepath.Join(source, "d", name) }
	must(t, os.Mkdir(in("."), 0o755))
	huge := filepath.Join(source, "all hole")
	sparseFile(t, huge, 3<<30+1)
	sparseFile(t, in("one hole byte"), 1)
	sparseFile(t, in("begins with one"), 64*mib+4096, [2]int64{64 * mib, 4096})
	sparseFile(t, in("ends with one"), 70*mib+1, [2]int64{0, 5000})
	sparseFile(t, in("in between"), 50*mib, [2]int64{0, 3*mib + 17}, [2]int64{40 * mib, 10 * mib})
	sparseFile(t, in("no hole"), 3*mib, [2]int64{0, 3 * mib})
	var comb, fine [][2]int64
	for i := range int64(64) {
		comb = append(comb, [2]int64{i * mib, 100_000}) // holes that are worth it
		fine = append(fine, [2]int64{i * 16384, 4096})  // and that are not
	}
	sparseFile(t, in("comb"), 64*mib, comb...)
	sparseFile(t, in("fine comb"), 64*16384, fine...)
	if allocated(t, huge) > mib {
		t.Skip("the file system makes no holes")
	}

	key := filepath.Join(t.TempDir(), "key")
	commands.Run(t, "mft-admin", "keygen", "-o", key)
	for _, c := range []struct {
		name             string
		produce, consume []string
	}{
		{"clear", nil, nil},
		{"blake3 over streams", []string{"--digest", "blake3", "--streams", "3"}, nil},
		{"encrypted", []string{"--encrypt-key", key}, []string{"--decrypt-key", key}},
	} {
		t.Run(c.name, func(t *testing.T) {
			data, out := filepath.Join(t.TempDir(), "data"), t.TempDir()
			b := commands.StartBroker(t, data, "")
			commands.Run(t, "mft-produce", append([]string{"-b", b.Addr, "-t", "t", source + "/"}, c.produce...)...)
			commands.Run(t, "mft-consume", append([]string{"-b", b.Addr, "-t", "t", "--dir", out, "--once"}, c.consume...)...)
			commandtest.SameTree(t, in("."), filepath.Join(out, "d"))
			if info, err := os.Stat(filepath.Join(out, "all hole")); err != nil || info.Size() != 3<<30+1 || allocated(t, filepath.Join(out, "all hole")) > mib {
				t.Errorf("all hole: %v, %v", info, err)
			}
			for _, name := range []string{"begins with one", "ends with one", "in between", "comb"} {
				want, got := allocated(t, in(name)), allocated(t, filepath.Join(out, "d", name))
				if got > want+want/8+256<<10 {
					t.Errorf("%s takes %d bytes of the disk, at the source %d", name, got, want)
				}
			}
			b.KillNow()
			var stored int64
			must(t, filepath.WalkDir(data, func(path string, d os.DirEntry, err error) error {
				if err == nil && filepath.Ext(path) == ".log" {
					info, _ := d.Info()
					stored += info.Size()
				}
				return err
			}))
			if stored > 40*mib {
				t.Errorf("%d bytes were sent", stored)
			}
		})
	}
}
