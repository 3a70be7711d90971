package cmd_test

import (
	"path/filepath"
	"testing"
	"time"

	"mft/internal/commandtest"
)

// The broker's disk is full: the sender says so and waits, and goes on when
// there is room.
func TestBrokerDiskFull(t *testing.T) {
	t.Parallel()
	data, fill, free := smallDisk(t, 96<<20)
	broker := commands.StartBroker(t, data, "")
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	commandtest.RandomFile(t, filepath.Join(out, "warm"), 1000, 1)
	commands.Run(t, "mft-produce", "-b", broker.Addr, "-t", "full", filepath.Join(out, "warm"))
	commandtest.RandomTree(t, filepath.Join(out, "tree"), 50, 200_000, 2)
	fill()
	p := commands.Start(t, nil, "mft-produce", "-b", broker.Addr, "-t", "full", "--state", filepath.Join(dir, "state"), out+"/")
	awaitText(t, p, "the broker cannot store what it is sent: its disk is full")
	free()
	if err := p.WaitFor(2 * time.Minute); err != nil {
		t.Fatalf("%v\n%s", err, p.Stderr.String())
	}
	said(t, p, "sent 52 files")
	commands.Run(t, "mft-consume", "-b", broker.Addr, "-t", "full", "--dir", filepath.Join(dir, "in"), "--once")
	commandtest.SameTree(t, out, filepath.Join(dir, "in"))
}

// The receiver's disk is full: it says so and waits, and goes on when there is room.
func TestReceiverDiskFull(t *testing.T) {
	t.Parallel()
	in, fill, free := smallDisk(t, 32<<20)
	broker := startBroker(t)
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	commandtest.RandomTree(t, out, 50, 200_000, 3)
	commandtest.RandomFile(t, filepath.Join(out, "large"), 5_000_000, 4)
	receive := commands.Start(t, nil, "mft-consume", "-b", broker.Addr, "-t", "full", "--dir", in)
	commandtest.RandomFile(t, filepath.Join(dir, "first", "first"), 1000, 5)
	commands.Run(t, "mft-produce", "-b", broker.Addr, "-t", "full", filepath.Join(dir, "first")+"/")
	awaitFiles(t, in, 1, time.Minute)
	fill()
	commands.Run(t, "mft-produce", "-b", broker.Addr, "-t", "full", out+"/")
	awaitText(t, receive, "the disk is full: make room, receiving goes on by itself")
	free()
	awaitFiles(t, in, 53, time.Minute)
	stopWell(t, receive)
	said(t, receive, "received 53 files")
}
