package longlink

import (
	"encoding/binary"
	"io"
	"testing"
	"time"
)

// packets is a device that n packets of size bytes leave, each with its
// number, and that keeps the numbers of those which arrive.
type packets struct {
	n, size int
	next    int
	arrived []int
	last    time.Time
}

func (p *packets) Read(b []byte) (int, error) {
	if p.next == p.n {
		return 0, io.EOF
	}
	binary.BigEndian.PutUint32(b, uint32(p.next))
	p.next++
	return p.size, nil
}

func (p *packets) Write(b []byte) (int, error) {
	p.arrived = append(p.arrived, int(binary.BigEndian.Uint32(b)))
	p.last = time.Now()
	return len(b), nil
}

func TestLossIsWhatWasAskedFor(t *testing.T) {
	const n = 100_000
	from, to := &packets{n: n, size: 100}, &packets{}
	(&Config{Loss: 0.1, Queue: n}).forward(from, to, 1)
	if got := len(to.arrived); got < n*88/100 || got > n*92/100 {
		t.Errorf("%d of %d packets arrived", got, n)
	}
	for i, number := range to.arrived[1:] {
		if number <= to.arrived[i] {
			t.Fatalf("packet %d came after %d", number, to.arrived[i])
		}
	}
}

func TestRateAndDelayAdd(t *testing.T) {
	from, to := &packets{n: 200, size: 1000}, &packets{}
	began := time.Now()
	(&Config{Delay: 50 * time.Millisecond, Rate: 2_000_000}).forward(from, to, 1)
	if took := to.last.Sub(began); took < 150*time.Millisecond || len(to.arrived) != 200 {
		t.Errorf("200 kB at 2 MB/s and 50 ms took %v; %d of 200 packets arrived", took, len(to.arrived))
	}
}

func TestAFullQueueLosesPackets(t *testing.T) {
	from, to := &packets{n: 100, size: 1000}, &packets{}
	(&Config{Delay: 20 * time.Millisecond, Queue: 10}).forward(from, to, 1)
	if n := len(to.arrived); n < 10 || n > 20 {
		t.Errorf("%d packets arrived over a queue of 10", n)
	}
}
