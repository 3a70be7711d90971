package consumer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
	"strings"
	"sync"
	"time"

	"mft/protocol"
)

// Metadata says what is taken over of files beside content, mode and mtime.
type Metadata struct {
	// Owner gives files the owner and group that they came with: by the names,
	// where this system knows them, else by the numbers. It takes root or
	// CAP_CHOWN; without, that is told once, and the group is set where this
	// user is a member.
	Owner bool
	// Xattrs gives files the extended attributes that they came with: those of
	// the user, and for root the trusted ones. Others, such as capabilities and
	// what SELinux has, are the receiver's own affair.
	Xattrs bool
	// UnsafeLinks makes symbolic links also when they are absolute or lead out
	// of the directory, so that what opens them later leaves it.
	UnsafeLinks bool
}

// attributes are those of one file, directory or link.
type attributes struct {
	mode   fs.FileMode
	mtime  time.Time // zero: leave it
	owner  *protocol.Owner
	xattrs protocol.Xattrs
}

// metadataSetter gives files what is to be taken over of their metadata. What cannot
// be is told, never an error: a file without its owner is better than none.
type metadataSetter struct {
	Metadata
	note func(name, what string) // tells something about a file that is placed all the same

	mu     sync.Mutex
	uids   map[string]int // by user name; -1: not known here
	gids   map[string]int
	unable bool // to set owners, and it was told
	plain  bool // the file system has no attributes, and it was told
}

const maxKnownOwners = 4096

// attributes are what is taken over of a manifest.
func (k *metadataSetter) attributes(m *protocol.Manifest) attributes {
	// setuid, setgid and sticky are not taken over: a topic is not a place to
	// hand out the receiver's privileges.
	a := attributes{mode: fs.FileMode(m.Mode) & fs.ModePerm, mtime: m.ModTime}
	if k.Owner {
		a.owner = m.Owner
	}
	if k.Xattrs {
		a.xattrs = m.Xattrs
	}
	return a
}

// ids are the numbers of an owner here.
func (k *metadataSetter) ids(o *protocol.Owner) (uid, gid int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	look := func(known *map[string]int, name string, number uint32, lookup func(string) int) int {
		if name == "" {
			return int(number)
		}
		id, ok := (*known)[name]
		if !ok {
			if *known == nil || len(*known) >= maxKnownOwners {
				*known = make(map[string]int)
			}
			id = lookup(name)
			(*known)[name] = id
		}
		if id < 0 {
			return int(number)
		}
		return id
	}
	return look(&k.uids, o.User, o.UID, lookupUser), look(&k.gids, o.Group, o.GID, lookupGroup)
}

// setOwner gives an entry its owner by chown.
func (k *metadataSetter) setOwner(name string, o *protocol.Owner, chown func(uid, gid int) error) {
	if o == nil {
		return
	}
	uid, gid := k.ids(o)
	err := chown(uid, gid)
	if errors.Is(err, fs.ErrPermission) {
		if err = chown(-1, gid); err == nil && uid == os.Geteuid() {
			return
		}
		if k.once(&k.unable) {
			k.note(name, "its owner cannot be set, nor those of others: run mft-consume as root, or with CAP_CHOWN, for --owner")
		}
		return
	}
	if err != nil && k.once(&k.unable) {
		k.note(name, fmt.Sprintf("its owner cannot be set: %v", err))
	}
}

// setXattrs gives an open file its extended attributes.
func (k *metadataSetter) setXattrs(name string, f *os.File, list protocol.Xattrs) {
	for attr, value := range list {
		local, ok := localXattr(attr)
		if !ok {
			k.note(name, fmt.Sprintf("its attribute %q is left out: only those of the user are set, and for root the trusted ones", attr))
			continue
		}
		err := setXattr(f, local, value)
		if isUnsupported(err) {
			if k.once(&k.plain) {
				k.note(name, "its extended attributes are left out, and those of others: the file system has none")
			}
			return
		}
		if err != nil {
			k.note(name, fmt.Sprintf("its attribute %q is left out: %v", attr, err))
		}
	}
}

// once returns true the first time.
func (k *metadataSetter) once(told *bool) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	first := !*told
	*told = true
	return first
}

// checkLink tells what is wrong with a symbolic link called name, below the
// directory, that leads to target. One that is not refused leads to something
// below the directory, whatever other such links are on its way: it is
// relative, and goes up only at its beginning and no further than the
// directory. See also target.realParents.
func checkLink(name, target string) error {
	if target[0] == '/' || target[0] == '\\' || len(target) > 1 && target[1] == ':' {
		return fmt.Errorf("it is a link to %q, which is absolute: --unsafe-links makes it all the same", target)
	}
	up, down := 0, false
	for part := range strings.FieldsFuncSeq(target, func(c rune) bool { return c == '/' || c == '\\' }) {
		switch {
		case part == ".":
		case part != "..":
			down = true
		case down:
			return fmt.Errorf("it is a link to %q, which goes up after it went down: --unsafe-links makes it all the same", target)
		default:
			up++
		}
	}
	if up > strings.Count(name, "/") {
		return fmt.Errorf("it is a link to %q, which leads out of the directory: --unsafe-links makes it all the same", target)
	}
	return nil
}

// localTarget is the target of a link as this system writes it.
func localTarget(target, goos string) string {
	parts := strings.Split(target, "/")
	for i, part := range parts {
		if part != "." && part != ".." {
			parts[i] = protocol.LocalName(part, goos)
		}
	}
	separator := "/"
	if goos == "windows" {
		separator = `\`
	}
	return strings.Join(parts, separator)
}

// errLinkedParent refuses a link in a directory that is a link itself: where
// it would lead from there is not what its name says.
var errLinkedParent = errors.New("a link's directory is a link itself")

// realParents checks that no directory on the way to name is a link.
func (t *target) realParents(name string) error {
	for _, dir := range upTo(path.Dir(name)) {
		info, err := t.lstat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			return errLinkedParent
		}
	}
	return nil
}

// prepareLink makes the temporary link.
func (t *transfer) prepareLink() error {
	root := t.part.target.work.root
	if t.temp == "" {
		temp := t.part.target.work.tempName(t.id)
		err := root.Symlink(localTarget(t.link, runtime.GOOS), temp)
		if err != nil && (isUnsupported(err) || errors.Is(err, fs.ErrPermission)) {
			return &RefusedError{Name: t.name, Reason: fmt.Sprintf("it is a symbolic link, and none can be made here: %v", err)}
		}
		if err != nil {
			return fmt.Errorf("temporary link of %q: %w", t.name, err)
		}
		t.temp = temp
	}
	t.part.target.keep.setOwner(t.name, t.attrs.owner, func(uid, gid int) error { return root.Lchown(t.temp, uid, gid) })
	if t.attrs.mtime.IsZero() {
		return nil
	}
	if err := t.part.target.work.setTime(t.temp, t.attrs.mtime); err != nil && !isUnsupported(err) {
		return fmt.Errorf("mtime of %q: %w", t.name, err)
	}
	return nil
}

// setAttributes gives the temporary file what is to be taken over. The mode
// comes last but for the time: it may forbid the rest.
func (t *transfer) setAttributes() error {
	keep := &t.part.target.keep
	keep.setOwner(t.name, t.attrs.owner, t.file.Chown)
	keep.setXattrs(t.name, t.file, t.attrs.xattrs)
	if err := t.file.Chmod(t.attrs.mode); err != nil {
		return fmt.Errorf("mode of %q: %w", t.name, err)
	}
	if t.attrs.mtime.IsZero() {
		return nil
	}
	if err := t.part.target.work.setTime(t.temp, t.attrs.mtime); err != nil {
		return fmt.Errorf("mtime of %q: %w", t.name, err)
	}
	return nil
}
