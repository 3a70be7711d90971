package checkup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/dustin/go-humanize"
)

const (
	maxLookedAt  = 20_000 // entries of a source: a checkup of millions would take hours
	fewOpenFiles = 256    // that a command may need
	wantedFiles  = 1024   // and what a broker does with few partitions
)

func (r *run) secret(s Secret) {
	notes, err := s.Check()
	switch {
	case err != nil:
		remedy := "make one with 'mft-admin keygen', or correct the file's name"
		if errors.Is(err, fs.ErrPermission) {
			remedy = "give the user that runs the command the right to read it"
		}
		r.fail(Key, s.Path, err.Error(), remedy)
	case len(notes) > 0:
		for _, note := range notes {
			r.warn(Key, s.Path, note, "chmod 600 "+s.Path)
		}
	default:
		r.ok(Key, s.Path, "can be read, by its owner only")
	}
}

// source looks whether what is to be sent is there and can be read.
func (r *run) source(ctx context.Context, path string) {
	info, err := os.Stat(path)
	if err != nil {
		remedy := "correct the path; it is relative to the directory that the command is started in"
		if errors.Is(err, fs.ErrPermission) {
			remedy = "give the sending user the right to search the directories above it"
		}
		r.fail(Source, path, err.Error(), remedy)
		return
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		r.fail(Source, path, "it is neither a file nor a directory", "name the file itself")
		return
	}
	var files, dirs, unreadable int
	var bytes int64
	var first error
	err = filepath.WalkDir(path, func(at string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			err = readable(at)
			if info, statErr := d.Info(); statErr == nil {
				bytes += info.Size()
			}
			files++
		}
		if err == nil && d.IsDir() {
			dirs++
		}
		switch {
		case err != nil && errors.Is(err, fs.ErrNotExist): // gone meanwhile
		case err != nil:
			if unreadable++; first == nil {
				first = err
			}
			if d != nil && d.IsDir() {
				return fs.SkipDir
			}
		}
		if files+dirs >= maxLookedAt {
			return fs.SkipAll
		}
		return ctx.Err()
	})
	text := fmt.Sprintf("%d files, %d directories, %s", files, dirs, humanize.Bytes(uint64(bytes)))
	if files+dirs >= maxLookedAt {
		text = "the first " + text
	}
	switch {
	case err != nil:
		r.fail(Source, path, err.Error(), "run the check again")
	case unreadable > 0:
		r.fail(Source, path, fmt.Sprintf("%d of %s cannot be read: %v", unreadable, text, first), "give the sending user the right to read them")
	default:
		r.ok(Source, path, text+", all of which can be read")
	}
}

// directory looks whether a directory can be written to, or made, and what is free there.
func (r *run) directory(check, dir, remedy string) {
	at, err := existing(dir)
	if err == nil {
		err = writable(at)
	}
	switch {
	case errors.Is(err, syscall.EROFS):
		r.fail(check, dir, "it is on a file system that is mounted for reading only", "mount it for writing, or choose another directory")
		return
	case err != nil:
		r.fail(check, dir, err.Error(), remedy)
		return
	case at != dir:
		r.ok(check, dir, "is not there yet and can be made in "+at)
	default:
		r.ok(check, dir, "can be written to")
	}
	free, files, err := available(at)
	switch {
	case err != nil:
		r.warn(Space, dir, fmt.Sprintf("how much is free is not to be had: %v", err), "look yourself")
	case free < uint64(max(r.MinFree, 0)):
		r.fail(Space, dir, fmt.Sprintf("%s are free, %s are wanted", humanize.Bytes(free), humanize.Bytes(uint64(r.MinFree))),
			"make room, choose another disk, or want less with --min-free")
	case files >= 0 && files < 1000:
		r.fail(Space, dir, fmt.Sprintf("room for %d more files (inodes)", files), "remove files, or choose another disk")
	default:
		r.ok(Space, dir, humanize.Bytes(free)+" are free")
	}
}

// existing is dir, or the nearest directory above it that is there.
func existing(dir string) (string, error) {
	for at := dir; ; {
		info, err := os.Stat(at)
		if err == nil && !info.IsDir() {
			return "", fmt.Errorf("%s is a file, a directory is needed", at)
		}
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return at, err
		}
		parent := filepath.Dir(at)
		if parent == at {
			return "", err
		}
		at = parent
	}
}

// openFiles looks at the limit that a process of this user has.
func (r *run) openFiles() {
	limit, ok := openFilesLimit()
	const subject = "this user"
	remedy := "raise it: 'ulimit -n', /etc/security/limits.conf, LimitNOFILE= of a systemd unit"
	switch {
	case !ok:
	case limit < fewOpenFiles:
		r.fail(OpenFiles, subject, fmt.Sprintf("a process may have %d open", limit), remedy)
	case limit < wantedFiles && r.Data != "":
		r.warn(OpenFiles, subject, fmt.Sprintf("a process may have %d open, and each partition of a broker takes one", limit), remedy)
	default:
		r.ok(OpenFiles, subject, fmt.Sprintf("a process may have %d open", limit))
	}
}

// listener looks whether a broker could listen on an address, or does already.
func (r *run) listener(ctx context.Context, address string) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err == nil {
		if err := l.Close(); err != nil {
			r.fail(Listener, address, err.Error(), "run the check again")
			return
		}
		r.ok(Listener, address, "is free to listen on")
		return
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		if r.speaksKafka(ctx, reachable(address)) == nil {
			r.ok(Listener, address, "a broker serves there")
			return
		}
		r.fail(Listener, address, "another program, which is no broker, has the port", "stop it ('ss -ltnp' names it), or listen on another port")
	case errors.Is(err, fs.ErrPermission):
		r.fail(Listener, address, err.Error(), "choose a port above 1023, or grant cap_net_bind_service")
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		r.fail(Listener, address, "this machine does not have that address", "listen on one that it has, or on 0.0.0.0")
	default:
		r.fail(Listener, address, err.Error(), "choose another address")
	}
}

// reachable is an address to connect to for one to listen on.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return address
}
