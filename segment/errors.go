package segment

import (
	"errors"
	"fmt"
	"path/filepath"
)

var (
	// ErrClosed is returned by operations on a store or log that was closed, or on a log that was deleted.
	ErrClosed = errors.New("segment: closed")
	// ErrOffsetOutOfRange is returned by Read for an offset before the log's start or after its end.
	ErrOffsetOutOfRange = errors.New("segment: offset out of range")
	// ErrOutOfOrderSequence is returned by Append when an idempotent producer's sequence number leaves a gap or goes back to
	// something that was never written.
	ErrOutOfOrderSequence = errors.New("segment: sequence number out of order")
	// ErrInvalidProducerEpoch is returned by Append to a producer that was fenced by one with the same id and a higher epoch.
	ErrInvalidProducerEpoch = errors.New("segment: producer epoch is older than the last one seen")
	// ErrDuplicateSequence is returned by Append for a batch that was certainly written before, but so long ago that its
	// offsets are no longer remembered.
	ErrDuplicateSequence = errors.New("segment: batch was written before, its offsets are no longer known")
	// ErrFailed is what everything returns, with the reason, after a failed fsync: see Store.Failed. Whether the last operations are on
	// the disk is found out at the next start.
	ErrFailed = errors.New("segment: storage failure")
)

// InUseError says that another process has the data directory open.
type InUseError struct {
	Dir string
	PID int // of the holder; 0 when unknown
}

func (e *InUseError) Error() string {
	by := "another process"
	if e.PID > 0 {
		by = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("data directory %s is in use by %s: stop it, or choose another directory", e.Dir, by)
}

// FormatError says that a data directory was written by a newer version of this program.
type FormatError struct {
	File      string
	Version   uint32 // found
	Supported uint32 // the newest that this program understands
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("%s has format version %d, this program understands up to %d: use the newer program that wrote it", e.File, e.Version, e.Supported)
}

// CorruptionError says that stored bytes are not what was written. Nothing was changed on disk.
type CorruptionError struct {
	Dir    string // directory of the log, the journal or the store
	File   string // file name in Dir; empty when it is about the whole directory
	Offset int64  // byte position in File
	Reason string
}

func (e *CorruptionError) Error() string {
	return fmt.Sprintf("damaged data in %s at byte %d: %s", filepath.Join(e.Dir, e.File), e.Offset, e.Reason)
}

// StorageError is a failed write that was undone: the log or journal is as it was before, and the operation may be tried again,
// when there is room for instance.
type StorageError struct {
	Op   string // what was tried, such as "append"
	Path string
	Err  error
}

func (e *StorageError) Error() string {
	return fmt.Sprintf("%s to %s: %v (nothing was changed; free some space or check the device, then try again)", e.Op, e.Path, e.Err)
}

// Unwrap returns the error of the operating system.
func (e *StorageError) Unwrap() error { return e.Err }
