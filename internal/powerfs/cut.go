package powerfs

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
)

// Loss says what becomes of what is not durable when the power is cut. The fields are probabilities; the zero value loses it all.
type Loss struct {
	Pages float64 // that a page written is kept as a whole
	Torn  float64 // that a page that is not is kept in part: each of its sectors or not
	Sizes float64 // that a file keeps the size it has grown to or was cut to, or one on the way there
	Names float64 // that a file or directory created, renamed or removed stays so
}

// String names the probabilities.
func (l Loss) String() string {
	return fmt.Sprintf("keep %.2f of pages (%.2f of the others torn), %.2f of sizes, %.2f of names", l.Pages, l.Torn, l.Sizes, l.Names)
}

// RandomLoss draws a Loss: often all or nothing of a kind, otherwise anything between.
func RandomLoss(random *rand.Rand) Loss {
	draw := func() float64 {
		switch random.IntN(4) {
		case 0:
			return 0
		case 1:
			return 1
		}
		return random.Float64()
	}
	if random.IntN(4) == 0 {
		return Loss{}
	}
	return Loss{Pages: draw(), Torn: draw(), Sizes: draw(), Names: draw()}
}

// Survey counts what was not durable at a power cut, and what of it was kept.
type Survey struct {
	Pages, PagesKept, PagesTorn int
	Names, NamesKept            int
	SizesKept, SizesLost        int
}

// Add adds another survey's counts.
func (s *Survey) Add(other Survey) {
	s.Pages += other.Pages
	s.PagesKept += other.PagesKept
	s.PagesTorn += other.PagesTorn
	s.Names += other.Names
	s.NamesKept += other.NamesKept
	s.SizesKept += other.SizesKept
	s.SizesLost += other.SizesLost
}

// String is one line for a test's log.
func (s Survey) String() string {
	return fmt.Sprintf("not durable: %d pages (%d kept, %d torn), %d names (%d kept), %d sizes (%d kept)",
		s.Pages, s.PagesKept, s.PagesTorn, s.Names, s.NamesKept, s.SizesKept+s.SizesLost, s.SizesKept)
}

// lose is the power cut: what is not durable is decided on, and then all there is is durable. Disk.mu is held, and nobody uses the disk.
func (d *Disk) lose(loss Loss, random *rand.Rand) Survey {
	var s Survey
	for _, number := range slices.Sorted(maps.Keys(d.inodes)) {
		n := d.inodes[number]
		if n.isDir() {
			n.loseNames(loss, random, &s)
		} else {
			n.losePages(loss, random, &s)
		}
	}
	reached := map[uint64]*inode{}
	d.inodes[rootNumber].reach(reached)
	d.inodes = reached
	return s
}

func (n *inode) loseNames(loss Loss, random *rand.Rand, s *Survey) {
	for _, c := range n.changes {
		if !c.by.decided {
			c.by.decided, c.by.kept = true, random.Float64() < loss.Names
		}
		s.Names++
		if c.by.kept {
			s.NamesKept++
			n.makeDurable(c)
		}
	}
	n.changes, n.names = nil, maps.Clone(n.durableNames)
}

func (n *inode) losePages(loss Loss, random *rand.Rand, s *Survey) {
	least := min(n.least, n.leastBefore)
	if len(n.dirty) == 0 && len(n.data) == len(n.durable) && least >= int64(len(n.durable)) {
		return
	}
	was := int64(len(n.durable))
	if least < was && random.Float64() < loss.Sizes {
		n.durable = n.durable[:least]
	}
	if size := int64(len(n.durable)); int64(len(n.data)) > size && random.Float64() < loss.Sizes {
		grown := int64(len(n.data)) - size
		if random.IntN(2) == 0 { // on the way
			grown = random.Int64N(grown) / sectorSize * sectorSize
		}
		n.durable = resized(n.durable, size+grown)
	}
	if int64(len(n.durable)) != was {
		s.SizesKept++
	} else if len(n.data) != len(n.durable) {
		s.SizesLost++
	}
	for _, page := range slices.Sorted(maps.Keys(n.dirty)) {
		from := page * pageSize
		to := min(from+pageSize, int64(len(n.data)))
		s.Pages++
		switch {
		case random.Float64() < loss.Pages:
			s.PagesKept++
			n.keep(from, to)
		case random.Float64() < loss.Torn:
			s.PagesTorn++
			for at := from; at < to; at += sectorSize {
				if random.IntN(2) == 0 {
					n.keep(at, min(at+sectorSize, to))
				}
			}
		}
	}
	n.data = bytes.Clone(n.durable)
	n.dirty, n.least, n.leastBefore = map[int64]uint64{}, int64(len(n.data)), int64(len(n.data))
}

// keep makes the bytes of a range durable, as far as the durable size goes.
func (n *inode) keep(from, to int64) {
	if to = min(to, int64(len(n.durable))); from < to {
		copy(n.durable[from:to], n.data[from:to])
	}
}

// reach collects the inode and all that are below it.
func (n *inode) reach(found map[uint64]*inode) {
	if found[n.number] != nil {
		return
	}
	found[n.number] = n
	for _, below := range n.names {
		below.reach(found)
	}
}
