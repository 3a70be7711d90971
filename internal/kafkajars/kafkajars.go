// Package kafkajars finds Apache Kafka's own programs: its jars in Maven Central, and a Java that runs them.
//
// The jars come through Maven, once: what it resolved is written down in a cache directory outside the repository,
// ${XDG_CACHE_HOME:-~/.cache}/mft-ci/kafka-<version>.
package kafkajars

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

	"github.com/gofrs/flock"
)

// Version is that of Kafka: one that runs on Java 17.
const Version = "4.1.0"

// pom asks for the broker, which is an artifact of its own, for the tools beside it, and for what lets them log.
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
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka-tools</artifactId>
      <version>` + Version + `</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-slf4j-impl</artifactId>
      <version>2.24.3</version>
    </dependency>
  </dependencies>
</project>
`

var javaVersion = regexp.MustCompile(`version "(\d+)`)

// Java returns the path of a Java that can run Kafka. An error says what to install.
func Java() (string, error) {
	path, err := exec.LookPath("java")
	if err != nil {
		return "", errors.New("java is not installed: apt-get install openjdk-17-jre-headless")
	}
	out, err := exec.Command(path, "-version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("java -version: %w\n%s", err, out)
	}
	if m := javaVersion.FindSubmatch(out); m != nil {
		if major, err := strconv.Atoi(string(m[1])); err == nil && major < 17 {
			return "", fmt.Errorf("kafka %s needs Java 17, this is %d", Version, major)
		}
	}
	return path, nil
}

// Classpath returns the class path of Kafka's jars, asking Maven for them when they are not there yet. It asks once
// in a process.
func Classpath() (string, error) { return resolve() }

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

// resolveIn returns the class path that is written down in dir, asking Maven when there is none, it was for another
// pom, or its files are gone.
func resolveIn(dir string) (string, error) {
	file, asked := filepath.Join(dir, "classpath"), filepath.Join(dir, "pom.xml")
	last, err := os.ReadFile(asked)
	if err == nil && string(last) == pom {
		if text, err := os.ReadFile(file); err == nil && allThere(string(text)) {
			return string(text), nil
		}
	}
	maven, err := exec.LookPath("mvn")
	if err != nil {
		return "", errors.New("maven is not installed: apt-get install maven")
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if err := os.WriteFile(asked, []byte(pom), 0o644); err != nil {
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
