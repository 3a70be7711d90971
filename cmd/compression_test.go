package cmd_test

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	"mft/internal/commandtest"
	"mft/internal/kafkatest"
)

// compressionSources are a source tree, something that a program has
// compressed already, random bytes, and a large file whose content changes on the way.
func compressionSources(t *testing.T) string {
	t.Helper()
	source := t.TempDir()
	if err := os.CopyFS(filepath.Join(source, "tree"), os.DirFS("../producer")); err != nil {
		t.Fatal(err)
	}
	random := make([]byte, 3<<20)
	rand.Read(random)
	var text, zipped bytes.Buffer
	for text.Len() < 3<<20 {
		text.WriteString("a line of text, number ")
		text.WriteByte(random[text.Len()%len(random)])
		text.WriteByte('\n')
	}
	w := gzip.NewWriter(&zipped)
	if _, err := w.Write(text.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"text": text.Bytes(), "random": random, "zipped.gz": zipped.Bytes(), "mixed": append(append(text.Bytes(), random...), text.Bytes()...),
	} {
		if err := os.WriteFile(filepath.Join(source, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return source
}

// TestCompressionOnKafka sends in every way of compressing, over one stream
// and over several, and reads all of it back from Kafka itself.
func TestCompressionOnKafka(t *testing.T) {
	k := kafkatest.Shared(t)
	source := compressionSources(t)
	for _, how := range []string{"auto", "none", "zstd", "lz4", "snappy", "gzip"} {
		for _, streams := range []string{"1", "4"} {
			topic := "compressed-" + how + "-" + streams
			sentAndReceived(t, source, []string{"-b", k.Brokers(), "-t", topic, "--compress", how, "--streams", streams},
				[]string{"-b", k.Brokers(), "-t", topic, "--streams", streams})
		}
	}
}

// TestStreamsOnKafka moves a large file, more than the receiver asks for at a
// time, and an encrypted one over several streams.
func TestStreamsOnKafka(t *testing.T) {
	k := kafkatest.Shared(t)
	source, key := t.TempDir(), filepath.Join(t.TempDir(), "key")
	commands.Run(t, "mft-admin", "keygen", "-o", key)
	commandtest.RandomFile(t, filepath.Join(source, "large"), 100<<20, 1)
	commandtest.RandomTree(t, source, 100, 100<<10, 2)
	sentAndReceived(t, source, []string{"-b", k.Brokers(), "-t", "streams", "--streams", "8"},
		[]string{"-b", k.Brokers(), "-t", "streams", "--streams", "8"})
	sentAndReceived(t, source, []string{"-b", k.Brokers(), "-t", "streams-sealed", "--streams", "3", "--encrypt-key", key},
		[]string{"-b", k.Brokers(), "-t", "streams-sealed", "--streams", "3", "--decrypt-key", key})
}
