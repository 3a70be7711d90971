// Package kafkatest runs Apache Kafka's own programs in tests, from the jars that package kafkajars finds. Tests are
// skipped, naming what is missing, where there is no Java 17, no Maven, or no way to the jars.
package kafkatest

import (
	"os/exec"
	"testing"

	"mft/internal/kafkajars"
)

// Version is that of Kafka.
const Version = kafkajars.Version

// Command returns a command, to be run by the caller, of a class in Kafka's jars.
func Command(t testing.TB, class string, args ...string) *exec.Cmd {
	t.Helper()
	java, err := kafkajars.Java()
	if err != nil {
		t.Skip(err)
	}
	jars, err := kafkajars.Classpath()
	if err != nil {
		t.Skipf("no jars of Kafka: %v", err)
	}
	// Small, and quick to start: most of a tool's run is the start of the JVM.
	flags := []string{"-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", jars, class}
	return exec.CommandContext(t.Context(), java, append(flags, args...)...)
}
