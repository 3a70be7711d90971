package broker

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"mft/protocol"
)

// request encodes a whole request frame.
func request(req kmsg.Request, version int16, correlation int32) []byte {
	req.SetVersion(version)
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("hostile")).AppendRequest(nil, req, correlation)
}

// roundTrip sends bytes and returns the body of the frame that comes back.
func roundTrip(t testing.TB, nc net.Conn, frame []byte) ([]byte, error) {
	t.Helper()
	if err := nc.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Write(frame); err != nil {
		return nil, err
	}
	return protocol.ReadFrame(nc, nil, 1<<20)
}

func TestEveryAPIAndVersionIsAnswered(t *testing.T) {
	r := startBroker(t, func(c *Config) { c.GroupInitialRebalanceDelay = time.Millisecond })
	for _, api := range protocol.APIs {
		for v := api.Min; v <= api.Max; v++ {
			req := kmsg.RequestForKey(api.Key)
			switch req := req.(type) {
			case *kmsg.ProduceRequest:
				req.Acks = -1
			case *kmsg.MetadataRequest:
				req.Topics = []kmsg.MetadataRequestTopic{}
			}
			nc := r.dial()
			body, err := roundTrip(t, nc, request(req, v, 77))
			if err != nil {
				t.Errorf("%s v%d: %v", api.Name, v, err)
				continue
			}
			resp := req.ResponseKind()
			resp.SetVersion(v)
			b := kbin.Reader{Src: body}
			if id := b.Int32(); id != 77 {
				t.Errorf("%s v%d: correlation id %d", api.Name, v, id)
			}
			if req.IsFlexible() && api.Key != int16(kmsg.ApiVersions) {
				kmsg.SkipTags(&b)
			}
			if err := resp.ReadFrom(b.Src); err != nil {
				t.Errorf("%s v%d: the answer does not decode: %v", api.Name, v, err)
			}
		}
	}
}

func TestApiVersionsFromTheFuture(t *testing.T) {
	r := startBroker(t)
	frame := request(kmsg.NewPtrApiVersionsRequest(), 3, 5)
	binary.BigEndian.PutUint16(frame[6:], 99)
	body, err := roundTrip(t, r.dial(), frame)
	if err != nil {
		t.Fatal(err)
	}
	resp := kmsg.NewPtrApiVersionsResponse()
	if err := resp.ReadFrom(body[4:]); err != nil {
		t.Fatal(err)
	}
	if resp.ErrorCode != 35 || len(resp.ApiKeys) != len(protocol.APIs) {
		t.Errorf("error code %d, %d keys", resp.ErrorCode, len(resp.ApiKeys))
	}
}

func TestHostileConnectionsAreClosedAndOthersServed(t *testing.T) {
	r := startBroker(t, func(c *Config) { c.MaxFrameBytes = 1 << 20; c.MaxConnections = 40 })
	produceV2 := request(kmsg.NewPtrProduceRequest(), 3, 1)
	binary.BigEndian.PutUint16(produceV2[6:], 2)
	unknownKey := request(kmsg.NewPtrMetadataRequest(), 1, 1)
	binary.BigEndian.PutUint16(unknownKey[4:], 9999)
	futureVersion := request(kmsg.NewPtrMetadataRequest(), 1, 1)
	binary.BigEndian.PutUint16(futureVersion[6:], 99)
	cut := request(kmsg.NewPtrMetadataRequest(), 12, 1)
	binary.BigEndian.PutUint32(cut, uint32(len(cut)-5))
	hugeArray := append([]byte{0, 0, 0, 20, 0, 3, 0, 1, 0, 0, 0, 1, 0, 0}, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0)

	for name, frame := range map[string][]byte{
		"http":               []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
		"tls":                {0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0, 0},
		"negative length":    {0xff, 0xff, 0xff, 0xff, 0, 3, 0, 0},
		"four gigabytes":     {0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 7},
		"over the limit":     {0, 0x10, 0, 1, 0, 0, 0, 7},
		"length zero":        make([]byte, 16),
		"unknown key":        unknownKey,
		"unknown version":    futureVersion,
		"produce version 2":  produceV2,
		"body cut":           cut[:len(cut)-1],
		"array of two giga":  hugeArray,
		"header without end": {0, 0, 0, 4, 0, 3, 0, 9},
	} {
		t.Run(name, func(t *testing.T) {
			nc := r.dial()
			if _, err := roundTrip(t, nc, frame); !errors.Is(err, io.EOF) && !isReset(err) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("want a closed connection, got %v", err)
			}
		})
	}

	// Connections that stay silent, or stop in the middle, hold nothing up.
	for range 20 {
		nc := r.dial()
		if _, err := nc.Write([]byte{0, 0, 1}); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.client(kgo.DefaultProduceTopic("t")).ProduceSync(testContext(t), &kgo.Record{Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

func TestSilentConnectionIsClosed(t *testing.T) {
	r := startBroker(t, func(c *Config) { c.IdleTimeout = 50 * time.Millisecond })
	for name, start := range map[string][]byte{"silent": nil, "half a request": {0, 0, 0, 50, 0, 3, 0, 1, 0}} {
		nc := r.dial()
		if _, err := nc.Write(start); err != nil {
			t.Fatal(err)
		}
		if err := nc.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := nc.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: still open: %v", name, err)
		}
	}
}

func TestTooManyConnections(t *testing.T) {
	r := startBroker(t, func(c *Config) { c.MaxConnections = 3 })
	frame := request(kmsg.NewPtrApiVersionsRequest(), 0, 1)
	for range 3 {
		if _, err := roundTrip(t, r.dial(), frame); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := roundTrip(t, r.dial(), frame); err == nil {
		t.Error("the fourth of three connections was served")
	}
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	r := startBroker(t)
	if _, err := r.topics.create(testContext(t), mustTopic(t, r, "t")); err != nil {
		t.Fatal(err)
	}
	produce := func() *kmsg.ProduceRequest {
		req := kmsg.NewPtrProduceRequest()
		req.Acks, req.TimeoutMillis = -1, 10_000
		rt := kmsg.NewProduceRequestTopic()
		rt.Topic = "t"
		rp := kmsg.NewProduceRequestTopicPartition()
		rp.Records = testBatch(t, protocol.None, "v")
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		return req
	}
	var frames []byte
	const n = 200 // more than a connection may have under way
	for i := range int32(n) {
		if i%3 == 2 {
			frames = append(frames, request(kmsg.NewPtrMetadataRequest(), 9, i)...)
			continue
		}
		frames = append(frames, request(produce(), 9, i)...)
	}
	nc := r.dial()
	go func() {
		if _, err := nc.Write(frames); err != nil {
			t.Error(err)
		}
	}()
	if err := nc.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	for i := range uint32(n) {
		body, err := protocol.ReadFrame(nc, nil, 1<<20)
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		if got := binary.BigEndian.Uint32(body); got != i {
			t.Fatalf("answer %d has correlation id %d", i, got)
		}
	}
}

func FuzzConnection(f *testing.F) {
	for _, api := range protocol.APIs {
		f.Add(request(kmsg.RequestForKey(api.Key), api.Max, 1))
		f.Add(request(kmsg.RequestForKey(api.Key), api.Min, 1))
	}
	cfg := DefaultConfig()
	cfg.Data, cfg.Listeners = f.TempDir(), []Listener{{Addr: "127.0.0.1:0"}}
	b, err := New(cfg)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := b.Close(); err != nil {
			f.Error(err)
		}
	})
	// Law: whatever a client sends, the connection ends when the client does,
	// and the broker lives.
	f.Fuzz(func(t *testing.T, sent []byte) {
		client, server := net.Pipe()
		c := newConn(b.listeners[0], server)
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.serve(t.Context())
		}()
		go func() {
			// The broker may close the pipe before all is sent.
			_, _ = client.Write(sent)
			_ = client.Close()
		}()
		_, _ = io.Copy(io.Discard, client)
		<-done
	})
}
