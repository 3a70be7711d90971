package producer_test

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"mft/producer"
	"mft/protocol"
)

// TestConfirm answers each file with receipts made by hand: what counts, and
// what does not.
func TestConfirm(t *testing.T) { onEachKafka(t, 2, testConfirm) }

func testConfirm(t *testing.T, brokers []string) {
	content := []byte("content")
	digest, err := protocol.NewDigest(protocol.DigestSHA256)
	if err != nil {
		t.Fatal(err)
	}
	digest.Write(content)
	sum := fmt.Sprintf("%x", digest.Sum(nil))
	key := protocol.NewKey()
	good := func(r *protocol.Receipt) {
		r.State, r.Size, r.DigestKind, r.Digest = protocol.StateDelivered, int64(len(content)), protocol.DigestSHA256, sum
	}
	for _, test := range []struct {
		name      string
		key       *protocol.Key // of the file
		sealed    *protocol.Key // of the receipt
		change    func(*protocol.Receipt)
		confirmed bool
		why       string // it is not; "": nothing counted
	}{
		{"good", nil, nil, func(*protocol.Receipt) {}, true, ""},
		{"other group", nil, nil, func(r *protocol.Receipt) { r.Group = "other" }, false, ""},
		{"other transfer", nil, nil, func(r *protocol.Receipt) { r.Transfer = protocol.NewTransferID() }, false, ""},
		{"other size", nil, nil, func(r *protocol.Receipt) { r.Size++ }, false, "it has 8 bytes"},
		{"other digest", nil, nil, func(r *protocol.Receipt) { r.Digest = "00" }, false, "with sha256 00 there"},
		{"other kind of digest", nil, nil, func(r *protocol.Receipt) { r.DigestKind = protocol.DigestBLAKE3 }, false, "blake3"},
		{"failed", nil, nil, func(r *protocol.Receipt) { r.State, r.Reason = protocol.StateFailed, "no room" }, false, "did not place it: no room"},
		{"skipped", nil, nil, func(r *protocol.Receipt) { r.State, r.Reason = protocol.StateSkipped, "it is there" }, false, "it is there"},
		{"encrypted", key, key, func(*protocol.Receipt) {}, true, ""},
		{"encrypted by another key", key, protocol.NewKey(), func(*protocol.Receipt) {}, false, ""},
		{"forged in clear", key, nil, func(*protocol.Receipt) {}, false, ""},
		{"failed in clear", key, nil, func(r *protocol.Receipt) { r.State, r.Reason = protocol.StateFailed, "no key" }, false, "no key"},
		{"encrypted of a file in clear", nil, key, func(*protocol.Receipt) {}, false, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			topic := "t." + strings.ReplaceAll(test.name, " ", "-")
			client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.DefaultProduceTopic(topic+protocol.ReceiptsSuffix))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			if _, err := kadm.NewClient(client).CreateTopics(t.Context(), 1, 1, nil, topic, topic+protocol.ReceiptsSuffix); err != nil {
				t.Fatal(err)
			}
			var (
				confirmed []string
				why       error
				answering sync.WaitGroup
			)
			p := newProducer(t, brokers, func(c *producer.Config) {
				c.Topic, c.Digest, c.Key = topic, protocol.DigestSHA256, test.key
				c.Confirm = &producer.Confirm{Group: "g", Timeout: 300 * time.Millisecond}
				if test.confirmed || test.why != "" {
					c.Confirm.Timeout = time.Minute
				}
				c.Events.Confirmed = func(_, name string, _ protocol.Receipt) { confirmed = append(confirmed, name) }
				c.Events.Unconfirmed = func(_, _ string, err error) { why = err }
				c.Events.Done = func(id, _ string) {
					answering.Go(func() {
						r := protocol.Receipt{Transfer: protocol.TransferID(id), Group: "g", Time: time.Now()}
						good(&r)
						test.change(&r)
						if test.sealed != nil {
							sealer, err := test.sealed.NewSealer(r.Transfer, true)
							if err != nil {
								t.Error(err)
								return
							}
							r = sealer.SealReceipt(r)
						}
						k, v, headers := r.Encode()
						rec := &kgo.Record{Key: k, Value: v}
						for _, h := range headers {
							rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
						}
						if err := client.ProduceSync(t.Context(), &kgo.Record{Value: []byte("no receipt")}, rec).FirstErr(); err != nil {
							t.Error(err)
						}
					})
				}
			})
			sum, err := p.SendFiles(t.Context(), []string{writeFile(t, filepath.Join(t.TempDir(), "f"), bytes.Clone(content))}, producer.FileOptions{})
			answering.Wait()
			if err != nil || sum.Files != 1 {
				t.Fatalf("%+v, %v", sum, err)
			}
			switch {
			case test.confirmed:
				if sum.Confirmed != 1 || sum.Unconfirmed != 0 || len(confirmed) != 1 || confirmed[0] != "f" {
					t.Errorf("%+v, %q, %v", sum, confirmed, why)
				}
			case sum.Confirmed != 0 || sum.Unconfirmed != 1 || len(confirmed) > 0:
				t.Errorf("%+v, %q", sum, confirmed)
			case test.why == "" && !errors.Is(why, producer.ErrUnconfirmed), test.why != "" && !strings.Contains(why.Error(), test.why):
				t.Errorf("why: %v", why)
			}
		})
	}
}
