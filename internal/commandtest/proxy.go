package commandtest

import (
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// Proxy stands on a way between clients and a broker, and cuts connections.
type Proxy struct {
	Addr string // HOST:PORT on the loopback

	listener net.Listener
	target   atomic.Pointer[string]
	working  sync.WaitGroup

	mu    sync.Mutex
	rng   *rand.Rand
	limit int64 // a connection is cut after up to so many bytes, drawn at random; 0: it is not
	open  map[net.Conn]bool
	done  bool

	Cuts     atomic.Int64 // connections cut
	Up, Down atomic.Int64 // bytes carried to the broker, and from it
}

// NewProxy starts a proxy, which ends with the test. It refuses connections
// until it has a target.
func NewProxy(t testing.TB, seed uint64) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: listener.Addr().String(), listener: listener, rng: rand.New(rand.NewPCG(seed, 1)), open: make(map[net.Conn]bool)}
	p.working.Go(p.accept)
	t.Cleanup(func() {
		p.mu.Lock()
		p.done = true
		for conn := range p.open {
			_ = conn.Close()
		}
		p.mu.Unlock()
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
		p.working.Wait()
	})
	return p
}

// To says where connections go.
func (p *Proxy) To(addr string) { p.target.Store(&addr) }

// CutAfter has every connection from now on cut after up to so many bytes in
// both directions together; 0: none.
func (p *Proxy) CutAfter(bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit = bytes
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		target := p.target.Load()
		if target == nil {
			_ = client.Close()
			continue
		}
		broker, err := net.Dial("tcp", *target)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		left := int64(-1)
		if p.limit > 0 {
			left = 1 + p.rng.Int64N(p.limit)
		}
		if p.done {
			_ = client.Close()
			_ = broker.Close()
		}
		p.open[client], p.open[broker] = true, true
		p.mu.Unlock()
		p.carry(client, broker, left)
	}
}

// carry copies both ways until an end closes, or left bytes are through.
func (p *Proxy) carry(client, broker net.Conn, left int64) {
	var room atomic.Int64
	room.Store(left)
	end := sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, conn := range []net.Conn{client, broker} {
			delete(p.open, conn)
			_ = conn.Close()
		}
	})
	way := func(to, from net.Conn, count *atomic.Int64) {
		defer end()
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			if left >= 0 {
				if rest := room.Add(int64(-n)); rest <= 0 {
					if before := rest + int64(n); before > 0 {
						n = int(before) // up to the very byte
						if _, err := to.Write(buf[:n]); err == nil {
							count.Add(int64(n))
						}
						p.Cuts.Add(1)
					}
					for _, conn := range []net.Conn{client, broker} {
						if tcp, ok := conn.(*net.TCPConn); ok {
							_ = tcp.SetLinger(0) // a reset, as a broken way gives
						}
					}
					return
				}
			}
			if n > 0 {
				if _, err := to.Write(buf[:n]); err != nil {
					return
				}
				count.Add(int64(n))
			}
			if err != nil {
				return
			}
		}
	}
	p.working.Go(func() { way(broker, client, &p.Up) })
	p.working.Go(func() { way(client, broker, &p.Down) })
}
