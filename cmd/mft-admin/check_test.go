package main

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kversion"

	"mft/broker"
)

// TestCheck runs testdata/check/*.txtar, for each check a way to fail it, with a broker of ours that MFT_BROKERS names. Besides exits
// they have
//
//	server VARIABLE KIND    starts a server and sets VARIABLE to its address. KINDs: web (speaks HTTP), tls, mute (takes connections and
//	                        says nothing), old (a Kafka of 2015), elsewhere (a broker that tells clients a wrong address), strict
//	                        (a broker that makes no topics on its own)
func TestCheck(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "check"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("MFT_BROKERS", startBroker(env.T().(testing.TB)))
			env.Setenv("MFT_STATE", filepath.Join(env.WorkDir, ".state"))
			env.Setenv("MFT_MIN_FREE", "1MB")
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "produce": produce, "commit": commit, "server": func(ts *testscript.TestScript, _ bool, args []string) {
				if len(args) != 2 {
					ts.Fatalf("usage: server VARIABLE KIND")
				}
				address, err := startServer(ts, t.TempDir, args[1])
				ts.Check(err)
				ts.Setenv(args[0], address)
			},
		},
	})
}

func startServer(ts *testscript.TestScript, dir func() string, kind string) (string, error) {
	greeting := map[string]string{"web": "HTTP/1.1 400 Bad Request\r\n\r\n", "tls": "\x15\x03\x03\x00\x02\x02\x46", "mute": ""}
	switch kind {
	case "web", "tls", "mute":
		return speak(ts, greeting[kind])
	case "old":
		cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.MaxVersions(kversion.V0_10_0()))
		if err != nil {
			return "", err
		}
		ts.Defer(cluster.Close)
		return cluster.ListenAddrs()[0], nil
	case "elsewhere", "strict":
		cfg := broker.DefaultConfig()
		cfg.Data, cfg.Listeners = dir(), []broker.Listener{{Addr: "127.0.0.1:0"}}
		if kind == "elsewhere" {
			cfg.Listeners[0].Advertised = "127.0.0.1:1"
		}
		cfg.AutoCreateTopics = kind != "strict"
		b, err := broker.New(cfg)
		if err != nil {
			return "", err
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- b.Run(ctx) }()
		ts.Defer(func() {
			cancel()
			ts.Check(<-done)
		})
		return b.Addrs()[0].String(), nil
	}
	return "", fmt.Errorf("there is no server %q", kind)
}

// speak answers each connection with a text, once something was said to it.
func speak(ts *testscript.TestScript, text string) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if text == "" {
				defer func() { _ = conn.Close() }()
				continue // and never a word
			}
			if _, err := conn.Read(make([]byte, 1024)); err == nil {
				_, _ = conn.Write([]byte(text))
			}
			_ = conn.Close()
		}
	}()
	ts.Defer(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String(), nil
}
