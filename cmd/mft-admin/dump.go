package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"mft/internal/command"
	"mft/internal/terminal"
	"mft/protocol"
	"mft/segment"
)

// dumpOptions are those of mft-admin dump.
type dumpOptions struct {
	*options
	records, verify, repair, yes bool
}

func newDump(o *options) *cobra.Command {
	d := dumpOptions{options: o}
	cmd := &cobra.Command{
		Use:   "dump DATA|DIR|FILE...",
		Short: "Print and check segments, indexes, journal and snapshot of a data directory, without a broker.",
		Long: `mft-admin dump prints what a data directory, the directory of a partition, the
journal, or a single file of these holds, and checks it: checksums, offsets that
follow each other, indexes that lead where they say. It reads only, and works
beside a running broker as well.

What is wrong is told with directory, file, byte and offset, as
  damage  stored bytes are not what was written
  index   an index does not fit its segment; the broker rebuilds it by itself
  torn    the end of something that was being written when the broker stopped;
          the broker puts it in order at its next start
  note    nothing wrong, but worth knowing
Damage of the first two kinds makes the exit code 3.

With --repair, on a whole data directory whose broker is stopped, it says what
it would cut out, and does it when told so. What is cut is kept beside the file.`,
		Example: `  mft-admin dump --verify mft-data
  mft-admin dump --records mft-data/topics/orders-0
  mft-admin dump mft-data/topics/orders-0/00000000000000000000.index
  mft-admin dump --json mft-data/journal
  mft-admin dump --repair mft-data`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, paths []string) error { return d.run(cmd, paths) },
	}
	flags := cmd.Flags()
	flags.BoolVar(&d.records, "records", false, "also print the records in each batch, the entries of the journal and the state in the snapshot")
	flags.BoolVar(&d.verify, "verify", false, "only check, and print what is wrong")
	flags.BoolVar(&d.repair, "repair", false, "say what would have to be cut, ask, and cut it")
	flags.BoolVar(&d.yes, "yes", false, "with --repair: do not ask")
	return cmd
}

func (d *dumpOptions) run(cmd *cobra.Command, paths []string) error {
	switch {
	case command.Typed(cmd.Flags(), "yes") && !d.repair:
		return command.Usagef("--yes belongs to --repair")
	case d.repair && (command.Typed(cmd.Flags(), "records") || command.Typed(cmd.Flags(), "verify")):
		return command.Usagef("--repair prints what it cuts and nothing else: leave --records and --verify out")
	case d.repair:
		return d.repairAll(cmd, paths)
	}
	out := bufio.NewWriterSize(cmd.OutOrStdout(), 64<<10)
	p := &dumper{dumpOptions: d, out: out}
	for _, path := range paths {
		if err := p.inspector(cmd).Inspect(path); err != nil {
			return errors.Join(p.explain(path, err), out.Flush())
		}
	}
	if err := errors.Join(p.total(), out.Flush()); err != nil {
		return err
	}
	if p.bad > 0 {
		return command.Hintf(command.Partlyf("%s found", terminal.Count(p.bad, "damaged place")), "see 'Damage' in docs/troubleshooting.md")
	}
	return nil
}

// explain adds to an error what can be done about it.
func (p *dumper) explain(path string, err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return command.Hintf(err, "name a data directory, a part of it, or a file in it")
	}
	return err
}

// dumper prints what an Inspector tells, and counts.
type dumper struct {
	*dumpOptions
	out                       io.Writer
	files, batches, bad, torn int
	size                      int64
}

func (p *dumper) inspector(cmd *cobra.Command) *segment.Inspector {
	in := &segment.Inspector{
		Records: true,
		File: func(path string, size int64) error {
			if err := cmd.Context().Err(); err != nil {
				return err
			}
			p.files++
			p.size += size
			return p.file(path, size)
		},
		Batch: func(position int64, b protocol.Batch) error {
			if p.batches++; p.batches%1000 == 0 && cmd.Context().Err() != nil {
				return cmd.Context().Err()
			}
			if p.verify {
				return nil
			}
			return p.batch(position, b)
		},
		Finding: p.finding,
	}
	if !p.verify {
		in.OffsetEntry, in.TimeEntry, in.Snapshot, in.JournalRecord = p.offsetEntry, p.timeEntry, p.snapshot, p.journalRecord
	}
	return in
}

// printed is what a line of JSON says; kind tells which of the others there are.
type printed map[string]any

func (p *dumper) print(kind, text string, fields printed) error {
	if !p.json() {
		_, err := fmt.Fprintln(p.out, text)
		return err
	}
	fields["kind"] = kind
	return json.NewEncoder(p.out).Encode(fields)
}

func (p *dumper) json() bool { return p.JSON }

func (p *dumper) file(path string, size int64) error {
	if p.verify {
		return nil
	}
	return p.print("file", fmt.Sprintf("%s  %d bytes", path, size), printed{"path": path, "bytes": size})
}

func (p *dumper) finding(f segment.Finding) error {
	switch f.Severity {
	case segment.Damage, segment.DamagedIndex:
		p.bad++
	case segment.Torn:
		p.torn++
	}
	return p.print("finding", f.String(), findingFields(f))
}

func findingFields(f segment.Finding) printed {
	fields := printed{"severity": f.Severity, "dir": f.Dir, "file": f.File, "byte": f.Byte, "reason": f.Reason}
	if f.Bytes > 0 {
		fields["bytes"] = f.Bytes
	}
	if f.Offset >= 0 {
		fields["offset"] = f.Offset
	}
	return fields
}

func batches(n int) string {
	if n == 1 {
		return "1 batch"
	}
	return terminal.Count(n, "batche")
}

func (p *dumper) total() error {
	result := "no damage"
	if p.bad > 0 {
		result = terminal.Count(p.bad, "damaged place")
	}
	if p.torn > 0 {
		result += ", " + terminal.Count(p.torn, "unfinished write")
	}
	return p.print("total", fmt.Sprintf("checked %s, %s, %s: %s", terminal.Count(p.files, "file"), terminal.Size(p.size), batches(p.batches), result),
		printed{"files": p.files, "bytes": p.size, "batches": p.batches, "damaged": p.bad, "torn": p.torn})
}

// when is a timestamp for people; there may be none.
func when(ms int64) string {
	if ms < 0 {
		return "no timestamp"
	}
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z")
}

func (p *dumper) batch(position int64, b protocol.Batch) error {
	text := fmt.Sprintf("  byte %d  offsets %d..%d  %s  %d bytes  %s  %s  epoch %d",
		position, b.BaseOffset(), b.LastOffset(), terminal.Count(int(b.NumRecords()), "record"), len(b), b.Codec(), when(b.MaxTimestamp()), b.PartitionLeaderEpoch())
	if b.ProducerID() >= 0 {
		text += fmt.Sprintf("  producer %d/%d sequence %d..%d", b.ProducerID(), b.ProducerEpoch(), b.BaseSequence(), b.LastSequence())
	}
	if b.IsTransactional() {
		text += "  transactional"
	}
	if b.IsControl() {
		text += "  control"
	}
	err := p.print("batch", text, printed{
		"byte": position, "bytes": len(b), "base_offset": b.BaseOffset(), "last_offset": b.LastOffset(), "records": b.NumRecords(),
		"codec": b.Codec().String(), "max_timestamp": b.MaxTimestamp(), "leader_epoch": b.PartitionLeaderEpoch(), "producer_id": b.ProducerID(),
		"producer_epoch": b.ProducerEpoch(), "base_sequence": b.BaseSequence(), "crc": b.CRC(), "transactional": b.IsTransactional(), "control": b.IsControl(),
	})
	if err != nil || !p.records {
		return err
	}
	// Damage in the records was or will be told as a finding.
	_ = b.Records(func(r protocol.Record) bool {
		err = p.record(b.BaseOffset()+int64(r.OffsetDelta), b.Timestamp(r), r)
		return err == nil
	})
	return err
}

func (p *dumper) record(offset, timestamp int64, r protocol.Record) error {
	text := fmt.Sprintf("    offset %d  %s  key %s  value %s", offset, when(timestamp), quoted(r.Key), quoted(r.Value))
	fields := printed{"offset": offset, "timestamp": timestamp}
	withBytes(fields, "key", r.Key)
	withBytes(fields, "value", r.Value)
	var headers []printed
	for _, h := range r.Headers {
		text += fmt.Sprintf("  %s=%s", h.Key, quoted(h.Value))
		header := printed{"key": h.Key}
		withBytes(header, "value", h.Value)
		headers = append(headers, header)
	}
	if headers != nil {
		fields["headers"] = headers
	}
	return p.print("record", text, fields)
}

// quoted is bytes on one line, for people.
func quoted(b []byte) string {
	if b == nil {
		return "null"
	}
	return fmt.Sprintf("%q", b)
}

// withBytes adds bytes to JSON as mft-consume does: text where they are some, else base64.
func withBytes(fields printed, name string, b []byte) {
	switch {
	case b == nil:
		fields[name] = nil
	case utf8.Valid(b):
		fields[name] = string(b)
	default:
		fields[name], fields[name+"_base64"] = nil, base64.StdEncoding.EncodeToString(b)
	}
}

func (p *dumper) offsetEntry(i int, offset, position int64) error {
	return p.print("offset_entry", fmt.Sprintf("  entry %d  offset %d  at byte %d", i, offset, position), printed{"entry": i, "offset": offset, "byte": position})
}

func (p *dumper) timeEntry(i int, timestamp, offset int64) error {
	return p.print("time_entry", fmt.Sprintf("  entry %d  %s (%d)  offset %d", i, when(timestamp), timestamp, offset), printed{"entry": i, "timestamp": timestamp, "offset": offset})
}

func (p *dumper) snapshot(s segment.Snapshot) error {
	fields := printed{"version": s.Version, "generation": s.Generation, "epoch": s.Epoch, "state_bytes": len(s.State), "logs": len(s.Logs)}
	text := fmt.Sprintf("  version %d  journal from generation %d  epoch %d  state %d bytes  %s", s.Version, s.Generation, s.Epoch, len(s.State), terminal.Count(len(s.Logs), "log"))
	if p.records {
		text += "\n  state " + shown(s.State)
		withBytes(fields, "state", s.State)
	}
	if err := p.print("snapshot", text, fields); err != nil {
		return err
	}
	for _, l := range s.Logs {
		err := p.print("log", fmt.Sprintf("  %s-%d  offsets %d..%d  segment %d up to byte %d  %s  %s",
			l.Topic, l.Partition, l.StartOffset, l.EndOffset, l.Segment, l.Position, terminal.Count(l.Epochs, "epoch"), terminal.Count(l.Producers, "producer")),
			printed{"topic": l.Topic, "partition": l.Partition, "start_offset": l.StartOffset, "end_offset": l.EndOffset, "segment": l.Segment,
				"position": l.Position, "epochs": l.Epochs, "producers": l.Producers})
		if err != nil {
			return err
		}
	}
	return nil
}

// shown is bytes of the metadata: JSON as it is, else quoted.
func shown(b []byte) string {
	if json.Valid(b) && !bytes.ContainsRune(b, '\n') {
		return string(b)
	}
	return quoted(b)
}

func (p *dumper) journalRecord(r segment.JournalRecord) error {
	name := r.Name
	if name == "" {
		name = fmt.Sprintf("kind %d", r.Kind)
	}
	fields := printed{"byte": r.Position, "group": r.Group, "record_kind": r.Kind, "name": r.Name, "bytes": len(r.Payload)}
	text := fmt.Sprintf("  byte %d  group %d  %s  %d bytes", r.Position, r.Group, name, len(r.Payload))
	if p.records {
		text += "  " + shown(r.Payload)
		withBytes(fields, "payload", r.Payload)
	}
	return p.print("journal", text, fields)
}

// repairAll repairs data directories.
func (d *dumpOptions) repairAll(cmd *cobra.Command, paths []string) error {
	for _, path := range paths {
		if err := d.repairOne(cmd, path); err != nil {
			return err
		}
	}
	return nil
}

func (d *dumpOptions) repairOne(cmd *cobra.Command, path string) (err error) {
	p := &dumper{dumpOptions: d, out: cmd.OutOrStdout()}
	r, err := segment.PlanRepair(path)
	if err != nil {
		return p.explain(path, err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for _, c := range r.Cuts {
		fields := findingFields(c.Finding)
		fields["does"], fields["saved"] = c.Does, c.Saved
		text := c.String() + "\n  would " + c.Does
		if c.Saved != "" {
			text += "\n  and keep them in " + c.Saved
		}
		if err := p.print("cut", text, fields); err != nil {
			return err
		}
	}
	for _, f := range r.Left {
		fields := findingFields(f)
		if err := p.print("left", f.String()+"\n  cannot be repaired", fields); err != nil {
			return err
		}
	}
	left := func() error {
		if len(r.Left) > 0 {
			return command.Hintf(command.Partlyf("%s in %s cannot be repaired", terminal.Count(len(r.Left), "damaged place"), path), "see 'Damage' in docs/troubleshooting.md")
		}
		return nil
	}
	if len(r.Cuts) == 0 {
		if len(r.Left) == 0 {
			return p.print("result", path+": nothing to repair", printed{"path": path, "repaired": 0})
		}
		return left()
	}
	if ok, err := d.confirm(cmd, path, len(r.Cuts)); err != nil {
		return err
	} else if !ok {
		return command.Partlyf("nothing was changed in %s", path)
	}
	if err := r.Apply(); err != nil {
		return err
	}
	if err := p.print("result", fmt.Sprintf("%s: repaired %s", path, terminal.Count(len(r.Cuts), "place")), printed{"path": path, "repaired": len(r.Cuts)}); err != nil {
		return err
	}
	return left()
}

// confirm asks, on a terminal, unless --yes was given.
func (d *dumpOptions) confirm(cmd *cobra.Command, path string, n int) (bool, error) {
	if d.yes {
		return true, nil
	}
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !terminal.Is(in) {
		return false, command.Hintf(command.Partlyf("nothing was changed in %s", filepath.Clean(path)), "add --yes to do what is said above; make a copy of the directory first if you can")
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "change %s as said above, %s? A copy of the directory made first is never wrong. [y/N] ", path, terminal.Count(n, "place"))
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && err != io.EOF {
		return false, err
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes", nil
}
