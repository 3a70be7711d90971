package consumer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"mft/protocol"
)

// Planned is one file or directory that Plan found in a topic.
type Planned struct {
	ID   string // of the transfer
	Name string // below the directory
	Dir  bool
	Size int64  // bytes; -1 when not known
	Note string // what is special about it: there is one of that name
	Left string // why it would not be placed; "": it would be
}

// Plan tells each what ReceiveFiles with Once would place, in the order in which
// it ends in the topic, and then what is not complete yet. It reads the topic from
// where the group is to its present end, joins no group, commits nothing and
// writes nothing. Contents are not checked. The Summary counts what would be
// placed; Refused and Failed what would not, Unfinished what is not complete.
func Plan(ctx context.Context, cfg FilesConfig, each func(Planned)) (Summary, error) {
	if err := cfg.check(); err != nil {
		return Summary{}, err
	}
	if err := cfg.OnConflict.check(); err != nil {
		return Summary{}, err
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return Summary{}, err
	}
	if cfg.Group == "" {
		if cfg.Group, err = DefaultGroup(dir, cfg.Topic); err != nil {
			return Summary{}, err
		}
	}
	pl := &plan{cfg: &cfg, each: each, open: make(map[protocol.TransferID]*plannedTransfer), done: make(map[protocol.TransferID]bool)}
	if pl.root, err = os.OpenRoot(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Summary{}, err
	}
	err = pl.run(ctx)
	if pl.root != nil {
		err = errors.Join(err, pl.root.Close())
	}
	return pl.sum, err
}

type plan struct {
	cfg     *FilesConfig
	each    func(Planned)
	root    *os.Root // nil: there is no directory yet
	inPlace map[int32]map[int64]bool
	open    map[protocol.TransferID]*plannedTransfer
	order   []*plannedTransfer
	done    map[protocol.TransferID]bool
	sum     Summary
}

type plannedTransfer struct {
	Planned
	id protocol.TransferID
}

func (pl *plan) run(ctx context.Context) error {
	asking, err := kgo.NewClient(pl.cfg.clientOptions(pl.cfg.Watch)...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	defer asking.Close()
	connect := pl.cfg.ConnectTimeout
	if connect == 0 {
		connect = DefaultConnectTimeout
	}
	topic, _, err := awaitTopic(ctx, asking, &pl.cfg.Config, pl.cfg.Watch, connect, true)
	if err != nil {
		return err
	}
	spans, err := listSpans(ctx, asking, &pl.cfg.Config)
	if err != nil {
		return err
	}
	starts, err := pl.starts(ctx, asking, topic, spans)
	if err != nil {
		return err
	}
	r := &reader{cfg: &RecordsConfig{Config: pl.cfg.Config}, watch: pl.cfg.Watch}
	err = r.read(ctx, starts, spans, nil, pl.record, func() error { return nil })
	if err != nil && !errors.Is(err, errReached) {
		return err
	}
	for _, t := range pl.order {
		if pl.open[t.id] == t {
			t.Left = "it is not complete yet"
			pl.sum.Unfinished++
			pl.each(t.Planned)
		}
	}
	return nil
}

// starts are the offsets that the group is at, and takes note of what it has
// placed behind them.
func (pl *plan) starts(ctx context.Context, asking *kgo.Client, topic topicInfo, spans map[int32]span) (map[int32]int64, error) {
	starts := make(map[int32]int64)
	for p, s := range spans {
		starts[p] = s.start
	}
	pl.inPlace = make(map[int32]map[int64]bool)
	offsets, err := kadm.NewClient(asking).FetchOffsetsForTopics(ctx, pl.cfg.Group, pl.cfg.Topic)
	if err == nil {
		err = offsets.Error()
	}
	if errors.Is(err, kerr.GroupIDNotFound) {
		return starts, nil
	}
	if err != nil {
		return nil, fmt.Errorf("group %s: %w", pl.cfg.Group, err)
	}
	offsets.Each(func(o kadm.OffsetResponse) {
		n, err := parseNote(o.Metadata, o.At)
		if o.At < 0 || err == nil && n.topicID != topic.id && n.topicID != [16]byte{} && topic.id != [16]byte{} {
			return // nothing is committed, or it was of a topic that is gone
		}
		starts[o.Partition] = max(starts[o.Partition], o.At)
		done := make(map[int64]bool)
		for _, begin := range n.done {
			done[begin] = true
		}
		pl.inPlace[o.Partition] = done
	})
	return starts, nil
}

func (pl *plan) record(r *kgo.Record) error {
	if r.Attrs.IsControl() {
		return nil
	}
	rec, err := protocol.ParseFileRecord(r.Key, r.Value, r.Headers)
	if err != nil {
		pl.sum.Foreign++
		return nil
	}
	switch t := pl.open[rec.Transfer]; rec.Kind {
	case protocol.KindBegin:
		if t == nil && !pl.done[rec.Transfer] {
			pl.begin(rec, r)
		}
	case protocol.KindAbort:
		if t != nil {
			pl.end(t)
			pl.sum.Aborted++
		}
	case protocol.KindEnd:
		if t != nil {
			pl.end(t)
			pl.place(t)
		}
	}
	return nil
}

func (pl *plan) end(t *plannedTransfer) {
	delete(pl.open, t.id)
	pl.done[t.id] = true
}

func (pl *plan) begin(rec protocol.FileRecord, r *kgo.Record) {
	t := &plannedTransfer{id: rec.Transfer, Planned: Planned{ID: string(rec.Transfer), Size: -1}}
	pl.done[t.id] = true
	if pl.inPlace[r.Partition][r.Offset] {
		return
	}
	sealed := rec.IsSealed()
	if sealed {
		opened, _, err := pl.cfg.Keys.Open(rec)
		if err != nil {
			t.Left = err.Error()
			pl.sum.Failed++
			pl.each(t.Planned)
			return
		}
		rec = opened
	}
	m := rec.Manifest
	t.Name, t.Size, t.Dir = m.Name, m.Size, m.Type == protocol.TypeDir
	part := &partition{topic: pl.cfg.Topic, route: pl.cfg.Route, target: &target{keep: metadataSetter{Metadata: pl.cfg.Metadata}}}
	made, err := newTransfer(part, t.id, m, nil, r)
	if sealed && m.Compression != "" { // which the opener undoes
		clear := *m
		clear.Compression = ""
		made, err = newTransfer(part, t.id, &clear, nil, r)
	}
	if err == nil && !sealed && !pl.cfg.AcceptPlain && !pl.cfg.Keys.Empty() {
		err = errors.New("it is not encrypted")
	}
	switch {
	case errors.Is(err, errNoPlace):
	case err != nil:
		t.Left = err.Error()
		pl.sum.Refused++
		pl.each(t.Planned)
	default:
		t.Name = made.name
		delete(pl.done, t.id)
		pl.open[t.id] = t
		pl.order = append(pl.order, t)
	}
}

// place tells of a transfer that is complete.
func (pl *plan) place(t *plannedTransfer) {
	if pl.root != nil && !t.Dir {
		if info, err := pl.root.Lstat(t.Name); err == nil && !info.IsDir() {
			rule := pl.cfg.OnConflict
			if rule == "" {
				rule = "overwrite"
			}
			t.Note = fmt.Sprintf("there is one of that name: %s", rule)
		}
	}
	if t.Dir {
		pl.sum.Dirs++
	} else {
		pl.sum.Files++
		pl.sum.Bytes += max(t.Size, 0)
	}
	pl.each(t.Planned)
}
