package main

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/rs/zerolog"

	"mft/broker"
	"mft/internal/command"
	"mft/internal/config"
)

// withBroker runs work with a broker in this process, which work connects to
// over loopback. The broker is there before work begins and stops after it
// has ended, so that the last commits arrive.
func (r *runner) withBroker(ctx context.Context, log zerolog.Logger, work func(context.Context) error) error {
	cfg, own, err := r.brokerConfig()
	if err != nil {
		return err
	}
	cfg.Logger = log
	b, err := broker.New(cfg)
	if err != nil {
		return err
	}
	addr := b.Addrs()[own]
	r.Brokers = []string{reachable(addr)}
	log.Info().Stringer("listen", addr).Str("data", cfg.Data).Msg("the broker inside is ready")

	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	working, abort := context.WithCancel(ctx)
	defer abort()
	ended := make(chan error, 1)
	go func() {
		err := b.Run(serving)
		abort() // without a broker there is nothing to do
		ended <- err
	}()
	err = work(working)
	stop()
	if brokerErr := <-ended; brokerErr != nil {
		err = errors.Join(fmt.Errorf("the broker inside: %w", brokerErr), err)
	}
	return err
}

// brokerConfig is what the flags say, then transfer.yml; own is the listener
// that this process connects to.
func (r *runner) brokerConfig() (cfg broker.Config, own int, err error) {
	cfg = broker.DefaultConfig()
	cfg.Data = r.data
	file := r.file.Broker
	if file.Data != "" && !r.flags.Changed("data") {
		cfg.Data = file.Data
	}
	cfg.TopicDefaults = file.TopicDefaults
	if file.DefaultPartitions > 0 {
		cfg.DefaultPartitions = file.DefaultPartitions
	}
	if file.AutoCreateTopics != nil {
		cfg.AutoCreateTopics = *file.AutoCreateTopics
	}
	cfg.Listeners = nil
	if len(file.Listen) > 0 && !r.flags.Changed("listen") {
		for _, l := range file.Listen {
			cfg.Listeners = append(cfg.Listeners, broker.Listener{Addr: l.Address, Advertised: l.Advertised})
		}
	} else {
		for _, listen := range r.listen {
			address, err := config.ParseAddress(listen)
			if err != nil {
				return cfg, 0, command.Usagef("--listen: %w", err)
			}
			cfg.Listeners = append(cfg.Listeners, broker.Listener{Addr: address})
		}
	}
	if cfg.Listeners[0].Advertised != "" { // clients of that one are sent elsewhere
		own = len(cfg.Listeners)
		cfg.Listeners = append(cfg.Listeners, broker.Listener{Addr: "127.0.0.1:0"})
	}
	return cfg, own, nil
}

// reachable is an address to connect to, for one that is listened on.
func reachable(addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return addr.String()
	}
	loopback := "127.0.0.1"
	if tcp.IP.To4() == nil {
		loopback = "::1"
	}
	return net.JoinHostPort(loopback, fmt.Sprint(tcp.Port))
}
