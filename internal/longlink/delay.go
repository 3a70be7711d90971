// Package longlink joins two network namespaces by an emulated link: a long
// one that loses packets, for tests of what happens between continents.
//
// It does in user space what tc's netem does in the kernel, which many kernels
// do not have. Each namespace gets a TUN device; packets that leave one are
// read, lost or kept for a while, and written to the other. So TCP on both
// ends is the kernel's own.
package longlink

import (
	"io"
	"math/rand/v2"
	"time"
)

// Config says what the link is like, each way.
type Config struct {
	Delay time.Duration // of every packet
	Loss  float64       // share of packets, at random, that never arrive
	Rate  int64         // bytes a second; 0: as many as come
	Queue int           // packets that are on their way or wait for Rate; more are lost. 0: 16,384
	Seed  uint64        // of the randomness

	// Congestion is the congestion control of TCP at both ends; "": the
	// machine's default. A namespace may choose "reno" on every machine, and
	// others where the administrator allows them.
	Congestion string
}

// mtu is that of Ethernet, in bytes.
const mtu = 1500

// packet is one on its way.
type packet struct {
	due  time.Time
	data []byte
}

// forward moves packets one way, until from fails.
func (c *Config) forward(from io.Reader, to io.Writer, seed uint64) {
	rng := rand.New(rand.NewPCG(c.Seed, seed))
	size := c.Queue
	if size == 0 {
		size = 16384
	}
	line := make(chan packet, size)
	written := make(chan struct{})
	go func() {
		defer close(written)
		for p := range line {
			time.Sleep(time.Until(p.due))
			_, _ = to.Write(p.data) // a device that refuses a packet loses it, as devices do
		}
	}()
	var sent time.Time // when the last packet has left, with Rate
	buf := make([]byte, mtu)
	for {
		n, err := from.Read(buf)
		if err != nil {
			break
		}
		if rng.Float64() < c.Loss {
			continue
		}
		now := time.Now()
		if c.Rate > 0 {
			if sent.Before(now) {
				sent = now
			}
			sent = sent.Add(time.Duration(float64(n) / float64(c.Rate) * float64(time.Second)))
			now = sent
		}
		select {
		case line <- packet{now.Add(c.Delay), append([]byte(nil), buf[:n]...)}:
		default: // the queue is full
		}
	}
	close(line)
	<-written
}
