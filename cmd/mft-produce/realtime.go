package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"mft/internal/command"
	"mft/internal/config"
	"mft/internal/terminal"
	"mft/producer"
)

// sendRealtime mirrors the files of the command line while they grow.
func (r *runner) sendRealtime(ctx context.Context, paths []string) error {
	cfg := r.producerConfig(config.Transfer{})
	cfg.Logger = r.logger(r.err)
	if err := r.encrypt(&cfg, config.Transfer{}, cfg.Logger); err != nil {
		return err
	}
	return r.mirror(ctx, cfg, paths, producer.FileOptions{Include: r.include, Exclude: r.exclude})
}

// mirrorEvent is one JSON event about files that grow.
type mirrorEvent struct {
	Event   string  `json:"event"` // begin, done, failed, summary
	Topic   string  `json:"topic,omitempty"`
	ID      string  `json:"id,omitempty"`
	Name    string  `json:"name,omitempty"`
	Digest  string  `json:"digest,omitempty"`
	Message string  `json:"message,omitempty"`
	Files   *int    `json:"files,omitempty"`
	Bytes   *int64  `json:"bytes,omitempty"`
	Failed  *int    `json:"failed,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
}

// mirror mirrors files until ctx ends and sums up.
func (r *runner) mirror(ctx context.Context, cfg producer.Config, paths []string, o producer.FileOptions) error {
	var mu sync.Mutex
	names := make(map[string]string)
	emit := func(e mirrorEvent) {
		mu.Lock()
		defer mu.Unlock()
		if e.Event == "begin" {
			names[e.ID] = e.Name
		} else if e.Name == "" {
			e.Name = names[e.ID]
			delete(names, e.ID)
		}
		if r.JSON {
			_ = json.NewEncoder(r.out).Encode(e) // as in runner.emit
		}
	}
	cfg.Events = producer.Events{
		Begin: func(id, name string, _ int64, _ bool) {
			emit(mirrorEvent{Event: "begin", Topic: cfg.Topic, ID: id, Name: name})
		},
		Done: func(id, digest string) { emit(mirrorEvent{Event: "done", Topic: cfg.Topic, ID: id, Digest: digest}) },
		Failed: func(id, name string, why error) {
			emit(mirrorEvent{Event: "failed", Topic: cfg.Topic, ID: id, Name: name, Message: why.Error()})
			fmt.Fprintf(r.err, "failed: %s: %v\n", name, why)
		},
	}
	sum, err := with(cfg, func(p *producer.Producer) (producer.Summary, error) {
		return p.Mirror(ctx, paths, producer.MirrorOptions{FileOptions: o})
	})
	if r.JSON {
		emit(mirrorEvent{Event: "summary", Topic: cfg.Topic, Files: &sum.Mirrored, Bytes: &sum.Bytes, Failed: &sum.Failed, Seconds: sum.Elapsed.Seconds()})
	} else if err == nil || sum.Bytes > 0 {
		fmt.Fprintf(r.err, "mirrored %s, sent %s of them in %s\n", terminal.Count(sum.Mirrored, "file"), terminal.Size(sum.Bytes), terminal.Seconds(sum.Elapsed))
	}
	switch {
	case err != nil:
		return err
	case sum.Failed > 0 && sum.Mirrored == 0:
		return command.Hintf(errors.New("nothing could be mirrored"), "the reasons are above")
	case sum.Failed > 0:
		return command.Partlyf("%s could not be mirrored: the reasons are above", terminal.Count(sum.Failed, "file"))
	}
	return nil
}
