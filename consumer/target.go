package consumer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// target is the directory that files are placed in. All names are relative to
// it, with slashes, and are resolved by os.Root, so that neither "..", nor an
// absolute name, nor a symlink leads out of it.
//
// Files are placed in groups: place and placeDir for each, then settle, which
// makes all of them durable with one fsync per directory. It is used by one
// goroutine at a time.
type target struct {
	dir  string // absolute, for messages
	root *os.Root
	work *work

	there   map[string]bool        // directories known to be there; "." is not kept
	wanted  map[string]attributes  // what received directories are to look like, by name: placing a file in one changes its mtime
	changed map[string]bool        // directories whose entries changed since settle
	opened  map[string]fs.FileMode // directories made writable since settle, and their mode before
	digests map[string]known       // of files that were compared, by name

	keep   metadataSetter
	noSync bool // see FilesConfig.NoSync

	top         handle             // of dir
	handles     map[string]*handle // of directories below, by name
	handleOrder []string           // of those, oldest first
}

const (
	maxKnownDirs = 1 << 16 // in the maps, which are emptied when they grow beyond
	dirSyncers   = 8       // fsyncs of directories at the same time
)

// openTarget makes dir if need be, and takes it for this process.
func openTarget(dir string) (*target, error) {
	if dir == "" {
		return nil, errors.New("no directory given to receive into")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("directory %s: %w", dir, err)
	}
	if err := os.MkdirAll(abs, 0o777); err != nil {
		return nil, fmt.Errorf("making the directory to receive into: %w", err)
	}
	root, err := os.OpenRoot(abs)
	if err != nil {
		return nil, fmt.Errorf("opening the directory to receive into: %w", err)
	}
	work, err := openWork(abs, root)
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	t := &target{dir: abs, root: root, work: work, top: handle{root: root}}
	t.keep.note = func(string, string) {}
	t.forget()
	t.changed = make(map[string]bool)
	t.opened = make(map[string]fs.FileMode)
	return t, nil
}

// close removes the work directory.
func (t *target) close() error {
	return errors.Join(t.closeHandles(), t.work.close(t.root), t.top.close())
}

func (t *target) forget() {
	t.there = make(map[string]bool)
	t.wanted = make(map[string]attributes)
}

// checkReserved refuses names in the work directory, in any spelling that a
// file system without regard for case takes for it.
func checkReserved(name string) error {
	first, _, _ := strings.Cut(name, "/")
	if strings.HasPrefix(strings.ToLower(first), workDir) {
		return fmt.Errorf("names that begin with %s are mft's own", workDir)
	}
	return nil
}

// place gives the finished temporary file its name. A file that has it is
// replaced, or, without replace, the error is errNameTaken. It is not durable
// before settle.
func (t *target) place(temp, name string, replace bool) error {
	parent := path.Dir(name)
	move := func() error {
		if err := t.makeDir(parent); err != nil {
			return err
		}
		to, err := t.handle(parent)
		if err != nil {
			return err
		}
		if !replace {
			return t.placeNew(temp, to, name)
		}
		err = t.rename(temp, to, path.Base(name), name)
		if errors.Is(err, fs.ErrExist) || err != nil && t.isDir(name) {
			return errDirectoryThere
		}
		return err
	}
	err := move()
	if errors.Is(err, fs.ErrNotExist) { // somebody removed a directory that was there
		if err = t.lost(); err == nil {
			err = move()
		}
	}
	if errors.Is(err, fs.ErrPermission) && t.makeWritable(parent) {
		err = move()
	}
	if err != nil {
		return err
	}
	t.changed[parent] = true
	return nil
}

// placeDir makes the directory, or takes one that is there, and gives it its
// attributes at the next settle and whenever files are placed in it later.
func (t *target) placeDir(name string, attrs attributes) error {
	name = path.Clean(name)
	err := t.makeDir(name)
	if errors.Is(err, fs.ErrNotExist) {
		if err = t.lost(); err == nil {
			err = t.makeDir(name)
		}
	}
	if errors.Is(err, fs.ErrPermission) && t.makeWritable(path.Dir(name)) {
		err = t.makeDir(name)
	}
	if err != nil {
		return err
	}
	if !t.isDir(name) {
		return errFileThere
	}
	t.wanted[name] = attrs
	t.changed[name] = true
	return nil
}

// makeDir makes the directory and its parents where they are missing.
func (t *target) makeDir(name string) error {
	if name == "." || t.there[name] {
		return nil
	}
	if err := t.makeDir(path.Dir(name)); err != nil {
		return err
	}
	parent, base, err := t.in(name)
	if err != nil {
		return err
	}
	err = parent.Mkdir(base, 0o777)
	switch {
	case err == nil:
		t.changed[path.Dir(name)] = true
	case errors.Is(err, fs.ErrExist):
		info, statErr := t.stat(name)
		if statErr != nil && !errors.Is(statErr, fs.ErrNotExist) {
			return statErr
		}
		if statErr != nil || !info.IsDir() { // a symlink to nothing, or no directory
			return errFileThere
		}
	default:
		return err
	}
	t.there[name] = true
	return nil
}

// stat follows a symbolic link, within the root.
func (t *target) stat(name string) (fs.FileInfo, error) {
	parent, base, err := t.in(name)
	if err != nil {
		return nil, err
	}
	info, err := parent.Stat(base)
	if escapes(err) { // leads elsewhere within the target, maybe
		return t.root.Stat(name)
	}
	return info, err
}

func (t *target) isDir(name string) bool {
	info, err := t.stat(name)
	return err == nil && info.IsDir()
}

// makeWritable lets this user work in name and its parents, where a received
// directory is read-only. Settle undoes it. It returns whether anything was
// changed.
func (t *target) makeWritable(name string) bool {
	changed := false
	for _, dir := range upTo(name) {
		info, err := t.root.Stat(dir)
		if err != nil || info.Mode().Perm()&0o300 == 0o300 {
			continue
		}
		if err := t.root.Chmod(dir, info.Mode().Perm()|0o700); err != nil {
			continue // not ours: the first error is the one to tell
		}
		if _, ok := t.opened[dir]; !ok {
			t.opened[dir] = info.Mode().Perm()
		}
		changed = true
	}
	return changed
}

// upTo lists the directories on the way to name and name itself, top first.
func upTo(name string) []string {
	var list []string
	for ; name != "."; name = path.Dir(name) {
		list = append(list, name)
	}
	slices.Reverse(list)
	return list
}

// settle gives directories their attributes and makes everything placed since
// the last call durable. An error means that nobody knows what is durable.
func (t *target) settle() error {
	for dir, mode := range t.opened {
		if _, ok := t.wanted[dir]; !ok {
			t.wanted[dir] = attributes{mode: mode}
		}
		t.changed[dir] = true
	}
	dirs := make([]string, 0, len(t.changed))
	for dir := range t.changed {
		dirs = append(dirs, dir)
	}
	// Deepest first: a directory that becomes unreadable hides what is below.
	slices.SortFunc(dirs, func(a, b string) int { return strings.Count(b, "/") - strings.Count(a, "/") })

	// The attributes of a directory that this user may not read or enter must
	// wait until it is synced; the others come first, to be synced with it.
	var group errgroup.Group
	group.SetLimit(dirSyncers)
	var late []string
	for _, dir := range dirs {
		attrs, ok := t.wanted[dir]
		if ok && attrs.mode&0o500 != 0o500 {
			late = append(late, dir)
		} else if ok {
			if err := t.setAttrs(dir, attrs); err != nil {
				return errors.Join(err, group.Wait())
			}
		}
	}
	for _, dir := range dirs {
		sync, err := t.openToSync(dir)
		if err != nil {
			return errors.Join(fmt.Errorf("making directory entries durable: %w", err), group.Wait())
		}
		group.Go(sync)
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("making directory entries durable: %w", err)
	}
	for _, dir := range late {
		if err := t.setAttrs(dir, t.wanted[dir]); err != nil {
			return err
		}
	}
	if err := t.closeHandles(); err != nil {
		return fmt.Errorf("closing directories: %w", err)
	}
	clear(t.changed)
	clear(t.opened)
	if len(t.there) > maxKnownDirs || len(t.wanted) > maxKnownDirs {
		t.forget()
	}
	return nil
}

// openToSync opens a directory and returns what makes its entries durable.
func (t *target) openToSync(dir string) (sync func() error, err error) {
	if !canSyncDirs || t.noSync {
		return func() error { return nil }, nil
	}
	parent, base := t.root, dir
	if dir != "." {
		parent, base, err = t.in(dir)
	}
	var file *os.File
	if err == nil {
		if file, err = parent.Open(base); escapes(err) {
			file, err = t.root.Open(dir)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return func() error { return nil }, nil // removed by somebody else meanwhile
	}
	if err != nil {
		return nil, err
	}
	return func() error { return errors.Join(file.Sync(), file.Close()) }, nil
}

// setAttrs sets mode and mtime. A directory that is gone, or that belongs to
// somebody else, is left as it is.
func (t *target) setAttrs(dir string, attrs attributes) error {
	parent, base, err := t.in(dir)
	if err == nil {
		if err = t.setAttrsIn(parent, base, dir, attrs); escapes(err) { // a link that leads elsewhere within the target
			err = t.setAttrsIn(t.root, dir, dir, attrs)
		}
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("setting mode and mtime of %s: %w", dir, err)
	}
	return nil
}

func (t *target) setAttrsIn(parent *os.Root, base, dir string, attrs attributes) (err error) {
	if len(attrs.xattrs) > 0 {
		file, err := parent.Open(base)
		if err != nil {
			return err
		}
		t.keep.setXattrs(dir, file, attrs.xattrs)
		if err := file.Close(); err != nil {
			return err
		}
	}
	t.keep.setOwner(dir, attrs.owner, func(uid, gid int) error {
		if err = parent.Chown(base, uid, gid); errors.Is(err, fs.ErrNotExist) || escapes(err) {
			return nil // told by the next step
		}
		return err
	})
	err = parent.Chmod(base, attrs.mode)
	if err == nil && !attrs.mtime.IsZero() {
		err = parent.Chtimes(base, time.Time{}, attrs.mtime)
	}
	return err
}
