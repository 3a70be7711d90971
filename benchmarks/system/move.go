package system

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Mover is a way to move files from one directory to another.
type Mover struct {
	Name   string // of tables
	System string // of -systems
	// Settings tells what is set, for the results.
	Settings string
	// OneFile says that it moves a single file and no tree.
	OneFile bool
	// Slow says that it takes minutes for a gigabyte or for many files.
	Slow bool

	move func(*Tools, context.Context, Move) (Moved, error)
}

// Movers are all of them, in the order of tables. The brokers come first: they keep what they move.
func Movers() []Mover {
	var all []Mover
	for _, b := range Brokers {
		settings := "mft-produce and mft-consume, with " + b.Settings()
		if !b.Fsync {
			settings += "; mft-consume --no-fsync"
		}
		move := func(t *Tools, ctx context.Context, m Move) (Moved, error) { return t.byBroker(ctx, b, m) }
		if !b.Kafka() {
			settings = "its object store, put and get 4 objects at a time, with " + b.Settings()
			move = func(t *Tools, ctx context.Context, m Move) (Moved, error) { return t.byObjects(ctx, b, m) }
		}
		if !b.Fsync || b.Name == "mft" { // what takes an fsync per small write is no way to move files
			all = append(all, Mover{Name: b.Name, System: b.System, Settings: settings, move: move})
		}
	}
	rsync := func(args ...string) func(*Tools, context.Context, Move) (Moved, error) {
		return func(t *Tools, ctx context.Context, m Move) (Moved, error) { return t.byRsync(ctx, m, args...) }
	}
	croc := func(args ...string) func(*Tools, context.Context, Move) (Moved, error) {
		return func(t *Tools, ctx context.Context, m Move) (Moved, error) { return t.byCroc(ctx, m, args...) }
	}
	return append(all,
		Mover{Name: "rsync", System: "rsync", Settings: "pushed with -a to a daemon; no fsync", move: rsync()},
		Mover{Name: "rsync-fsync", System: "rsync", Settings: "the same with --fsync", move: rsync("--fsync")},
		Mover{Name: "scp", System: "scp", Settings: "as installed, to an sshd of its own; encrypted; no fsync", move: (*Tools).byScp},
		Mover{Name: "nc", System: "nc", Settings: "nc < file | nc > file; no check, no fsync", OneFile: true, move: (*Tools).byNetcat},
		Mover{Name: "tar-nc", System: "nc", Settings: "tar | nc | nc | tar; no check, no fsync", move: (*Tools).byTar},
		Mover{Name: "croc", System: "croc", Settings: "as installed, by a relay of its own; encrypted; no fsync", Slow: true, move: croc()},
		Mover{Name: "croc-plain", System: "croc", Settings: "the same with --no-compress", Slow: true, move: croc("--no-compress")},
	)
}

// Move is what to move.
type Move struct {
	Dir      string // for what is needed on the way
	From, To string // directories; To is empty
	Files    int
	Streams  int // connections of the sender, where it can have several; 0: as installed
}

// Moved is how it went.
type Moved struct {
	Wall      time.Duration
	BrokerCPU float64 // seconds, of a broker or daemon
	ClientCPU float64 // of sender and receiver
	Peak      int64   // resident memory of the broker, in bytes
}

// Move moves files.
func (m Mover) Move(ctx context.Context, t *Tools, what Move) (Moved, error) {
	return m.move(t, ctx, what)
}

// byBroker sends files through a topic: mft's own commands, whatever the broker. The receiver is there before the sender.
func (t *Tools) byBroker(ctx context.Context, b Broker, m Move) (moved Moved, err error) {
	server, err := t.Start(ctx, b, m.Dir)
	if err != nil {
		return moved, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	create := []string{"topics", "create", "files", "-b", server.Addr, "-p", "1", "--timeout", "1m"}
	for k, v := range b.TopicConfig {
		create = append(create, "--config", k+"="+v)
	}
	if _, err := (Command{Path: t.Command("mft-admin"), Args: create}).Run(ctx); err != nil {
		return moved, err
	}
	out, err := os.Create(filepath.Join(m.Dir, "events"))
	if err != nil {
		return moved, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	receive := []string{"-b", server.Addr, "-t", "files", "--dir", m.To, "--json"}
	if !b.Fsync {
		receive = append(receive, "--no-fsync")
	}
	receiver, err := Command{Path: t.Command("mft-consume"), Stdout: out, Args: receive}.Start(ctx)
	if err != nil {
		return moved, err
	}
	defer func() { err = errors.Join(err, receiver.Stop(30*time.Second)) }()
	arrivals, err := os.Open(out.Name())
	if err != nil {
		return moved, err
	}
	defer func() { err = errors.Join(err, arrivals.Close()) }()
	lines := follower{file: arrivals, ended: receiver.Done()}
	arrive := func(ctx context.Context, n int) error {
		for n > 0 {
			line, err := lines.next(ctx)
			if err == nil && bytes.HasPrefix(line, []byte(`{"event":"begin"`)) { // half of them, and nothing to be told from
				continue
			}
			var e struct{ Event, Type, Name, Message string }
			if err == nil {
				err = json.Unmarshal(line, &e)
			}
			if err != nil {
				return fmt.Errorf("%d files are missing: %w%s", n, err, receiver.log.quote())
			}
			switch {
			case e.Event == "failed":
				return fmt.Errorf("%s: %s", e.Name, e.Message)
			case e.Event == "done" && e.Type == "file":
				n--
			}
		}
		return nil
	}
	// A first file, not timed: the receiver has then found the topic and its group.
	first := filepath.Join(m.Dir, "first-of-all")
	if err := os.WriteFile(first, []byte("first"), 0o644); err != nil {
		return moved, err
	}
	send := func(ctx context.Context, path string, more ...string) (Usage, error) {
		return Command{Path: t.Command("mft-produce"), Args: append([]string{"-b", server.Addr, "-t", "files", "--progress", "never", path}, more...)}.Run(ctx)
	}
	if _, err := send(ctx, first); err != nil {
		return moved, err
	}
	if err := arrive(ctx, 1); err != nil {
		return moved, err
	}
	if err := os.Remove(filepath.Join(m.To, filepath.Base(first))); err != nil {
		return moved, err
	}

	var more []string
	if m.Streams > 0 {
		more = []string{"--streams", strconv.Itoa(m.Streams)}
	}
	peak := server.Peak()
	before, told := server.CPU()
	consumed, _ := receiver.CPU()
	start := time.Now()
	either, end := context.WithCancelCause(ctx) // without the one the other may wait for ever
	defer end(nil)
	sent := make(chan error, 1)
	go func() {
		u, err := send(either, m.From+string(filepath.Separator), more...)
		moved.ClientCPU = u.CPU
		if err != nil {
			end(err)
		}
		sent <- err
	}()
	err = arrive(either, m.Files)
	moved.Wall = time.Since(start)
	if err != nil {
		end(err)
	}
	if sendErr := <-sent; err == nil {
		err = sendErr
	}
	if err != nil {
		return moved, err
	}
	if after, ok := server.CPU(); ok && told {
		moved.BrokerCPU = after - before
	}
	if after, ok := receiver.CPU(); ok {
		moved.ClientCPU += after - consumed
	}
	moved.Peak, _ = peak()
	return moved, nil
}

// byObjects puts files into NATS's object store, from which a receiver gets each as soon as it is whole.
func (t *Tools) byObjects(ctx context.Context, b Broker, m Move) (moved Moved, err error) {
	server, err := t.Start(ctx, b, m.Dir)
	if err != nil {
		return moved, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	client := func(what, dir string, more ...string) Command {
		args := append([]string{what, "-s", "nats://" + server.Addr, "-clients", "4"}, more...)
		return Command{Path: filepath.Join(t.NATS, "nats-bench"), Args: append(args, dir)}
	}
	get, err := client("get", m.To, "-records", strconv.Itoa(m.Files)).Start(ctx)
	if err != nil {
		return moved, err
	}
	defer func() { kill(get.Pid()) }()
	peak := server.Peak()
	before, told := server.CPU()
	start := time.Now()
	put, err := client("put", m.From).Run(ctx)
	if err != nil {
		return moved, err
	}
	if err := get.Wait(); err != nil {
		return moved, err
	}
	moved.Wall, moved.ClientCPU = time.Since(start), put.CPU+get.CPUOnceEnded()
	if after, ok := server.CPU(); ok && told {
		moved.BrokerCPU = after - before
	}
	moved.Peak, _ = peak()
	return moved, nil
}

// daemon starts a server for files, waits until it can be connected to, and returns what stops it.
func daemon(ctx context.Context, c Command, addr string) (*Process, error) {
	p, err := c.Start(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := (&Server{Process: p, Addr: addr}).waitListening(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%s does not start: %w", filepath.Base(c.Path), err), p.Stop(time.Second))
	}
	return p, nil
}

// stopDaemon ends it. How it tells its end does not matter: it did its work.
func stopDaemon(p *Process) {
	_ = p.Stop(5 * time.Second)
}

// timed runs a client that pushes everything to a daemon, and stops that.
func timed(ctx context.Context, p *Process, c Command) (Moved, error) {
	u, err := c.Run(ctx)
	stopDaemon(p)
	return Moved{Wall: u.Wall, ClientCPU: u.CPU, BrokerCPU: p.CPUOnceEnded()}, err // its own, and that of children that ended
}

func (t *Tools) byRsync(ctx context.Context, m Move, more ...string) (moved Moved, err error) {
	addr, err := FreeAddr()
	if err != nil {
		return moved, err
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return moved, err
	}
	config := fmt.Sprintf("use chroot = no\n[to]\npath = %s\nread only = no\n", m.To)
	if os.Geteuid() == 0 {
		config = "uid = root\ngid = root\n" + config
	}
	file := filepath.Join(m.Dir, "rsyncd.conf")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return moved, err
	}
	p, err := daemon(ctx, Command{Path: t.Paths["rsync"], Args: []string{"--daemon", "--no-detach", "--config=" + file, "--address=127.0.0.1", "--port=" + port}}, addr)
	if err != nil {
		return moved, err
	}
	args := append([]string{"-a"}, more...)
	moved, err = timed(ctx, p, Command{Path: t.Paths["rsync"], Args: append(args, m.From+"/", "rsync://"+addr+"/to/")})
	moved.BrokerCPU = 0 // not known: the daemon does not wait for the children that do the work
	return moved, err
}

func (t *Tools) byScp(ctx context.Context, m Move) (moved Moved, err error) {
	addr, err := FreeAddr()
	if err != nil {
		return moved, err
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return moved, err
	}
	host, user := filepath.Join(m.Dir, "host_key"), filepath.Join(m.Dir, "user_key")
	for _, key := range []string{host, user} {
		if _, err := (Command{Path: t.Paths["ssh-keygen"], Args: []string{"-q", "-t", "ed25519", "-N", "", "-f", key}}).Run(ctx); err != nil {
			return moved, err
		}
	}
	if os.Geteuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // sshd asks for it
			return moved, err
		}
	}
	config := strings.Join([]string{
		"ListenAddress " + addr, "HostKey " + host, "AuthorizedKeysFile " + user + ".pub", "PidFile none", "StrictModes no",
		"UsePAM no", "PasswordAuthentication no", "PermitRootLogin prohibit-password", "Subsystem sftp internal-sftp", "LogLevel ERROR", "",
	}, "\n")
	file := filepath.Join(m.Dir, "sshd_config")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return moved, err
	}
	entries, err := os.ReadDir(m.From)
	if err != nil {
		return moved, err
	}
	p, err := daemon(ctx, Command{Path: t.Paths["sshd"], Args: []string{"-D", "-e", "-f", file}}, addr)
	if err != nil {
		return moved, err
	}
	// Its names are arguments: what is in the directory, not the directory.
	args := []string{"-q", "-r", "-F", "none", "-P", port, "-i", user, "-o", "UserKnownHostsFile=" + filepath.Join(m.Dir, "known_hosts"), "-o", "StrictHostKeyChecking=accept-new", "-o", "BatchMode=yes"}
	for _, e := range entries {
		args = append(args, filepath.Join(m.From, e.Name()))
	}
	return timed(ctx, p, Command{Path: t.Paths["scp"], Args: append(args, "127.0.0.1:"+m.To)})
}

// byNetcat sends the only file.
func (t *Tools) byNetcat(ctx context.Context, m Move) (moved Moved, err error) {
	entries, err := os.ReadDir(m.From)
	if err != nil {
		return moved, err
	}
	if len(entries) != 1 || m.Files != 1 {
		return moved, errors.New("nc moves one file only")
	}
	in, err := os.Open(filepath.Join(m.From, entries[0].Name()))
	if err != nil {
		return moved, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := os.Create(filepath.Join(m.To, entries[0].Name()))
	if err != nil {
		return moved, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	return t.netcat(ctx, in, out)
}

// byTar sends everything as tar's stream.
func (t *Tools) byTar(ctx context.Context, m Move) (moved Moved, err error) {
	packed, in, err := os.Pipe()
	if err != nil {
		return moved, err
	}
	unpacking, out, err := os.Pipe()
	if err != nil {
		return moved, errors.Join(err, packed.Close(), in.Close())
	}
	start := time.Now()
	unpack, err1 := Command{Path: t.Paths["tar"], Args: []string{"-xf", "-", "-C", m.To}, Stdin: unpacking}.Start(ctx)
	pack, err2 := Command{Path: t.Paths["tar"], Args: []string{"-cf", "-", "-C", m.From, "."}, Stdout: in}.Start(ctx)
	if err := errors.Join(err1, err2, in.Close(), unpacking.Close()); err != nil {
		return moved, errors.Join(err, packed.Close(), out.Close())
	}
	moved, err = t.netcat(ctx, packed, out)
	if err = errors.Join(err, packed.Close(), out.Close()); err != nil {
		return moved, err
	}
	if err := errors.Join(pack.Wait(), unpack.Wait()); err != nil {
		return moved, err
	}
	moved.Wall = time.Since(start)
	moved.ClientCPU += pack.CPUOnceEnded() + unpack.CPUOnceEnded()
	return moved, nil
}

// netcat sends a stream from one nc to another.
func (t *Tools) netcat(ctx context.Context, in, out *os.File) (moved Moved, err error) {
	addr, err := FreeAddr()
	if err != nil {
		return moved, err
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return moved, err
	}
	receiver, err := Command{Path: t.Paths["nc"], Args: []string{"-l", "-N", "127.0.0.1", port}, Stdout: out, Stdin: bytes.NewReader(nil)}.Start(ctx)
	if err != nil {
		return moved, err
	}
	defer func() { kill(receiver.Pid()) }()
	// To connect is to use up the receiver, so it cannot be tried whether it listens.
	for !listening(port) {
		select {
		case <-receiver.Done():
			return moved, errors.Join(errors.New("nc does not listen"), receiver.Wait())
		case <-ctx.Done():
			return moved, ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	start := time.Now()
	sender, err := Command{Path: t.Paths["nc"], Args: []string{"-N", "127.0.0.1", port}, Stdin: in}.Run(ctx)
	if err != nil {
		return moved, err
	}
	if err := receiver.Wait(); err != nil {
		return moved, err
	}
	return Moved{Wall: time.Since(start), ClientCPU: sender.CPU + receiver.CPUOnceEnded()}, nil
}

// listening says whether somebody listens on a port of the loopback interface, without connecting.
func listening(port string) bool { return hasSocket(": 0100007F:%04X 00000000:0000 0A", port) }

// connected says whether somebody is connected to such a port.
func connected(port string) bool { return hasSocket(" 0100007F:%04X 01 ", port) }

// hasSocket looks for a line of Linux's table of sockets; where there is none it says yes, after a moment.
func hasSocket(pattern, port string) bool {
	text, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		time.Sleep(time.Second)
		return true
	}
	n, err := strconv.Atoi(port)
	return err == nil && strings.Contains(string(text), fmt.Sprintf(pattern, n))
}

func (t *Tools) byCroc(ctx context.Context, m Move, more ...string) (moved Moved, err error) {
	const code = "1234-mft-bench-marks"
	// The relay takes consecutive ports: the first to meet at, the others for data.
	ports, err := freeRun(5)
	if err != nil {
		return moved, err
	}
	list := make([]string, len(ports))
	for i, p := range ports {
		list[i] = strconv.Itoa(p)
	}
	relayAddr := "127.0.0.1:" + list[0]
	env := []string{"CROC_SECRET=" + code, "HOME=" + m.Dir, "XDG_CONFIG_HOME=" + m.Dir}
	relay, err := daemon(ctx, Command{Path: t.Croc, Args: []string{"relay", "--host", "127.0.0.1", "--ports", strings.Join(list, ",")}, Env: env}, relayAddr)
	if err != nil {
		return moved, err
	}
	defer stopDaemon(relay)
	entries, err := os.ReadDir(m.From)
	if err != nil {
		return moved, err
	}
	args := append([]string{"--yes", "--ignore-stdin", "--relay", relayAddr}, more...)
	args = append(args, "send", "--no-local", "--no-multi", "--code", code)
	for _, e := range entries {
		args = append(args, filepath.Join(m.From, e.Name()))
	}
	start := time.Now()
	sender, err := Command{Path: t.Croc, Args: args, Dir: m.Dir, Env: env}.Start(ctx)
	if err != nil {
		return moved, err
	}
	defer func() { kill(sender.Pid()) }()
	// Who comes first gives the room its sender: it connects when it has read its files.
	for !connected(list[0]) {
		select {
		case <-sender.Done():
			return moved, errors.Join(errors.New("croc does not send"), sender.Wait())
		case <-ctx.Done():
			return moved, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
	receive := append([]string{"--yes", "--ignore-stdin", "--overwrite", "--relay", relayAddr}, more...)
	receiver, err := Command{Path: t.Croc, Args: receive, Dir: m.To, Env: env}.Run(ctx)
	if err != nil {
		return moved, err
	}
	moved.Wall = time.Since(start)
	if err := sender.Wait(); err != nil {
		return moved, err
	}
	moved.ClientCPU = receiver.CPU + sender.CPUOnceEnded()
	if cpu, ok := relay.CPU(); ok {
		moved.BrokerCPU = cpu
	}
	return moved, nil
}

// freeRun finds so many consecutive free ports.
func freeRun(n int) ([]int, error) {
	for range 100 {
		addr, err := FreeAddr()
		if err != nil {
			return nil, err
		}
		_, text, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		first, err := strconv.Atoi(text)
		if err != nil {
			return nil, err
		}
		var ports []int
		for p := first; p < first+n; p++ {
			ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
			if err != nil {
				break
			}
			if err := ln.Close(); err != nil {
				return nil, err
			}
			ports = append(ports, p)
		}
		if len(ports) == n {
			return ports, nil
		}
	}
	return nil, fmt.Errorf("no %d free ports in a row", n)
}

// Same compares what arrived with what was sent: the regular files, their places and contents.
func Same(from, to string) error {
	count := func(dir string) (n int, err error) {
		err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				n++
			}
			return err
		})
		return n, err
	}
	sent, err := count(from)
	if err != nil {
		return err
	}
	arrived, err := count(to)
	if err != nil {
		return err
	}
	if sent != arrived {
		return fmt.Errorf("%d files were sent, %d arrived", sent, arrived)
	}
	a, b := make([]byte, 1<<20), make([]byte, 1<<20)
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		return sameFile(path, filepath.Join(to, name), a, b)
	})
}

func sameFile(sent, arrived string, a, b []byte) (err error) {
	f, err := os.Open(sent)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	g, err := os.Open(arrived)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	for {
		n, errF := io.ReadFull(f, a)
		m, errG := io.ReadFull(g, b)
		if !bytes.Equal(a[:n], b[:m]) {
			return fmt.Errorf("%s differs from what was sent", arrived)
		}
		for _, err := range []error{errF, errG} {
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return err
			}
		}
		if errF != nil || errG != nil {
			return nil
		}
	}
}
