package producer

import (
	"io/fs"
	"syscall"
)

func (s *stamp) system(info fs.FileInfo) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.ctime, s.inode, s.dev = st.Ctim.Nano(), st.Ino, st.Dev
	}
}
