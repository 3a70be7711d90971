package commandtest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
)

// Tree describes every entry below dir, one a line: name, kind, mode, mtime
// to the nanosecond, and for files size and SHA-256. Two trees are equal when
// their descriptions are.
func Tree(t testing.TB, dir string) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s %v %d", filepath.ToSlash(name), info.Mode(), info.ModTime().UnixNano())
		if info.Mode().IsRegular() {
			sum, err := Sum(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %s", info.Size(), sum)
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(lines)
	return lines
}

// SameTree fails the test when the trees below two directories differ in
// anything, and says in what.
func SameTree(t testing.TB, want, got string) {
	t.Helper()
	w, g := Tree(t, want), Tree(t, got)
	missing, extra := subtract(w, g), subtract(g, w)
	if len(missing)+len(extra) == 0 {
		return
	}
	cut := func(lines []string) string {
		if len(lines) > 5 {
			return strings.Join(lines[:5], "\n\t") + fmt.Sprintf("\n\t… and %d more", len(lines)-5)
		}
		return strings.Join(lines, "\n\t")
	}
	t.Errorf("trees differ: %d entries sent, %d received\nnot received as sent:\n\t%s\nreceived but not sent so:\n\t%s", len(w), len(g), cut(missing), cut(extra))
}

func subtract(a, b []string) []string {
	in := make(map[string]bool, len(b))
	for _, s := range b {
		in[s] = true
	}
	var rest []string
	for _, s := range a {
		if !in[s] {
			rest = append(rest, s)
		}
	}
	return rest
}

// Sum is the SHA-256 of a file, in hexadecimal.
func Sum(path string) (sum string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// RandomFile writes size random bytes to path; the same seed writes the same.
func RandomFile(t testing.TB, path string, size int64, seed uint64) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	if _, err := io.CopyN(f, rand.NewChaCha8(key), size); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// RandomTree writes n files of up to maxSize random bytes each, a hundred to
// a directory, and an empty file and an empty directory besides.
func RandomTree(t testing.TB, dir string, n int, maxSize int64, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	for i := range n {
		RandomFile(t, filepath.Join(dir, fmt.Sprintf("d%03d", i/100), fmt.Sprintf("f%05d", i)), rng.Int64N(maxSize+1), seed+uint64(i))
	}
	if err := os.MkdirAll(filepath.Join(dir, "empty", "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	RandomFile(t, filepath.Join(dir, "empty", "file"), 0, seed)
}
