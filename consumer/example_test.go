package consumer_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/twmb/franz-go/pkg/kgo"

	"mft/broker"
	"mft/consumer"
	"mft/protocol"
)

// A file in a topic becomes a file in a directory.
func ExampleReceiveFiles() {
	temp, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(temp)
	addr, stop := exampleBroker(filepath.Join(temp, "data"))
	defer stop()
	id := protocol.NewTransferID()
	produce(addr,
		protocol.FileRecord{Transfer: id, Kind: protocol.KindBegin, Manifest: &protocol.Manifest{Name: "hello.txt", Type: protocol.TypeFile, Size: 5, Mode: 0o644}},
		protocol.FileRecord{Transfer: id, Kind: protocol.KindChunk, Data: []byte("hello")},
		protocol.FileRecord{Transfer: id, Kind: protocol.KindEnd, End: &protocol.End{Size: 5}},
	)

	in := filepath.Join(temp, "in")
	sum, err := consumer.ReceiveFiles(context.Background(), consumer.FilesConfig{
		Config: consumer.Config{Brokers: []string{addr}, Topic: "files"},
		Dir:    in,
		Once:   true,
	})
	if err != nil {
		log.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(in, "hello.txt"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(sum.Files, sum.Bytes, string(content))
	// Output: 1 5 hello
}

// exampleBroker runs a broker in this process.
func exampleBroker(data string) (addr string, stop func()) {
	cfg := broker.DefaultConfig()
	cfg.Data, cfg.Listeners = data, []broker.Listener{{Addr: "127.0.0.1:0"}}
	b, err := broker.New(cfg)
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- b.Run(ctx) }()
	return b.Addrs()[0].String(), func() {
		cancel()
		if err := <-ended; err != nil {
			log.Fatal(err)
		}
	}
}

func produce(addr string, records ...protocol.FileRecord) {
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.DefaultProduceTopic("files"), kgo.AllowAutoTopicCreation())
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	for _, r := range records {
		key, value, headers := r.Encode()
		out := &kgo.Record{Key: key, Value: value}
		for _, h := range headers {
			out.Headers = append(out.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
		}
		if err := client.ProduceSync(context.Background(), out).FirstErr(); err != nil {
			log.Fatal(err)
		}
	}
}
