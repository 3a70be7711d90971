package consumer

import (
	"errors"
	"io/fs"
	"os"
	"strings"
)

// An error of the file system is one of three kinds.
//
//   - The name or what stands in its way is wrong (refusal): the file is
//     refused and the rest goes on.
//   - The machine cannot do it now, but may later (passing): a full disk, a
//     missing permission, too many open files. The receiver waits and tries
//     again; nothing is skipped.
//   - Anything else, among it every failed fsync, after which nobody knows what
//     is on the disk: the run fails, with its offset not committed.

// refusal tells why err is the fault of the name, or "" if it is not.
func refusal(err error) string {
	switch {
	case err == nil:
		return ""
	case escapes(err):
		return "it leads out of the directory"
	case errors.Is(err, errLinkedParent):
		return "it is a link, in a directory that is a link itself: --unsafe-links makes it all the same"
	case errors.Is(err, errDirectoryThere):
		return "a directory of that name is in the way"
	case errors.Is(err, errFileThere), isNotDirectory(err):
		return "a file is where a directory is needed"
	case errors.Is(err, fs.ErrExist):
		return "something else of that name is in the way"
	case isBadName(err):
		return "the file system does not accept this name"
	}
	return ""
}

var (
	errDirectoryThere = errors.New("a directory is in the way")
	errFileThere      = errors.New("a file is in the way")
)

// escapes recognizes os.Root's error for a path that leaves the root, which has
// no name of its own in package os. A test pins the text.
func escapes(err error) bool {
	switch e := err.(type) {
	case *os.PathError:
		err = e.Err
	case *os.LinkError:
		err = e.Err
	}
	return err != nil && strings.Contains(err.Error(), "path escapes from parent")
}

// passing tells whether trying again later makes sense.
func passing(err error) bool {
	return isFull(err) || isExhausted(err) || errors.Is(err, fs.ErrPermission)
}

// remedy is what a person can do about a passing error.
func remedy(err error) string {
	switch {
	case isFull(err):
		return "the disk is full: make room, receiving goes on by itself"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied: check owner and mode, receiving goes on by itself"
	}
	return "the system has run out of something: receiving goes on by itself when it is back"
}
