// Package kafkatest runs Apache Kafka's own programs in tests, from the jars in Maven Central.
//
// The jars come through Maven, once: what it resolved is written down in a cache directory outside the repository,
// ${XDG_CACHE_HOME:-~/.cache}/mft-ci/kafka-<version>. Tests are skipped, naming what is missing, where there is no
// Java 17, no Maven, or no way to the jars.
package kafkatest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/gofrs/flock"
)

// Version is that of Kafka: one that runs on Java 17.
const Version = "4.1.0"

const pom = `<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>mft</groupId>
  <artifactId>kafka</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>` + Version + `</version>
    </dependency>
  </dependencies>
</project>
`

// Command returns a command, to be run by the caller, of a class in Kafka's jars.
func Command(t testing.TB, class string, args ...string) *exec.Cmd {
	t.Helper()
	java := javaPath(t)
	// Small, and quick to start: most of a tool's run is the start of the JVM.
	java = append(java, "-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", classpath(t), class)
	return exec.CommandContext(t.Context(), java[0], append(java[1:], args...)...)
}

var javaVersion = regexp.MustCompile(`version "(\d+)`)

func javaPath(t testing.TB) []string {
	t.Helper()
	path, err := exec.LookPath("java")
	if err != nil {
		t.Skip("Java is not installed: apt-get install openjdk-17-jre-headless")
	}
	out, err := exec.Command(path, "-version").CombinedOutput()
	if err != nil {
		t.Skipf("java -version: %v\n%s", err, out)
	}
	if m := javaVersion.FindSubmatch(out); m != nil {
		if major, err := strconv.Atoi(string(m[1])); err == nil && major < 17 {
			t.Skipf("Kafka %s needs Java 17, this is %d", Version, major)
		}
	}
	return []string{path}
}

// resolve looks the jars up once in a process.
var resolve = sync.OnceValues(func() (string, error) {
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", err
		}
		cache = filepath.Join(home, ".cache")
	}
	dir := filepath.Join(cache, "mft-ci", "kafka-"+Version)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock := flock.New(filepath.Join(dir, "lock")) // tests of several packages run at the same time
	if err := lock.Lock(); err != nil {
		return "", err
	}
	jars, err := resolveIn(dir)
	return jars, errors.Join(err, lock.Unlock())
})

func classpath(t testing.TB) string {
	t.Helper()
	jars, err := resolve()
	if err != nil {
		t.Skipf("no jars of Kafka: %v", err)
	}
	return jars
}

// resolveIn returns the class path that is written down in dir, asking Maven when there is none or its files are gone.
func resolveIn(dir string) (string, error) {
	file := filepath.Join(dir, "classpath")
	if text, err := os.ReadFile(file); err == nil && allThere(string(text)) {
		return string(text), nil
	}
	maven, err := exec.LookPath("mvn")
	if err != nil {
		return "", errors.New("Maven is not installed: apt-get install maven")
	}
	if err := os.WriteFile(filepath.Join(dir, "pom.xml"), []byte(pom), 0o644); err != nil {
		return "", err
	}
	c := exec.Command(maven, "-q", "-B", "dependency:build-classpath", "-Dmdep.outputFile="+file+".new")
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("mvn: %w\n%s", err, out)
	}
	text, err := os.ReadFile(file + ".new")
	if err != nil {
		return "", err
	}
	if !allThere(string(text)) {
		return "", fmt.Errorf("maven resolved files that are not there: %s", text)
	}
	return string(text), os.Rename(file+".new", file)
}

func allThere(classpath string) bool {
	for _, jar := range strings.Split(classpath, string(filepath.ListSeparator)) {
		if _, err := os.Stat(jar); err != nil {
			return false
		}
	}
	return true
}
