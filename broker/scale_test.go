package broker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"mft/protocol"
)

// childData names the data directory, in the environment of a test binary
// that is to be a broker in a process of its own.
const childData = "MFT_TEST_BROKER_DATA"

// runChild is the broker of that process. It prints its address, then for
// each line that comes in its number of goroutines, after a collection of
// garbage; it stops cleanly when its input ends.
func runChild(data string) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "broker:", err)
		return 1
	}
	cfg := DefaultConfig()
	cfg.Data, cfg.Listeners = data, []Listener{{Addr: "127.0.0.1:0"}}
	cfg.Logger = zerolog.New(os.Stderr).Level(zerolog.WarnLevel)
	b, err := New(cfg)
	if err != nil {
		return fail(err)
	}
	fmt.Println(b.Addrs()[0])
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() {
		defer stop()
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			debug.FreeOSMemory()
			fmt.Println(runtime.NumGoroutine())
		}
	}()
	if err := b.Run(ctx); err != nil {
		return fail(err)
	}
	return 0
}

// child is a broker in a process of its own.
type child struct {
	t       testing.TB
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Scanner
	addr    string
	started time.Duration // from the start of the process to its listening
	ended   bool
}

func startChild(t testing.TB, data string) *child {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc: Linux only")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{t: t, cmd: exec.Command(self)}
	c.cmd.Env = append(os.Environ(), childData+"="+data)
	c.cmd.Stderr = os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.kill)
	c.out = bufio.NewScanner(out)
	c.addr = c.line()
	c.started = time.Since(began)
	return c
}

func (c *child) line() string {
	c.t.Helper()
	if !c.out.Scan() {
		c.t.Fatal("the broker has ended: ", c.out.Err())
	}
	return c.out.Text()
}

// stop stops the broker cleanly and returns how long that took.
func (c *child) stop() time.Duration {
	c.t.Helper()
	began := time.Now()
	c.ended = true
	if err := errors.Join(c.in.Close(), c.cmd.Wait()); err != nil {
		c.t.Fatal(err)
	}
	return time.Since(began)
}

// kill ends the broker at once, as kill -9 does.
func (c *child) kill() {
	if c.ended {
		return
	}
	c.ended = true
	if err := c.cmd.Process.Kill(); err != nil {
		c.t.Error(err)
	}
	if err := c.cmd.Wait(); err == nil {
		c.t.Error("the broker ended by itself")
	}
}

// usage is what a child takes up.
type usage struct {
	rss        int64 // bytes
	cpu        time.Duration
	files      int
	goroutines int
}

func (c *child) usage() usage {
	c.t.Helper()
	if _, err := io.WriteString(c.in, "\n"); err != nil {
		c.t.Fatal(err)
	}
	n, err := strconv.Atoi(c.line())
	if err != nil {
		c.t.Fatal(err)
	}
	proc := fmt.Sprintf("/proc/%d/", c.cmd.Process.Pid)
	u := usage{goroutines: n, cpu: c.cpu()}
	files, err := os.ReadDir(proc + "fd")
	if err != nil {
		c.t.Fatal(err)
	}
	u.files = len(files)
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		c.t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	if _, err := fmt.Sscan(after, &u.rss); err != nil {
		c.t.Fatal(err)
	}
	u.rss <<= 10
	return u
}

// cpu is the processor time of the child so far; the kernel counts hundredths
// of a second.
func (c *child) cpu() time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
	if err != nil {
		c.t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
	var ticks int64
	for _, f := range fields[11:13] { // utime, stime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			c.t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

func (c *child) client() *kgo.Client {
	c.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(c.addr), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic("t"))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(client.Close)
	return client
}

func (c *child) dial() net.Conn {
	c.t.Helper()
	nc, err := net.Dial("tcp", c.addr)
	if err != nil {
		c.t.Fatal(err)
	}
	return nc
}

// createTopic creates topic "t".
func (c *child) createTopic(partitions int, configs map[string]*string) {
	c.t.Helper()
	client := c.client()
	if _, err := kadm.NewClient(client).CreateTopic(longContext(c.t), int32(partitions), 1, configs, "t"); err != nil {
		c.t.Fatal(err)
	}
}

// produceToAll appends a record to each of the partitions, with acks=all, some hundred
// of them in a request.
func (c *child) produceToAll(partitions int) {
	c.t.Helper()
	batch := testBatch(c.t, protocol.None, "value")
	nc := c.dial()
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		c.t.Fatal(err)
	}
	const each = 500
	for p := 0; p < partitions; p += each {
		req := kmsg.NewPtrProduceRequest()
		req.Acks, req.TimeoutMillis = -1, 60_000
		rt := kmsg.NewProduceRequestTopic()
		rt.Topic = "t"
		for i := p; i < min(p+each, partitions); i++ {
			rp := kmsg.NewProduceRequestTopicPartition()
			rp.Partition, rp.Records = int32(i), batch
			rt.Partitions = append(rt.Partitions, rp)
		}
		req.Topics = append(req.Topics, rt)
		if _, err := nc.Write(request(req, 9, 1)); err != nil {
			c.t.Fatal(err)
		}
		body, err := protocol.ReadFrame(nc, nil, 1<<20)
		if err != nil {
			c.t.Fatal(err)
		}
		if code, err := produceCode(body); err != nil || code != 0 {
			c.t.Fatal(err, kerr.ErrorForCode(code))
		}
	}
}

// connect opens n connections on which something has been asked once.
func (c *child) connect(n int) {
	c.t.Helper()
	ask := request(kmsg.NewPtrApiVersionsRequest(), 0, 1)
	for range n {
		nc := c.dial()
		c.t.Cleanup(func() {
			if err := nc.Close(); err != nil {
				c.t.Error(err)
			}
		})
		if _, err := nc.Write(ask); err != nil {
			c.t.Fatal(err)
		}
		if _, err := protocol.ReadFrame(nc, nil, 1<<20); err != nil {
			c.t.Fatal(err)
		}
	}
}

func longContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// Goroutines and open files are counted; memory and time are for
// BenchmarkScale.
func TestManyPartitionsAndConnectionsStayModest(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 2,000 partitions")
	}
	const partitions, connections = 2000, 200
	data := filepath.Join(t.TempDir(), "data")
	c := startChild(t, data)
	empty := c.usage()
	c.createTopic(partitions, nil)
	c.produceToAll(partitions)
	c.kill()

	c = startChild(t, data)
	full := c.usage()
	t.Logf("goroutines and open files: %d and %d without topics, %d and %d with %d partitions",
		empty.goroutines, empty.files, full.goroutines, full.files, partitions)
	if full.goroutines > empty.goroutines+5 {
		t.Errorf("%d partitions take %d goroutines", partitions, full.goroutines-empty.goroutines)
	}
	if full.files > empty.files+partitions+100 {
		t.Errorf("%d partitions take %d open files", partitions, full.files-empty.files)
	}
	c.connect(connections)
	connected := c.usage()
	t.Logf("%d and %d with %d connections more", connected.goroutines, connected.files, connections)
	if n := connected.goroutines - full.goroutines; n > 2*connections+5 {
		t.Errorf("%d connections take %d goroutines", connections, n)
	}
	if n := connected.files - full.files; n > connections+5 {
		t.Errorf("%d connections take %d open files", connections, n)
	}
	offsets, err := kadm.NewClient(c.client()).ListEndOffsets(longContext(t), "t")
	if err != nil {
		t.Fatal(err)
	}
	for p := range int32(partitions) {
		if o, ok := offsets.Lookup("t", p); !ok || o.Err != nil || o.Offset != 1 {
			t.Fatalf("partition %d after a kill: end offset %d, %v", p, o.Offset, o.Err)
		}
	}
	c.stop()
}
