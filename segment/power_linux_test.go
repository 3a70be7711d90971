package segment

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"mft/internal/powerfs"
)

// What a killed process left behind, names that it had not made durable above all, is durable before anything that rests on it is
// acknowledged: it survives a power cut that keeps nothing else.
func TestPowerCutAfterKill(t *testing.T) {
	for _, test := range []struct {
		name   string
		before func(t *testing.T, l *Log)                          // a process that stopped cleanly
		killed func(t *testing.T, topic string, check func(error)) // what the killed one did
	}{
		{"directory made, nothing in it", nil, func(t *testing.T, topic string, check func(error)) {
			check(os.Mkdir(topic, 0o755))
		}},
		{"partition.metadata written", nil, func(t *testing.T, topic string, check func(error)) {
			check(os.Mkdir(topic, 0o755))
			check(writeMetadata(topic, testTopic.TopicID))
		}},
		{"partition.metadata and an empty log", nil, func(t *testing.T, topic string, check func(error)) {
			check(os.Mkdir(topic, 0o755))
			check(writeMetadata(topic, testTopic.TopicID))
			check(os.WriteFile(filepath.Join(topic, logName(0)), nil, 0o644))
		}},
		{"records that nobody waited for", nil, func(t *testing.T, topic string, check func(error)) {
			check(os.Mkdir(topic, 0o755))
			check(writeMetadata(topic, testTopic.TopicID))
			check(os.WriteFile(filepath.Join(topic, logName(0)), batchOf(t, 3, 100, 1000, nil), 0o644))
		}},
		{"next segment begun", func(t *testing.T, l *Log) { fillLog(t, l, 5, 1000) }, func(t *testing.T, topic string, check func(error)) {
			check(os.WriteFile(filepath.Join(topic, logName(9)), nil, 0o644))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			disk := powerfs.NewDisk(0, 1)
			data := mountDisk(t, disk)
			var m ledger
			s := openStore(t, data, m.options())
			if test.before != nil {
				test.before(t, openLog(t, s, testTopic, LogConfig{}))
			}
			closeStore(t, s)
			test.killed(t, filepath.Join(data, topicsName, testTopic.dirName()), func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			})

			s = openStore(t, data, m.options())
			l := openLog(t, s, testTopic, LogConfig{})
			want := contents(t, l) // what was served may not go away
			afterCut := func() []byte {
				t.Helper()
				data := mountDisk(t, disk.Image().Disk(0, 1))
				var m ledger
				s := openStore(t, data, m.options())
				return contents(t, openLog(t, s, testTopic, LogConfig{}))
			}
			if got := afterCut(); !bytes.Equal(got, want) {
				t.Errorf("%d bytes after a power cut, %d were served", len(got), len(want))
			}
			appendBatch(t, l, batchOf(t, 3, 500, 5000, nil))
			waitDurable(t, l)
			if got, want := afterCut(), contents(t, l); !bytes.Equal(got, want) {
				t.Errorf("%d bytes after a power cut, %d were acknowledged", len(got), len(want))
			}
		})
	}
}

// A power cut that leaves records of a log but not what comes before them leaves nothing that was acknowledged: the log begins anew. Other damage
// to partition.metadata is damage.
func TestCreationCutShort(t *testing.T) {
	for _, test := range []struct {
		name     string
		metadata []byte // nil: missing
		damage   bool
	}{
		{"metadata missing", nil, false},
		{"metadata empty", []byte{}, false},
		{"metadata zero", make([]byte, 44), false},
		{"metadata of something else", []byte("version: 0\ntopic_id: no\n"), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			data := t.TempDir()
			var m ledger
			closeStore(t, openStore(t, data, m.options()))
			topic := filepath.Join(data, topicsName, testTopic.dirName())
			if err := os.Mkdir(topic, 0o755); err != nil {
				t.Fatal(err)
			}
			if test.metadata != nil {
				if err := os.WriteFile(filepath.Join(topic, metadataName), test.metadata, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			for _, base := range []int64{0, 3} {
				if err := os.WriteFile(filepath.Join(topic, logName(base)), batchOf(t, 3, 100, 1000, nil), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			s := openStore(t, data, m.options())
			l, err := s.OpenLog(testTopic, LogConfig{})
			if test.damage {
				if !isCorruption(err) {
					t.Fatalf("opened with %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if l.EndOffset() != 0 {
				t.Errorf("the log ends at %d", l.EndOffset())
			}
			fillLog(t, l, 3, 100)
			want := contents(t, l)
			closeStore(t, s)
			s = openStore(t, data, m.options())
			if got := contents(t, openLog(t, s, testTopic, LogConfig{})); !bytes.Equal(got, want) {
				t.Error("the log is another after a restart")
			}
		})
	}
}

// mountDisk mounts a disk for the time of the test and returns a directory on it for the data.
func mountDisk(t *testing.T, disk *powerfs.Disk) (data string) {
	t.Helper()
	dir := t.TempDir()
	mount, err := disk.Mount(dir)
	if errors.As(err, new(*powerfs.UnavailableError)) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "data")
}
