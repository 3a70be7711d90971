package kafkatest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"
)

// asVictim has the test binary start a cluster and wait to be killed.
const asVictim = "MFT_KAFKATEST_VICTIM"

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// TestClusterSurvivesItsLeader: a cluster of three goes on without one of them, which catches up when it is back.
func TestClusterSurvivesItsLeader(t *testing.T) {
	c := Start(t, 3, Settings{"broker.session.timeout.ms": "3000", "broker.heartbeat.interval.ms": "500"})
	client, err := kgo.NewClient(kgo.SeedBrokers(c.Addrs()...), kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic("t"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	produce := func(text string) {
		t.Helper()
		if err := client.ProduceSync(ctx, kgo.StringRecord(text)).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	produce("one")
	if got := c.InSync(t, "t", 0); len(got) != 3 {
		t.Errorf("in sync: %v, want three", got)
	}
	leader := c.Leader(t, "t", 0)
	c.Kill(t, leader)
	produce("two")
	if now := c.Leader(t, "t", 0); now == leader {
		t.Errorf("broker %d is killed and leads", now)
	}
	c.Restart(t, leader)
	for len(c.InSync(t, "t", 0)) < 3 {
		if ctx.Err() != nil {
			t.Fatal("the broker does not catch up")
		}
		time.Sleep(askAgain)
	}
}

// TestNothingIsLeftOfAKilledTest kills a test binary with a broker: broker and files go.
func TestNothingIsLeftOfAKilledTest(t *testing.T) {
	if os.Getenv(asVictim) != "" {
		c := Shared(t)
		fmt.Printf("victim %s %s\n", c.Brokers(), c.Data())
		select {}
	}
	requireShell(t)
	program(t)
	victim := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
	victim.Env = append(os.Environ(), asVictim+"=1")
	out, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	var addr, dir string
	for lines := bufio.NewScanner(out); addr == "" && lines.Scan(); {
		if _, rest, ok := strings.Cut(lines.Text(), "victim "); ok {
			addr, dir, _ = strings.Cut(rest, " ")
		}
	}
	if addr != "" {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Error(err)
		} else if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := victim.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = victim.Wait() // it was killed
	if addr == "" {
		t.Fatal("the victim started no broker")
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(askAgain) {
		_, err := os.Stat(dir)
		conn, dialed := net.Dial("tcp", addr)
		if dialed == nil {
			_ = conn.Close()
		}
		if errors.Is(err, fs.ErrNotExist) && dialed != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("left over: %s: %v, %s: %v", dir, err, addr, dialed)
		}
	}
}
