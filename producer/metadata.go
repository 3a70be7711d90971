package producer

import (
	"errors"
	"io/fs"
	"os"
	"sync"

	"mft/protocol"
)

// Metadata says what is sent of files beside content, name, mode and mtime.
type Metadata struct {
	Owner  bool // user and group, by number and name
	Xattrs bool // extended attributes: those of the user, for root the trusted ones, too
}

// owners turns the numbers of users and groups into names.
type owners struct {
	mu     sync.Mutex
	users  map[uint32]string
	groups map[uint32]string
}

const maxKnownOwners = 4096

func (o *owners) of(info fs.FileInfo) *protocol.Owner {
	uid, gid, ok := ownerIDs(info)
	if !ok {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	name := func(known *map[uint32]string, id uint32, lookup func(uint32) string) string {
		text, ok := (*known)[id]
		if !ok {
			if *known == nil || len(*known) >= maxKnownOwners {
				*known = make(map[uint32]string)
			}
			text = lookup(id)
			(*known)[id] = text
		}
		return text
	}
	return &protocol.Owner{UID: uid, GID: gid, User: name(&o.users, uid, userName), Group: name(&o.groups, gid, groupName)}
}

// describe adds what is asked for to a manifest. file may be nil, for what
// cannot be opened.
func (j *fileJob) describe(m *protocol.Manifest, file *os.File, info fs.FileInfo) (err error) {
	if j.run.p.cfg.Metadata.Owner {
		m.Owner = j.run.p.owners.of(info)
	}
	if j.run.p.cfg.Metadata.Xattrs && file != nil {
		m.Xattrs, err = readXattrs(file)
	}
	return err
}

// describeDir is describe for a directory.
func (j *fileJob) describeDir(m *protocol.Manifest, path string, info fs.FileInfo) (err error) {
	if !j.run.p.cfg.Metadata.Xattrs {
		return j.describe(m, nil, info)
	}
	dir, err := openDir(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	return j.describe(m, dir, info)
}

// sendLink sends a symbolic link as what it is.
func (j *fileJob) sendLink(l source) {
	info, err := lstat(l.path)
	if err == nil && info.Mode()&fs.ModeSymlink == 0 {
		err = &changedError{"it is no symbolic link any more"}
	}
	m := protocol.Manifest{Name: l.name, Type: protocol.TypeSymlink}
	if err == nil {
		m.Mode, m.ModTime = protocol.ModeOf(info.Mode()), info.ModTime()
		m.Target, err = linkTarget(l.path)
	}
	if err == nil {
		err = j.describe(&m, nil, info)
	}
	var t *transfer
	if err == nil {
		t, err = j.begin(m, nil)
	}
	if err != nil {
		j.run.failed("", l.name, err)
		return
	}
	t.sendEnd(protocol.End{}, false)
}
