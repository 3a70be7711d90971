package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"mft/internal/measure"
)

// Limit is something that the machine can do.
type Limit struct {
	Name  string  `json:"name"`
	Unit  string  `json:"unit"`
	Value float64 `json:"value"`
}

// Limits measures what the machine can do, with so many bytes for each rate; files are made in dir, and stay.
func Limits(ctx context.Context, dir string, bytes int64) ([]Limit, error) {
	var found []Limit
	for _, m := range []struct {
		name, unit string
		measure    func(context.Context, string, int64) (float64, error)
	}{
		{"copy in memory, 1 MiB at a time, one core", "GB/s", memory},
		{"loopback TCP, one connection, 1 MiB writes", "GB/s", loopbackTCP},
		{"loopback TCP, 1 KiB there and back at 1,000/s, p50", "ms", func(ctx context.Context, _ string, _ int64) (float64, error) { return echo(ctx, 0.5) }},
		{"write a file, page cache", "GB/s", func(_ context.Context, dir string, n int64) (float64, error) { return write(dir, n, false) }},
		{"write a file and fdatasync", "GB/s", func(_ context.Context, dir string, n int64) (float64, error) { return write(dir, n, true) }},
		{"append 4 KiB and fsync, p50", "ms", func(_ context.Context, dir string, _ int64) (float64, error) { return appends(dir) }},
	} {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		v, err := m.measure(ctx, dir, bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		found = append(found, Limit{m.name, m.unit, v})
	}
	return found, nil
}

const mib = 1 << 20

func gbPerSecond(bytes int64, start time.Time) float64 {
	return float64(bytes) / 1e9 / time.Since(start).Seconds()
}

func memory(_ context.Context, _ string, bytes int64) (float64, error) {
	from, to := measure.Payload(mib, true, 1), make([]byte, mib)
	copy(to, from)
	start := time.Now()
	for range bytes / mib {
		copy(to, from)
	}
	return gbPerSecond(bytes/mib*mib, start), nil
}

// pair is the two ends of a connection over the loopback interface.
func pair() (client, server net.Conn, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, ln.Close()) }()
	if client, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		return nil, nil, err
	}
	if server, err = ln.Accept(); err != nil {
		return nil, nil, errors.Join(err, client.Close())
	}
	return client, server, nil
}

func loopbackTCP(_ context.Context, _ string, bytes int64) (rate float64, err error) {
	client, server, err := pair()
	if err != nil {
		return 0, err
	}
	sent := make(chan error, 1)
	start := time.Now()
	go func() {
		data := measure.Payload(mib, true, 1)
		var err error
		for n := int64(0); n < bytes && err == nil; n += mib {
			_, err = client.Write(data)
		}
		sent <- errors.Join(err, client.Close())
	}()
	var n int64
	buf := make([]byte, mib)
	for err == nil {
		var got int
		got, err = server.Read(buf)
		n += int64(got)
	}
	rate = gbPerSecond(n, start)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return rate, errors.Join(err, server.Close(), <-sent)
}

func echo(ctx context.Context, quantile float64) (ms float64, err error) {
	client, server, err := pair()
	if err != nil {
		return 0, err
	}
	echoed := make(chan error, 1)
	go func() {
		_, err := io.Copy(onlyWriter{server}, server) // through memory, not by splice
		echoed <- errors.Join(err, server.Close())
	}()
	var took []time.Duration
	buf := make([]byte, 1<<10)
	err = measure.Pace(ctx, 1000, 1000, func(time.Time) error {
		start := time.Now()
		if _, err := client.Write(buf); err != nil {
			return err
		}
		if _, err := io.ReadFull(client, buf); err != nil {
			return err
		}
		took = append(took, time.Since(start))
		return nil
	})
	if err = errors.Join(err, client.Close(), <-echoed); err != nil {
		return 0, err
	}
	return at(took, quantile), nil
}

type onlyWriter struct{ io.Writer }

func write(dir string, bytes int64, durable bool) (rate float64, err error) {
	f, err := os.CreateTemp(dir, "limit-")
	if err != nil {
		return 0, err
	}
	data := measure.Payload(mib, true, 1)
	start := time.Now()
	for n := int64(0); n < bytes && err == nil; n += mib {
		_, err = f.Write(data)
	}
	if durable && err == nil {
		err = f.Sync()
	}
	rate = gbPerSecond(bytes, start)
	return rate, errors.Join(err, f.Close())
}

func appends(dir string) (float64, error) {
	f, err := os.OpenFile(filepath.Join(dir, "appends"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return 0, err
	}
	var took []time.Duration
	data := measure.Payload(4<<10, true, 1)
	for range 200 {
		start := time.Now()
		if _, err = f.Write(data); err == nil {
			err = f.Sync()
		}
		if err != nil {
			break
		}
		took = append(took, time.Since(start))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, err
	}
	return at(took, 0.5), nil
}

// at is a quantile, in milliseconds.
func at(took []time.Duration, quantile float64) float64 {
	slices.Sort(took)
	return took[int(quantile*float64(len(took)-1))].Seconds() * 1000
}
