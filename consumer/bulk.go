package consumer

import (
	"fmt"
	"sync/atomic"
	"time"
)

const (
	bulkFrom  = 32               // transfers at the placer, from which on small files share a syncfs
	bulkSlow  = time.Millisecond // for a file: an fsync of each takes less
	bulkPause = 30 * time.Second // after a syncfs that took longer
)

// bulkSync makes many small files durable at once, by a syncfs of the work
// directory's file system, which takes about as long as some ten fsyncs. It also
// waits for what others have written there: where that takes long, each file
// is fsynced for a while instead.
type bulkSync struct {
	fd      int          // of the work directory, open since before the first file was written
	able    bool         // this file system does it, and tells of errors
	pausing atomic.Int64 // until then, Unix ns
}

func newBulkSync(fd int) *bulkSync { return &bulkSync{fd: fd, able: canBulkSync(fd)} }

// wanted tells whether a file need not be fsynced, with so many transfers at the
// placer. Then sync must follow before the file gets its name.
func (b *bulkSync) wanted(size int64, waiting int) bool {
	return b.able && size <= heldBytes && waiting >= bulkFrom && time.Now().UnixNano() >= b.pausing.Load()
}

// sync makes so many files durable. An error is a *syncError, also when it is
// another program's file that could not be written.
func (b *bulkSync) sync(files int) error {
	began := time.Now()
	if err := syncfs(b.fd); err != nil {
		return &syncError{fmt.Errorf("making %d files durable at once (syncfs): %w", files, err)}
	}
	if took := time.Since(began); took > max(20, time.Duration(files))*bulkSlow {
		b.pausing.Store(time.Now().Add(bulkPause).UnixNano())
	}
	return nil
}

// makeDurable makes the files of a group durable that a worker has left so.
func (p *placer) makeDurable(group []*placeJob) {
	if p.noSync {
		return
	}
	files := 0
	for _, job := range group {
		if job.err == nil && job.unsynced {
			files++
		}
	}
	if files == 0 {
		return
	}
	err := p.bulk.sync(files)
	for _, job := range group {
		if job.err == nil && job.unsynced {
			job.err = err
		}
	}
}

// atLeast tells whether a kernel's release, as "6.1.0-13-amd64", is that version
// or a later one.
func atLeast(release string, major, minor int) bool {
	var a, b int
	if n, err := fmt.Sscanf(release, "%d.%d", &a, &b); n != 2 || err != nil {
		return false
	}
	return a > major || a == major && b >= minor
}
