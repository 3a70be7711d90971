package consumer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/gofrs/flock"

	"mft/protocol"
)

// workDir is the hidden directory in the target where files are put together.
// It holds, besides one temporary file per transfer:
//
//	lock    locked by the receiver that works here
//	pid     its process id, for the message to the second one
//	member  its name in the consumer group (instance id), so that a receiver
//	        that was killed and started again takes its partitions back at once
//	placed  which files it is placing: see intents
//	mirrors what is known of growing files: see mirrorDir
//	state   what has arrived of which file: see kept
//
// A receiver that stops cleanly removes all of it, but for intents that nobody
// else knows of yet, and unless files still grow or are open: these stay for
// the next one.
const workDir = ".mft-partial"

const (
	lockFile   = "lock"
	pidFile    = "pid"
	memberFile = "member"
)

// BusyError tells that another receiver works in the directory.
type BusyError struct {
	Dir string
	PID int // 0 when not known
}

func (e *BusyError) Error() string {
	who := "another mft-consume"
	if e.PID > 0 {
		who += fmt.Sprintf(" (process %d)", e.PID)
	}
	return fmt.Sprintf("%s is receiving into %s already: stop it, or choose another directory", who, e.Dir)
}

// work is a workDir that is locked by this process.
type work struct {
	path   string
	root   *os.Root // of the workDir
	dir    *os.File // the same
	fd     int      // of dir, where there is one: asking for it takes two system calls each time
	lock   *flock.Flock
	member string // instance id
	temps  atomic.Int64

	intents *intents
	mirrors *mirrorStore

	left *kept    // by a receiver that is gone; nil: nothing that can be used
	note error    // why it cannot
	stay []string // files that close leaves for the next receiver
}

// tempName is a name for a new temporary file. The id tells a person what it
// is; the number keeps two attempts at one transfer apart.
func (w *work) tempName(id protocol.TransferID) string {
	return string(id) + "." + strconv.FormatInt(w.temps.Add(1), 10)
}

// openWork locks the work directory of the target dir, whose root is given,
// and removes what a killed receiver has left there.
func openWork(dir string, root *os.Root) (*work, error) {
	w := &work{path: filepath.Join(dir, workDir)}
	var err error
	for tries := 0; w.lock == nil; tries++ {
		if tries == 10 {
			return nil, fmt.Errorf("locking %s: another receiver starts and stops there all the time", w.path)
		}
		if w.lock, err = lockDir(dir, w.path, root); err != nil {
			return nil, err
		}
	}
	if w.root, err = root.OpenRoot(workDir); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the work directory: %w", err), w.lock.Unlock())
	}
	// What is kept in it for the next run has to be found there after a power loss.
	if err := syncDir(root, "."); err != nil {
		return nil, errors.Join(fmt.Errorf("making the name of %s durable: %w", w.path, err), w.root.Close(), w.lock.Unlock())
	}
	if w.dir, err = w.root.Open("."); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the work directory: %w", err), w.root.Close(), w.lock.Unlock())
	}
	w.fd = int(w.dir.Fd())
	if w.intents, err = openIntents(w.root, filepath.Join(w.path, placedFile)); err == nil {
		err = w.prepare()
	}
	if err != nil {
		return nil, errors.Join(err, w.dir.Close(), w.root.Close(), w.lock.Unlock())
	}
	return w, nil
}

// lockDir makes and locks the work directory. It returns nil without an error
// when a receiver that stopped removed the lock in between.
func lockDir(dir, path string, root *os.Root) (*flock.Flock, error) {
	if err := root.Mkdir(workDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("making the work directory in %s: %w", dir, err)
	}
	if info, err := root.Lstat(workDir); err == nil && !info.IsDir() {
		return nil, fmt.Errorf("%s is not a directory: remove it, mft-consume works there", path)
	}
	lock := flock.New(filepath.Join(path, lockFile))
	ok, err := lock.TryLock()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	if !ok {
		busy := &BusyError{Dir: dir}
		if text, err := root.ReadFile(workDir + "/" + pidFile); err == nil {
			busy.PID, _ = strconv.Atoi(strings.TrimSpace(string(text))) // 0 when it is being written
		}
		return nil, errors.Join(busy, lock.Close())
	}
	held, err := lock.Stat()
	if err == nil {
		var now os.FileInfo
		if now, err = root.Lstat(workDir + "/" + lockFile); err == nil && os.SameFile(held, now) {
			return lock, nil
		}
	}
	return nil, lock.Unlock()
}

// prepare removes leftovers and writes who works here.
func (w *work) prepare() error {
	w.left, w.note = readKept(w.root)
	keep := []string{lockFile, memberFile, placedFile, mirrorDir, stateFile}
	if w.left != nil {
		w.stay = append(w.stay, stateFile)
		for i := range w.left.Partitions {
			for j := range w.left.Partitions[i].Open {
				temp := w.left.Partitions[i].Open[j].Temp
				keep, w.stay = append(keep, temp), append(w.stay, temp)
				// No temporary file may get the name of one that is there.
				if _, number, ok := strings.Cut(temp, "."); ok {
					if n, err := strconv.ParseInt(number, 10, 64); err == nil {
						w.temps.Store(max(w.temps.Load(), n))
					}
				}
			}
		}
	}
	if err := w.clear(keep...); err != nil {
		return err
	}
	var err error
	if w.mirrors, err = openMirrorStore(w.root); err != nil {
		return err
	}
	if err := w.root.WriteFile(pidFile, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		return fmt.Errorf("writing to %s: %w", w.path, err)
	}
	if text, err := w.root.ReadFile(memberFile); err == nil && strings.HasPrefix(string(text), "mft-") && len(text) < 64 {
		w.member = string(text)
		return nil
	}
	w.member = "mft-" + string(protocol.NewTransferID())
	if err := w.root.WriteFile(memberFile, []byte(w.member), 0o600); err != nil {
		return fmt.Errorf("writing to %s: %w", w.path, err)
	}
	return nil
}

// clear removes everything but the files to keep.
func (w *work) clear(keep ...string) error {
	list, err := fs.ReadDir(w.root.FS(), ".")
	if err != nil {
		return fmt.Errorf("reading %s: %w", w.path, err)
	}
	stays := make(map[string]bool, len(keep))
	for _, name := range keep {
		stays[name] = true
	}
	for _, entry := range list {
		if stays[entry.Name()] {
			continue
		}
		if err := w.root.RemoveAll(entry.Name()); err != nil {
			return fmt.Errorf("removing what is left in %s: %w", w.path, err)
		}
	}
	return nil
}

// close removes the work directory and gives the lock back. The lock's file
// goes while the lock is held, where the system allows that; lockDir notices.
func (w *work) close(root *os.Root) error {
	keep := append([]string{lockFile}, w.stay...)
	stay, err := w.intents.close()
	if stay {
		keep = append(keep, placedFile)
	}
	if !w.mirrors.empty() {
		keep = append(keep, memberFile, mirrorDir)
	}
	errs := []error{err}
	if err == nil {
		errs = append(errs, w.clear(keep...))
	}
	if !w.mirrors.empty() {
		return errors.Join(append(errs, w.dir.Close(), w.root.Close(), w.lock.Unlock())...)
	}
	if removeOpenFiles {
		errs = append(errs, w.root.Remove(lockFile))
	}
	errs = append(errs, w.dir.Close(), w.root.Close())
	if removeOpenFiles {
		errs = append(errs, ignoreTaken(root.Remove(workDir)))
	}
	errs = append(errs, w.lock.Unlock())
	if !removeOpenFiles && !stay && len(w.stay) == 0 && err == nil {
		errs = append(errs, ignoreTaken(root.RemoveAll(workDir)))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cleaning up %s: %w", w.path, err)
	}
	return nil
}

// ignoreTaken drops the error of removing a directory that the next receiver
// has begun to use.
func ignoreTaken(err error) error {
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !isNotEmpty(err) {
		return err
	}
	return nil
}
