package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

const (
	shownLines = 4   // printed one by one
	countLines = 200 // measured in all
	lineEvery  = 10 * time.Millisecond
)

// line is one line that came out of mft-consume, and when.
type line struct {
	text string
	at   time.Time
}

// streamLines has mft-consume print a topic while mft-produce sends lines into
// it, and takes the time of each from the pipe into the one to the pipe out of
// the other.
func (d *demo) streamLines(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, linesTime)
	defer cancel()

	d.prompt("mft-consume -t lines -f --from beginning &")
	consumer, arrived, err := d.startConsumer(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, consumer.stop()) }()

	d.prompt("sensor | mft-produce -t lines")
	producer, input, err := d.startProducer(ctx)
	if err != nil {
		return err
	}
	defer func() {
		// The end of its input ends the producer, well.
		closed := input.Close()
		if err != nil {
			producer.cancel()
		}
		err = errors.Join(err, closed, producer.wait())
	}()

	// The first line shows that both have found the broker and the topic.
	if _, err := d.oneLine(ctx, input, arrived, "ready"); err != nil {
		return err
	}
	took := make([]time.Duration, 0, countLines)
	tick := time.NewTicker(lineEvery)
	defer tick.Stop()
	for i := range countLines {
		text := fmt.Sprintf("%s sensor-%d temperature=%.1f", time.Now().Format("15:04:05.000"), i%3+1, 20+float64(i%17)/4)
		delay, err := d.oneLine(ctx, input, arrived, text)
		if err != nil {
			return err
		}
		took = append(took, delay)
		if i < shownLines {
			d.say("%s   %s after it was written", text, milliseconds(delay))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	slices.Sort(took)
	d.say("… %d lines, each durable before it is shown: median %s, slowest %s", countLines, milliseconds(took[len(took)/2]), milliseconds(took[len(took)-1]))
	return nil
}

// oneLine writes a line and waits until it arrives.
func (d *demo) oneLine(ctx context.Context, input io.Writer, arrived <-chan line, text string) (time.Duration, error) {
	start := time.Now()
	if _, err := io.WriteString(input, text+"\n"); err != nil {
		return 0, fmt.Errorf("mft-produce takes no more lines: %w", err)
	}
	select {
	case got, ok := <-arrived:
		if !ok {
			return 0, errors.New("mft-consume ended before the lines did")
		}
		if got.text != text {
			return 0, fmt.Errorf("sent %q, got %q", text, got.text)
		}
		return got.at.Sub(start), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("%q did not arrive: %w", text, ctx.Err())
	}
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000)
}

func (d *demo) startConsumer(ctx context.Context) (*process, <-chan line, error) {
	running, cancel := context.WithCancel(ctx)
	p := &process{cmd: d.exec(running, "mft-consume", "-t", "lines", "-f", "--from", "beginning"), cancel: cancel, log: &tail{}}
	p.cmd.Stderr = p.log
	output, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, nil, err
	}
	arrived := make(chan line, countLines+1) // never full: the reader ends with the pipe
	go func() {
		defer close(arrived)
		for scanner := bufio.NewScanner(output); scanner.Scan(); {
			select {
			case arrived <- line{scanner.Text(), time.Now()}:
			case <-running.Done():
				return
			}
		}
	}()
	return p, arrived, nil
}

func (d *demo) startProducer(ctx context.Context) (*process, io.WriteCloser, error) {
	running, cancel := context.WithCancel(ctx)
	p := &process{cmd: d.exec(running, "mft-produce", "-t", "lines"), cancel: cancel, log: &tail{}}
	p.cmd.Stderr = p.log
	input, err := p.cmd.StdinPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, nil, err
	}
	return p, input, nil
}
