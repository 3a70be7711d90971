package main

import (
	"fmt"
	"time"

	"github.com/dustin/go-humanize"
)

// form is how much to measure.
type form struct {
	name          string
	reps, fewReps int           // repetitions: of what targets are about, and of the rest
	limit         time.Duration // nothing new begins after this
	disk          int64         // bytes

	cells     []cell
	produce   time.Duration // of one cell, at most
	cellBytes int64         // of one cell, at most
	warmUp    time.Duration // of a broker, before it is measured
	idle      time.Duration // before idle memory is looked at
	latency   time.Duration
	consumers []int // fan-out
	backlog   int64 // bytes that consumers catch up with, and that they fan out
	tools     int64 // records for Kafka's own tools
	sets      []fileSet
	slow      bool // also many files by what takes minutes for them
	limits    int64
	memory    bool // the page cache is to be full, see machine.Memory

	partitions []int   // scale: of a topic
	topics     []int64 // bytes of a topic
	clients    []int
}

// cell is one of the matrix of record sizes and partitions.
type cell struct {
	size, partitions int
	waiting          int // producers that each wait for the acknowledgement of every record; 0: one that does not
}

func (c cell) String() string {
	if c.waiting > 0 {
		return fmt.Sprintf("%s, %d producers that wait for each ack", sizeName(int64(c.size)), c.waiting)
	}
	plural := ""
	if c.partitions != 1 {
		plural = "s"
	}
	return fmt.Sprintf("%s, %s partition%s", sizeName(int64(c.size)), humanize.Comma(int64(c.partitions)), plural)
}

func sizeName(n int64) string {
	switch {
	case n >= 1<<30 && n%(1<<30) == 0:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}

// fileSet is files to move.
type fileSet struct {
	files   int
	size    int64
	text    bool // compresses; else random
	tree    bool // Go's own source tree instead
	streams int  // of senders that can have several; 0: as installed
}

func (s fileSet) String() string {
	name := fmt.Sprintf("%s x %s", humanize.Comma(int64(s.files)), sizeName(s.size))
	if s.tree {
		name = "a source tree"
	}
	if s.text {
		name += " of text"
	}
	if s.streams > 0 {
		name += fmt.Sprintf(", %d streams", s.streams)
	}
	return name
}

func shortForm() form {
	return form{
		name: "short", reps: 3, fewReps: 2, limit: 40 * time.Minute, disk: 24e9,
		cells:   []cell{{1 << 10, 1, 0}, {1 << 20, 1, 0}, {100, 1, 0}, {1 << 10, 16, 0}, {1 << 10, 1, 64}},
		produce: 1500 * time.Millisecond, cellBytes: 1 << 30, warmUp: 2 * time.Second, idle: 2 * time.Second,
		latency: 5 * time.Second, consumers: []int{1, 10, 100}, backlog: 128 << 20, tools: 300_000,
		sets: []fileSet{
			{files: 1, size: 1 << 30}, {files: 10_000, size: 10 << 10}, {tree: true}, {files: 1, size: 1 << 30, streams: 8},
		},
		limits:     1 << 30,
		memory:     true,
		partitions: []int{1, 100, 1000}, clients: []int{1, 100},
	}
}

func longForm() form {
	f := shortForm()
	f.name, f.reps, f.fewReps, f.limit, f.disk, f.slow = "long", 5, 3, 8*time.Hour, 160e9, true
	f.cells = nil
	for _, partitions := range []int{1, 16, 1000} {
		for _, size := range []int{1 << 10, 100, 10 << 10, 1 << 20} {
			f.cells = append(f.cells, cell{size, partitions, 0})
		}
	}
	f.cells = append(f.cells, cell{1 << 10, 1, 64})
	f.produce, f.cellBytes, f.warmUp, f.idle, f.latency = 4*time.Second, 2<<30, 5*time.Second, 10*time.Second, 30*time.Second
	f.backlog, f.tools = 512<<20, 2_000_000
	f.sets = append(f.sets,
		fileSet{files: 1, size: 1 << 30, text: true}, fileSet{files: 10_000, size: 10 << 10, text: true},
		fileSet{files: 10_000, size: 10 << 10, streams: 8}, fileSet{tree: true, streams: 8})
	f.partitions, f.clients = []int{1, 10, 100, 1000, 10_000}, []int{1, 10, 100, 1000}
	f.topics = []int64{1 << 30, 10 << 30, 100 << 30}
	return f
}

func tinyForm() form {
	return form{
		name: "tiny", reps: 1, fewReps: 1, limit: 10 * time.Minute, disk: 2e9,
		cells:   []cell{{1 << 10, 1, 0}, {1 << 20, 2, 0}, {1 << 10, 1, 2}},
		produce: 100 * time.Millisecond, cellBytes: 8 << 20, warmUp: 100 * time.Millisecond, idle: 10 * time.Millisecond,
		latency: 200 * time.Millisecond, consumers: []int{1, 3}, backlog: 4 << 20, tools: 1000,
		sets:       []fileSet{{files: 1, size: 1 << 20}, {files: 20, size: 1 << 10, text: true}, {files: 3, size: 1 << 10, streams: 2}},
		limits:     16 << 20,
		partitions: []int{1, 10}, topics: []int64{1 << 20, 2 << 20}, clients: []int{2},
	}
}
