package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"mft/internal/command"
	"mft/internal/config"
	"mft/internal/terminal"
	"mft/producer"
)

// plannedEvent is what --dry-run --json prints of one entry.
type plannedEvent struct {
	Event   string `json:"event"`  // plan
	Action  string `json:"action"` // send, leave
	Topic   string `json:"topic"`
	Name    string `json:"name"`
	Path    string `json:"path"`
	Type    string `json:"type"` // file, dir
	Size    int64  `json:"size"`
	Message string `json:"message,omitempty"` // why it is left out
}

// planSources prints what the sources would send, and sends nothing.
func (r *runner) planSources(ctx context.Context, sources []config.Transfer) error {
	var total producer.Summary
	left := 0
	for _, t := range sources {
		if t.Source.Follow {
			return command.Usagef("--dry-run lists files: %s follows the lines of one", t.Name)
		}
		cfg := r.producerConfig(t)
		cfg.Logger = r.logger(r.err)
		files := producer.FileOptions{Include: t.Source.Include, Exclude: t.Source.Exclude}
		each := func(f producer.Planned) {
			if f.Left != "" {
				left++
			}
			r.printPlanned(cfg.Topic, f)
		}
		sum, err := with(cfg, func(p *producer.Producer) (producer.Summary, error) {
			if t.Source.Watch == nil {
				return p.Plan(ctx, t.Source.Paths, files, each)
			}
			o, err := r.watching.options(r.flags, files, t.Source.Watch)
			if err != nil {
				return producer.Summary{}, err
			}
			return p.PlanWatch(ctx, t.Source.Paths, o, each)
		})
		if err != nil {
			return err
		}
		total.Files += sum.Files
		total.Dirs += sum.Dirs
		total.Bytes += sum.Bytes
		total.Failed += sum.Failed
	}
	if r.JSON {
		err := json.NewEncoder(r.out).Encode(terminal.Event{Event: "summary", Files: &total.Files, Dirs: &total.Dirs, Bytes: &total.Bytes, Failed: &total.Failed})
		if err != nil {
			return err
		}
	} else {
		text := "would send " + terminal.Count(total.Files, "file")
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
	switch {
	case total.Failed == 0:
		return nil
	case total.Files+total.Dirs == 0:
		return errors.New("nothing could be sent: the reasons are above")
	}
	return command.Partlyf("%s could not be sent: the reasons are above", terminal.Count(total.Failed, "file"))
}

// printPlanned prints one entry: what is done with it, its size, its name, and
// why it is left out. A reader that went away takes the process with it.
func (r *runner) printPlanned(topic string, f producer.Planned) {
	e := plannedEvent{Event: "plan", Action: "send", Topic: topic, Name: f.Name, Path: f.Path, Type: "file", Size: f.Size, Message: f.Left}
	if f.Dir {
		e.Type = "dir"
	}
	if f.Left != "" {
		e.Action = "leave"
	}
	if r.JSON {
		_ = json.NewEncoder(r.out).Encode(e)
		return
	}
	size := terminal.Size(f.Size)
	if f.Dir {
		size = "dir"
	}
	line := fmt.Sprintf("%-5s  %8s  %s", e.Action, size, f.Name)
	if f.Left != "" {
		line += ": " + f.Left
	}
	fmt.Fprintln(r.out, line)
}
