package producer_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"mft/broker"
	"mft/producer"
)

// Sends a directory and a few lines to a broker that runs in the same process;
// any other address of an mft-broker or a Kafka would do.
func Example() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	addr, stop := exampleBroker(filepath.Join(dir, "data"))
	defer stop()

	reports := filepath.Join(dir, "reports")
	if err := os.Mkdir(reports, 0o755); err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(reports, "january.txt"), []byte("all is well\n"), 0o644); err != nil {
		log.Fatal(err)
	}

	p, err := producer.New(producer.Config{Brokers: []string{addr}, Topic: "reports"})
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()
	sum, err := p.SendFiles(context.Background(), []string{reports}, producer.FileOptions{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(sum.Files, "file,", sum.Dirs, "directory,", sum.Bytes, "bytes")

	lines, err := producer.New(producer.Config{Brokers: []string{addr}, Topic: "log"})
	if err != nil {
		log.Fatal(err)
	}
	defer lines.Close()
	sum, err = lines.SendLines(context.Background(), strings.NewReader("one\ntwo\n"), producer.LineOptions{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(sum.Records, "lines")
	// Output:
	// 1 file, 1 directory, 12 bytes
	// 2 lines
}

// exampleBroker starts a broker on a free loopback port.
func exampleBroker(data string) (addr string, stop func()) {
	cfg := broker.DefaultConfig()
	cfg.Data, cfg.Listeners = data, []broker.Listener{{Addr: "127.0.0.1:0"}}
	b, err := broker.New(cfg)
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	return b.Addrs()[0].String(), func() {
		cancel()
		if err := <-done; err != nil {
			log.Fatal(err)
		}
	}
}
