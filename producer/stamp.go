package producer

import "io/fs"

// stamp is what tells a file from what it was before, without reading it.
type stamp struct {
	size  int64  // bytes
	mtime int64  // Unix ns
	ctime int64  // Unix ns; 0 where the system has none
	inode uint64 // 0 where the system does not tell it unasked
	dev   uint64
}

func stampOf(info fs.FileInfo) stamp {
	s := stamp{size: info.Size(), mtime: info.ModTime().UnixNano()}
	s.system(info)
	return s
}

// sameContent tells whether the two are of the same length and were last
// written at the same time; nothing else is a reason to look closer.
func (s stamp) sameContent(o stamp) bool { return s.size == o.size && s.mtime == o.mtime }
