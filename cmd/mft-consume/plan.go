package main

import (
	"context"
	"encoding/json"
	"fmt"

	"mft/consumer"
	"mft/internal/command"
	"mft/internal/config"
	"mft/internal/terminal"
)

// plannedEvent is what --dry-run --json prints of one file or directory.
type plannedEvent struct {
	Event   string `json:"event"`  // plan
	Action  string `json:"action"` // place, leave
	Topic   string `json:"topic"`
	ID      string `json:"id"`
	Name    string `json:"name,omitempty"`
	Type    string `json:"type"`           // file, dir
	Size    *int64 `json:"size,omitempty"` // bytes, where known
	Message string `json:"message,omitempty"`
}

// plan prints what would be received, and receives nothing.
func (r *runner) plan(ctx context.Context, destinations []config.Transfer, arrivals []consumer.FilesConfig) error {
	log := r.logger(r.err)
	rings, err := r.keyrings(destinations, log)
	if err != nil {
		return err
	}
	var total consumer.Summary
	for i, t := range destinations {
		cfg := arrivals[i]
		cfg.Config = r.consumerConfig(t.Topic, t.Group, t.Limit)
		cfg.Logger, cfg.Dir, cfg.Keys = log, t.Destination.Path, rings[i]
		cfg.AcceptPlain = r.acceptPlain || t.Encryption != nil && t.Encryption.AcceptPlain
		sum, err := consumer.Plan(ctx, cfg, func(f consumer.Planned) { r.printPlanned(t.Topic, f) })
		if err != nil {
			return hinted(err)
		}
		total.Files, total.Dirs, total.Bytes = total.Files+sum.Files, total.Dirs+sum.Dirs, total.Bytes+sum.Bytes
		total.Refused, total.Failed, total.Unfinished = total.Refused+sum.Refused, total.Failed+sum.Failed, total.Unfinished+sum.Unfinished
	}
	left := total.Refused + total.Failed + total.Unfinished
	if r.JSON {
		err := json.NewEncoder(r.out).Encode(terminal.Event{Event: "summary", Files: &total.Files, Dirs: &total.Dirs, Bytes: &total.Bytes, Failed: &left})
		if err != nil {
			return err
		}
	} else {
		text := "would receive " + terminal.Count(total.Files, "file")
		if total.Dirs == 1 {
			text += ", 1 directory"
		} else if total.Dirs > 1 {
			text += fmt.Sprintf(", %d directories", total.Dirs)
		}
		text += ", " + terminal.Size(total.Bytes)
		if left > 0 {
			text += fmt.Sprintf("; %d left out", left)
		}
		fmt.Fprintln(r.err, text)
	}
	if total.Partly() {
		return command.Partlyf("%d would not be placed: the reasons are above", left)
	}
	return nil
}

// printPlanned prints one file or directory: what would be done with it, its
// size, its name, and what there is to say about it. A reader that went away
// takes the process with it.
func (r *runner) printPlanned(topic string, f consumer.Planned) {
	e := plannedEvent{Event: "plan", Action: "place", Topic: topic, ID: f.ID, Name: f.Name, Type: "file", Message: f.Note}
	if f.Dir {
		e.Type = "dir"
	}
	if f.Size >= 0 {
		e.Size = &f.Size
	}
	if f.Left != "" {
		e.Action, e.Message = "leave", f.Left
	}
	if r.JSON {
		_ = json.NewEncoder(r.out).Encode(e)
		return
	}
	size := "?"
	switch {
	case f.Dir:
		size = "dir"
	case f.Size >= 0:
		size = terminal.Size(f.Size)
	}
	name := f.Name
	if name == "" {
		name = "transfer " + f.ID
	}
	line := fmt.Sprintf("%-5s  %8s  %s", e.Action, size, name)
	if e.Message != "" {
		line += ": " + e.Message
	}
	fmt.Fprintln(r.out, line)
}
