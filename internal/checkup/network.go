package checkup

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"mft/protocol"
)

const clientID = "mft-admin"

// maxAnswer bounds what is read as an answer to ApiVersions.
const maxAnswer = 64 << 10

// needed are the APIs that files and records need, and the least version of each: record batches of Kafka 0.11 and what came with them.
var needed = []struct{ key, version int16 }{
	{int16(kmsg.Produce), 3}, {int16(kmsg.Fetch), 4}, {int16(kmsg.ListOffsets), 1}, {int16(kmsg.Metadata), 4}, {int16(kmsg.FindCoordinator), 0},
	{int16(kmsg.JoinGroup), 0}, {int16(kmsg.SyncGroup), 0}, {int16(kmsg.Heartbeat), 0}, {int16(kmsg.OffsetCommit), 1}, {int16(kmsg.OffsetFetch), 1},
}

// brokers looks at every broker that is named, and then, through those that answer, at the topics.
func (r *run) brokers(ctx context.Context) {
	var answering []string
	for _, address := range r.Brokers {
		if r.broker(ctx, address) {
			answering = append(answering, address)
		}
	}
	if len(answering) == 0 {
		r.result.Unreachable = true
		for _, use := range r.Topics {
			r.skip(Topic, use.Name, "no broker answers")
		}
		return
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(answering...), kgo.ClientID(clientID), kgo.RequestRetries(3), kgo.DisableClientMetrics())
	if err != nil {
		r.fail(Protocol, strings.Join(answering, ","), err.Error(), "run the check again")
		return
	}
	defer client.Close()
	if !r.advertised(ctx, client) {
		for _, use := range r.Topics {
			r.skip(Topic, use.Name, "no broker can be reached by the address that it tells clients")
		}
		return
	}
	for _, use := range r.Topics {
		r.topic(ctx, client, use)
		if use.Files && use.Receive {
			r.topic(ctx, client, TopicUse{Name: use.Name + protocol.ReceiptsSuffix, Send: true, Receive: true, AcksAll: true, Receipts: true})
		}
	}
	r.clock(ctx, client)
}

// broker looks at one address: name, port, protocol.
func (r *run) broker(ctx context.Context, address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		r.fail(Name, address, err.Error(), "write HOST:PORT")
		return false
	}
	if net.ParseIP(host) == nil {
		bounded, cancel := context.WithTimeout(ctx, r.Timeout)
		addrs, err := net.DefaultResolver.LookupHost(bounded, host)
		cancel()
		if err != nil {
			r.fail(Name, host, err.Error(), "correct the name, add it to the DNS or /etc/hosts, or use the address itself")
			return false
		}
		r.ok(Name, host, "is "+strings.Join(addrs, ", "))
	}
	began := time.Now()
	conn, err := r.dial(ctx, address)
	if err != nil {
		detail, remedy := dialTrouble(err, address)
		r.fail(Connection, address, detail, remedy)
		return false
	}
	r.ok(Connection, address, fmt.Sprintf("is open, %s away", time.Since(began).Round(10*time.Microsecond)))
	versions, err := apiVersions(conn)
	err = errors.Join(err, conn.Close())
	if err != nil {
		r.fail(Protocol, address, err.Error(), "a program that is no broker listens there, or a broker that wants TLS: compare the port with the broker's listeners")
		return false
	}
	var missing []string
	for _, n := range needed {
		if highest, ok := versions[n.key]; !ok || highest < n.version {
			missing = append(missing, kmsg.NameForKey(n.key))
		}
	}
	if len(missing) > 0 {
		r.fail(Protocol, address, "the broker lacks "+strings.Join(missing, ", "), "use mft-broker, or Kafka 1.0 or later")
		return false
	}
	r.ok(Protocol, address, fmt.Sprintf("speaks Kafka's protocol, %d APIs", len(versions)))
	return true
}

func (r *run) dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: r.Timeout}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(r.Timeout))
}

func dialTrouble(err error, address string) (detail, remedy string) {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused: the machine is there, and nothing listens on the port",
			"start mft-broker there; if it runs, compare the address that it logs with this one: by default it listens on loopback only (--listen 0.0.0.0:9999)"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return err.Error(), "check the address, the route and the VPN"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "no answer: a firewall drops the packets, or the machine is down", "open the port in the firewall; 'nc -vz " + strings.ReplaceAll(address, ":", " ") + "' tries it without mft"
	}
	return err.Error(), "correct the address"
}

// speaksKafka tells whether what listens on an address is a broker.
func (r *run) speaksKafka(ctx context.Context, address string) error {
	conn, err := r.dial(ctx, address)
	if err != nil {
		return err
	}
	_, err = apiVersions(conn)
	return errors.Join(err, conn.Close())
}

// apiVersions asks for the APIs and the highest version of each, in the oldest form of the question, which every broker knows.
func apiVersions(conn net.Conn) (map[int16]int16, error) {
	const correlation = 1
	req := kmsg.NewPtrApiVersionsRequest()
	frame := kmsg.NewRequestFormatter(kmsg.FormatterClientID(clientID)).AppendRequest(nil, req, correlation)
	if _, err := conn.Write(frame); err != nil {
		return nil, fmt.Errorf("it takes no request: %w", err)
	}
	var head [8]byte
	n, err := io.ReadFull(conn, head[:])
	if err != nil {
		return nil, fmt.Errorf("it does not answer Kafka's ApiVersions (%w)%s", err, said(head[:n]))
	}
	size := binary.BigEndian.Uint32(head[:])
	if size < 4+2+4 || size > maxAnswer || binary.BigEndian.Uint32(head[4:]) != correlation {
		return nil, fmt.Errorf("it does not speak Kafka's protocol%s", said(head[:]))
	}
	body := make([]byte, size-4)
	if _, err := io.ReadFull(conn, body); err != nil {
		return nil, fmt.Errorf("its answer to ApiVersions ends early: %w", err)
	}
	resp := kmsg.NewPtrApiVersionsResponse()
	if err := resp.ReadFrom(body); err != nil {
		return nil, fmt.Errorf("its answer to ApiVersions is none: %w", err)
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return nil, fmt.Errorf("its answer to ApiVersions: %w", err)
	}
	versions := make(map[int16]int16, len(resp.ApiKeys))
	for _, k := range resp.ApiKeys {
		versions[k.ApiKey] = k.MaxVersion
	}
	return versions, nil
}

// said shows what came instead of an answer.
func said(p []byte) string {
	switch {
	case len(p) == 0:
		return ""
	case bytes.HasPrefix(p, []byte{0x15, 0x03}):
		return ": it speaks TLS"
	}
	return fmt.Sprintf(": what it says begins with %q", p)
}

// advertised looks whether the brokers can be reached by the addresses that clients are told to go on at.
func (r *run) advertised(ctx context.Context, client *kgo.Client) bool {
	bounded, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	resp, err := req.RequestWith(bounded, client)
	if err != nil {
		r.fail(Advertised, strings.Join(r.Brokers, ","), fmt.Sprintf("the brokers do not say who they are: %v", err), "look into the broker's log")
		return false
	}
	some := false
	for _, b := range resp.Brokers {
		address := net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
		err := r.speaksKafka(ctx, address)
		subject := fmt.Sprintf("broker %d", b.NodeID)
		if err != nil {
			r.fail(Advertised, subject, fmt.Sprintf("it tells clients to go on at %s, and there is no getting there from here: %v", address, err),
				"set the broker's advertised address to one that clients reach (advertised of the listener in transfer.yml; advertised.listeners of Kafka), or start the broker if it is down")
			continue
		}
		some = true
		r.ok(Advertised, subject, "tells clients to go on at "+address+", which answers")
	}
	return some
}
