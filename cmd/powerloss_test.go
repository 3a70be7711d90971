//go:build linux

package cmd_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"mft/internal/commandtest"
	"mft/internal/powerfs"
)

const (
	powerCuts     = 24               // without MFT_POWER_CUTS
	powerTime     = 90 * time.Second // and then no more of them on a slow machine
	cutsPerDisk   = 10               // then the next data directory
	slowestSync   = 3 * time.Millisecond
	longestUptime = time.Second
)

// TestPowerLoss cuts the power of a machine with a broker under load, again and again, and checks after every start that all that was
// acknowledged is there: records in order, once and unchanged, committed offsets, topics.
//
//	MFT_POWER_CUTS=500    how many cuts
//	MFT_POWER_SEED=1      repeat the choices of an earlier run (not its timing)
//
// With go test -artifacts, a failure leaves the disk as it was after the cut.
func TestPowerLoss(t *testing.T) {
	cuts := fromEnvironment(t, "MFT_POWER_CUTS", powerCuts)
	seed := fromEnvironment(t, "MFT_POWER_SEED", uint64(time.Now().UnixNano()))
	t.Logf("MFT_POWER_SEED=%d", seed)
	var total powerfs.Survey
	var records int
	var done uint64
	begun := time.Now()
	enough := func() bool {
		return done >= cuts || os.Getenv("MFT_POWER_CUTS") == "" && time.Since(begun) > powerTime
	}
	for ; !enough(); seed++ {
		m := newPowerMachine(t, seed)
		m.boot()
		l := newLoad(t, m.broker.Addr, seed, powerTopics)
		if err := l.createTopics(); err != nil {
			t.Fatal(err)
		}
		l.start()
		for range cutsPerDisk {
			if enough() {
				break
			}
			m.liveAndDie()
			done++
			if err := m.start(); err != nil {
				m.failed(err)
			}
			if err := l.verify(m.random); err != nil {
				m.failed(err)
			}
		}
		if err := l.finish(); err != nil {
			m.failed(err)
		}
		l.end()
		records += l.acknowledged()
		total.Add(m.total)
		m.discard()
	}
	t.Logf("%d cuts, and some more during recovery; %d records acknowledged; %v", done, records, total)
	if total.Pages == 0 || total.Names == 0 {
		t.Error("there was nothing to lose at the cuts: they were no test")
	}
}

// TestPowerLossIsNoticed runs the same on disks that acknowledge fsyncs without doing them, which is what a broker without these fsyncs would
// come to: the checks find that acknowledged records are gone.
func TestPowerLossIsNoticed(t *testing.T) {
	for _, test := range []struct {
		name   string
		lies   powerfs.Lies
		topics []powerTopic
	}{
		// Without new segments, whose fsynced names would make recovery refuse to go on before anything can be counted.
		{"fsync of files", powerfs.Lies{Files: true}, powerTopics[:1]},
		{"fsync of directories", powerfs.Lies{Dirs: true}, powerTopics[1:3]},
	} {
		t.Run(test.name, func(t *testing.T) {
			seed := fromEnvironment(t, "MFT_POWER_SEED", uint64(time.Now().UnixNano()))
			t.Logf("MFT_POWER_SEED=%d", seed)
			m := newPowerMachine(t, seed)
			m.boot()
			l := newLoad(t, m.broker.Addr, seed, test.topics)
			l.steady = true
			if err := l.createTopics(); err != nil {
				t.Fatal(err)
			}
			l.start()
			l.waitFor(500)
			m.disk.Lie(test.lies)
			const few = 5
			for cut := range few {
				l.waitFor(l.acknowledged() + 1000)
				m.cut(powerfs.Loss{})
				err := m.start()
				if err == nil {
					err = l.verify(m.random)
				}
				if err != nil {
					t.Logf("noticed at cut %d: %v", cut+1, err)
					if !errors.Is(err, errLost) && !strings.Contains(err.Error(), "damaged data") { // recovery itself may notice
						t.Errorf("but not as a loss")
					}
					return
				}
			}
			t.Errorf("%d cuts with a disk that does nothing for an %s, and nothing was found missing", few, test.name)
		})
	}
}

func fromEnvironment(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// powerMachine is a machine with one disk and a broker on it.
type powerMachine struct {
	t      *testing.T
	random *rand.Rand
	disk   *powerfs.Disk
	dir    string         // where the disk is mounted
	mount  *powerfs.Mount // nil while the machine is off
	broker *commandtest.Broker
	addr   string
	cuts   int
	story  string // how the machine died last
	image  *powerfs.Image
	total  powerfs.Survey
}

func newPowerMachine(t *testing.T, seed uint64) *powerMachine {
	m := &powerMachine{
		t: t, dir: t.TempDir(),
		random: rand.New(rand.NewPCG(seed, 0)),
		disk:   powerfs.NewDisk(slowestSync, seed),
	}
	t.Cleanup(m.discard)
	return m
}

// boot starts the machine for the first time, and skips the test where that is not possible.
func (m *powerMachine) boot() {
	m.t.Helper()
	err := m.on()
	for err == nil && m.random.IntN(2) == 0 { // the power is not even there for the first start
		m.nap(0, 60*time.Millisecond)
		m.cut(powerfs.RandomLoss(m.random))
		err = m.on()
	}
	if err == nil {
		err = m.serve()
	}
	if errors.As(err, new(*powerfs.UnavailableError)) {
		m.t.Skip(err)
	} else if err != nil {
		m.failed(err)
	}
}

// on mounts the disk, if it is not, and begins to start the broker on it.
func (m *powerMachine) on() error {
	if m.mount == nil {
		var err error
		if m.mount, err = m.disk.Mount(m.dir); err != nil {
			m.mount = nil
			return err
		}
	}
	m.broker = commands.BeginBroker(m.t, filepath.Join(m.dir, "data"), m.addr)
	return nil
}

// start starts the machine and waits until the broker serves.
func (m *powerMachine) start() error {
	if err := m.on(); err != nil {
		return err
	}
	return m.serve()
}

// serve waits until the broker serves.
func (m *powerMachine) serve() error {
	err := m.broker.WaitServing()
	m.addr = m.broker.Addr
	return err
}

// liveAndDie lets the machine run for a while and then cuts its power, in one of several ways.
func (m *powerMachine) liveAndDie() {
	m.t.Helper()
	m.nap(20*time.Millisecond, longestUptime)
	switch m.random.IntN(8) {
	case 0: // while the broker stops, which writes a checkpoint
		if err := m.broker.Process.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			m.t.Fatal(err)
		}
		m.nap(0, 60*time.Millisecond)
	case 1: // soon after the broker alone was killed: what it wrote is still in memory, and not durable
		m.broker.KillNow()
		if err := m.start(); err != nil {
			m.failed(fmt.Errorf("after kill -9, with the power still on: %w", err))
		}
		m.nap(0, 200*time.Millisecond)
	}
	m.cut(powerfs.RandomLoss(m.random))
	for m.random.IntN(4) == 0 { // again, during recovery
		if err := m.on(); err != nil {
			m.t.Fatal(err)
		}
		m.nap(0, 60*time.Millisecond)
		m.cut(powerfs.RandomLoss(m.random))
	}
}

// nap waits for a random moment.
func (m *powerMachine) nap(least, most time.Duration) {
	time.Sleep(least + time.Duration(m.random.Int64N(int64(most-least))))
}

// cut cuts the power.
func (m *powerMachine) cut(loss powerfs.Loss) {
	m.t.Helper()
	survey := m.mount.Cut(loss, m.random)
	m.broker.KillNow()
	if err := m.mount.Unmount(); err != nil {
		m.t.Fatal(err)
	}
	m.mount = nil
	m.cuts++
	m.total.Add(survey)
	m.story = fmt.Sprintf("cut %d of this disk; %v; %v", m.cuts, loss, survey)
	m.image = m.disk.Image()
}

// failed ends the test with all that is known.
func (m *powerMachine) failed(err error) {
	m.t.Helper()
	if m.image == nil {
		m.t.Fatal(err)
	}
	dir := filepath.Join(m.t.ArtifactDir(), "disk-after-the-cut")
	if werr := m.image.WriteTo(dir); werr != nil {
		m.t.Error(werr)
	}
	m.t.Fatalf("%v\n%s\nthe disk as it was after the cut, kept with -artifacts: %s\nthe broker said:\n%s", err, m.story, dir, m.broker.Stderr.String())
}

// discard switches the machine off for good.
func (m *powerMachine) discard() {
	if m.broker != nil {
		m.broker.KillNow()
	}
	if m.mount != nil {
		if err := m.mount.Unmount(); err != nil {
			m.t.Error(err)
		}
		m.mount = nil
	}
	m.disk, m.image = nil, nil // the test may go on for hours
}
