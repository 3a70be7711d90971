package longlink

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Link is an emulated link. It must be closed.
type Link struct {
	Ends [2]*End

	forwarding sync.WaitGroup
}

// End is one end of a Link: a network namespace with one device and one
// address besides its own loopback interface.
type End struct {
	Addr netip.Addr

	namespace *os.File
	device    *os.File
	arrived   atomic.Int64
}

// The addresses, which are for documentation (RFC 5737): there is nobody to
// reach by mistake.
var addresses = [2]netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, 1}), netip.AddrFrom4([4]byte{192, 0, 2, 2})}

// New makes a link. The error says what the machine lacks: it takes root, or
// the capability to administer the network, and /dev/net/tun.
func New(c Config) (*Link, error) {
	l := &Link{}
	for i, addr := range addresses {
		e, err := newEnd(addr, c.Congestion)
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		l.Ends[i] = e
	}
	for i, e := range l.Ends {
		other := l.Ends[1-i]
		l.forwarding.Go(func() { c.forward(e.device, counted{other.device, &other.arrived}, uint64(i)) })
	}
	return l, nil
}

// Close ends the link. Processes in its namespaces reach each other no more.
func (l *Link) Close() (err error) {
	for _, e := range l.Ends {
		if e != nil {
			err = errors.Join(err, e.device.Close(), e.namespace.Close())
		}
	}
	l.forwarding.Wait()
	return err
}

// Arrived is how many bytes have arrived by the link so far, with the headers
// of their packets.
func (e *End) Arrived() int64 { return e.arrived.Load() }

type counted struct {
	io.Writer
	n *atomic.Int64
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	c.n.Add(int64(n))
	return n, err
}

// Do calls f with the calling goroutine in the namespace: the processes that it
// starts and the sockets that it makes are there for good, f's goroutines are not.
func (e *End) Do(f func()) error {
	return apart(func() error {
		if err := unix.Setns(int(e.namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		f()
		return nil
	})
}

// apart calls f on a thread of its own whose namespace f may change.
func apart(f func() error) (err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("network namespaces: %w", err)
	}
	defer func() {
		if back := unix.Setns(int(before.Fd()), unix.CLONE_NEWNET); back != nil {
			panic(fmt.Sprintf("longlink: a thread cannot leave a network namespace: %v", back))
		}
		err = errors.Join(err, before.Close())
	}()
	return f()
}

func newEnd(addr netip.Addr, congestion string) (e *End, err error) {
	e = &End{Addr: addr}
	defer func() {
		if err != nil && e.namespace != nil {
			err = errors.Join(err, e.namespace.Close())
		}
		if err != nil && e.device != nil {
			err = errors.Join(err, e.device.Close())
		}
	}()
	err = apart(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("a network namespace cannot be made: %w", err)
		}
		var err error
		if e.namespace, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return fmt.Errorf("network namespaces: %w", err)
		}
		if congestion != "" {
			if err := os.WriteFile("/proc/sys/net/ipv4/tcp_congestion_control", []byte(congestion), 0); err != nil {
				return fmt.Errorf("congestion control %s: %w", congestion, err)
			}
		}
		if e.device, err = newDevice("mft0"); err != nil {
			return err
		}
		return raise("lo", "mft0", addr)
	})
	return e, err
}

// newDevice makes a TUN device in the namespace of the thread. What is read
// from it has left by it, what is written to it arrives by it.
func newDevice(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("a TUN device cannot be made: %w", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun"), nil
}

// raise brings two interfaces of the thread's namespace up, the second one with an address.
func raise(loopback, device string, addr netip.Addr) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("configure a network namespace: %w", err)
	}
	set := func(name string, request uint, change func(*unix.Ifreq) error) {
		if err != nil {
			return
		}
		var req *unix.Ifreq
		if req, err = unix.NewIfreq(name); err != nil {
			return
		}
		if err = change(req); err == nil {
			err = unix.IoctlIfreq(fd, request, req)
		}
		if err != nil {
			err = fmt.Errorf("configure %s of a network namespace: %w", name, err)
		}
	}
	up := func(req *unix.Ifreq) error { req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil }
	ip := addr.As4()
	set(loopback, unix.SIOCSIFFLAGS, up)
	set(device, unix.SIOCSIFADDR, func(req *unix.Ifreq) error { return req.SetInet4Addr(ip[:]) })
	set(device, unix.SIOCSIFNETMASK, func(req *unix.Ifreq) error { return req.SetInet4Addr([]byte{255, 255, 255, 0}) })
	set(device, unix.SIOCSIFMTU, func(req *unix.Ifreq) error { req.SetUint32(mtu); return nil })
	set(device, unix.SIOCSIFFLAGS, up)
	return errors.Join(err, unix.Close(fd))
}
