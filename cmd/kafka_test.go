package cmd_test

import (
	"path/filepath"
	"testing"

	"mft/internal/commandtest"
	"mft/internal/kafkatest"
)

// The tests in this file run the commands against Apache Kafka itself, as it comes.

// TestKafkaTree sends a tree through Kafka.
func TestKafkaTree(t *testing.T) {
	k := kafkatest.Shared(t)
	source, out := t.TempDir(), t.TempDir()
	commandtest.RandomTree(t, source, 500, 64<<10, 1)
	commandtest.RandomFile(t, filepath.Join(source, "big.bin"), 64<<20, 2)
	commands.Run(t, "mft-produce", "-b", k.Brokers(), "-t", t.Name(), source+string(filepath.Separator))
	commands.Run(t, "mft-consume", "-b", k.Brokers(), "-t", t.Name(), "--dir", out, "--once")
	commandtest.SameTree(t, source, out)
}
