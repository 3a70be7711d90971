// Package kafkatest runs Apache Kafka itself and its tools in tests, from the jars that package kafkajars finds: a broker
// that a package's tests share, clusters of several brokers that can be killed one by one, and the programs that come with
// them. Tests are skipped, naming what is missing, where there is no Java 17, no Maven, or no way to the jars.
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
	java, jars := program(t)
	return exec.CommandContext(t.Context(), java, javaArgs(jars, nil, class, args...)...)
}

// program is the path of Java and the class path of Kafka's jars.
func program(t testing.TB) (java, jars string) {
	t.Helper()
	java, err := kafkajars.Java()
	if err != nil {
		t.Skip(err)
	}
	jars, err = kafkajars.Classpath()
	if err != nil {
		t.Skipf("no jars of Kafka: %v", err)
	}
	return java, jars
}

// javaArgs are the arguments of a JVM that is small and quick to start: most of a tool's run is its start.
func javaArgs(jars string, options []string, class string, args ...string) []string {
	all := append([]string{"-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"}, options...)
	return append(append(all, "-cp", jars, class), args...)
}
