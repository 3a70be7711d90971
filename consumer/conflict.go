package consumer

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"strings"
	"time"
	"unicode/utf8"

	"mft/protocol"
)

// Conflict says what becomes of a file that arrives when another one has its
// name already. A file with the same content is no other one: it is left as it
// is and counts as placed, so that what is received twice is there once.
type Conflict string

// The values of Conflict.
const (
	ConflictOverwrite Conflict = "overwrite" // it takes the place of the other, in one step
	ConflictRename    Conflict = "rename"    // it is placed beside it: "name (1).ext"
	ConflictSkip      Conflict = "skip"      // it is left out, and told as skipped
	ConflictFail      Conflict = "fail"      // it is left out, and counts as refused
)

func (c Conflict) check() error {
	switch c {
	case "", ConflictOverwrite, ConflictRename, ConflictSkip, ConflictFail:
		return nil
	}
	return fmt.Errorf("on conflict %q: use overwrite, rename, skip or fail", string(c))
}

// maxRenames is how many files of one name are kept beside each other.
const maxRenames = 10_000

// verdict is what the rule for conflicts makes of one file.
type verdict struct {
	as   string // the name it gets
	same bool   // a file with its content has that name already: there is nothing to rename
	skip bool   // it is left out
}

// decide looks at what has the file's name and tells which name it gets. By the
// rule of overwriting that is its own, whatever is there. The error is a
// *RefusedError or one of the file system.
func (t *target) decide(f *transfer, rule Conflict) (verdict, error) {
	if rule == "" || rule == ConflictOverwrite {
		return verdict{as: f.name}, nil
	}
	for n := range maxRenames {
		name := numbered(f.name, n)
		info, err := t.lstat(name)
		if errors.Is(err, fs.ErrPermission) && t.makeWritable(path.Dir(name)) {
			info, err = t.lstat(name)
		}
		if errors.Is(err, fs.ErrNotExist) || err != nil && isNotDirectory(err) { // the latter is told by place
			return verdict{as: name}, nil
		}
		if err != nil {
			return verdict{}, err
		}
		if !info.IsDir() {
			same, err := t.same(f, name, info)
			if err != nil || same {
				return verdict{as: name, same: same}, err
			}
		}
		switch {
		case rule == ConflictRename:
		case info.IsDir():
			return verdict{}, errDirectoryThere
		case rule == ConflictSkip:
			return verdict{as: name, skip: true}, nil
		default:
			return verdict{}, &RefusedError{Name: f.name, Reason: "another file of that name is there"}
		}
	}
	return verdict{}, &RefusedError{Name: f.name, Reason: fmt.Sprintf("there are %d other files of that name", maxRenames)}
}

// known is the digest of a file that was compared, for as long as it is not
// written to.
type known struct {
	size   int64
	mtime  time.Time
	kind   string
	digest string
}

const maxKnownDigests = 4096

// same tells whether the file called name has the content of f.
func (t *target) same(f *transfer, name string, info fs.FileInfo) (bool, error) {
	if f.link != "" {
		if info.Mode()&fs.ModeSymlink == 0 {
			return false, nil
		}
		parent, base, err := t.in(name)
		if err != nil {
			return false, err
		}
		to, err := parent.Readlink(base)
		return to == localTarget(f.link, runtime.GOOS), err
	}
	if !info.Mode().IsRegular() || info.Size() != f.size {
		return false, nil
	}
	if f.end.Digest == "" {
		return t.sameBytes(f, name)
	}
	kind := cmp.Or(f.algorithm, protocol.DigestXXH3)
	k, ok := t.digests[name]
	if !ok || k.size != info.Size() || !k.mtime.Equal(info.ModTime()) || k.kind != kind {
		digest, err := t.digestOf(name, kind)
		if err != nil {
			return false, err
		}
		if len(t.digests) >= maxKnownDigests || t.digests == nil {
			t.digests = make(map[string]known)
		}
		k = known{info.Size(), info.ModTime(), kind, digest}
		t.digests[name] = k
	}
	return k.digest == f.end.Digest, nil
}

func (t *target) digestOf(name, kind string) (digest string, err error) {
	hash, err := protocol.NewDigest(kind)
	if err != nil {
		return "", err
	}
	file, err := t.open(name)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err := io.Copy(hash, file); err != nil {
		return "", fmt.Errorf("reading %q to compare it: %w", name, err)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// sameBytes compares a file that came without a digest.
func (t *target) sameBytes(f *transfer, name string) (same bool, err error) {
	there, err := t.open(name)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, there.Close()) }()
	came, err := t.work.root.Open(f.temp)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, came.Close()) }()
	a, b := make([]byte, 256<<10), make([]byte, 256<<10)
	for {
		n, errA := io.ReadFull(there, a)
		m, errB := io.ReadFull(came, b)
		if !bytes.Equal(a[:n], b[:m]) {
			return false, nil
		}
		for _, err := range []error{errA, errB} {
			if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
				return false, fmt.Errorf("reading %q to compare it: %w", name, err)
			}
		}
		if errA != nil || errB != nil {
			return errA == errB, nil
		}
	}
}

func (t *target) lstat(name string) (fs.FileInfo, error) {
	parent, base, err := t.in(name)
	if err != nil {
		return nil, err
	}
	return parent.Lstat(base)
}

func (t *target) open(name string) (*os.File, error) {
	parent, base, err := t.in(name)
	if err != nil {
		return nil, err
	}
	return parent.Open(base)
}

// numbered is the name of the n-th file beside the one called name, which has
// number 0: "dir/report (1).pdf", "archive (2).tar.gz", ".profile (3)".
func numbered(name string, n int) string {
	if n == 0 {
		return name
	}
	dir, base := path.Split(name)
	stem := strings.TrimSuffix(base, path.Ext(base))
	if tar := strings.TrimSuffix(stem, ".tar"); tar != "" {
		stem = tar
	}
	if stem == "" { // ".profile" has no extension
		stem = base
	}
	ext := base[len(stem):]
	number := fmt.Sprintf(" (%d)", n)
	if room := maxNamePart - len(number) - len(ext); len(stem) > room {
		if room < 1 { // an extension that is most of the name
			stem, ext, room = base, "", maxNamePart-len(number)
		}
		for room > 0 && !utf8.RuneStart(stem[room]) {
			room--
		}
		stem = stem[:room]
	}
	return dir + stem + number + ext
}

const maxNamePart = 255 // bytes

// placeNew gives the temporary file a name that nothing has. The error is
// errNameTaken when something has it all the same. A file system that can
// neither do that in one step nor by a link leaves a moment in which another
// program could take the name.
func (t *target) placeNew(temp string, to *handle, name string) error {
	ok, err := t.renameNew(temp, to, path.Base(name))
	if ok {
		if errors.Is(err, fs.ErrExist) {
			return errNameTaken
		}
		return err
	}
	switch err := t.root.Link(workDir+"/"+temp, name); {
	case err == nil:
		return t.work.root.Remove(temp)
	case errors.Is(err, fs.ErrExist):
		return errNameTaken
	case errors.Is(err, fs.ErrNotExist):
		return err
	}
	if _, err := to.root.Lstat(path.Base(name)); err == nil {
		return errNameTaken
	}
	return t.root.Rename(workDir+"/"+temp, name)
}

var errNameTaken = errors.New("something has taken the name meanwhile")
