package producer

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"mft/protocol"
)

const (
	quietTime    = 10 * time.Second       // without a new byte, until a file that was moved away is finished although the new one is still empty
	touchWait    = 300 * time.Millisecond // before a file that was written to and did not grow is read again as a whole
	markInterval = 10 * time.Second       // between two times that positions are made durable
	maxRotated   = 64                     // files that are looked at for one that was moved away
)

// mirror sends one growing file, generation after generation. One goroutine
// (loop) does all of it.
type mirror struct {
	job  *mirrorJob
	path string // absolute
	name string // of its transfers
	wake <-chan struct{}

	found     bool       // in a directory
	positions *positions // nil: none are kept
	last      sentMark   // the last one in positions
	partition int32
	home      int    // the stream of all its records, so that they stay in order
	previous  string // of the next generation

	file  *os.File    // nil while there is none
	gen   *generation // nil: none is open
	again time.Duration
	told  string // the last trouble that was told

	missing bool // that the file is, was told

	grew    time.Time // when the file was last seen to have grown
	left    time.Time // when it was first seen not to have the name any more; zero: it has
	mtime   time.Time // of the file, when it was last known to be as it was sent
	touched time.Time // another mtime, without a new byte
	since   time.Time // when that was first seen
	compare time.Duration
	synced  time.Time // when positions were
}

// newMirror takes up the positions of a file.
func newMirror(j *mirrorJob, path, name string) (*mirror, error) {
	if err := protocol.CheckName(name); err != nil {
		return nil, err
	}
	m := &mirror{job: j, path: path, name: name, partition: j.partitionOf(name), home: j.run.p.streams.home()}
	if dir := j.run.p.cfg.StateDir; dir != "" {
		var err error
		if m.positions, m.last, err = openPositions(state{dir}, j.run.p.cfg.Topic, path, name); err != nil {
			return nil, err
		}
		m.takeUp()
	}
	m.wake = j.notes.wakeFile(path)
	return m, nil
}

// partitionOf is where the generations of a file go, all into the same one, so
// that they stay in order. Of what is encrypted not even a hash of the name
// is told.
func (j *mirrorJob) partitionOf(name string) int32 {
	partitions := j.run.p.topic.partitions
	if pinned := j.run.p.cfg.Partition; pinned != nil {
		return *pinned
	}
	if j.run.p.sealing != nil {
		return rand.Int32N(partitions)
	}
	h := fnv.New32a()
	h.Write([]byte(name))
	return int32(h.Sum32() % uint32(partitions))
}

// identity is what a saved generation has to share with this run to be gone on with.
func (m *mirror) identity() savedGeneration {
	j := m.job
	gen := savedGeneration{Version: positionsVersion, Path: m.path, Name: m.name, Topic: j.run.p.cfg.Topic, TopicID: j.topicID, Digest: j.run.p.cfg.Digest}
	if gen.Digest == "" {
		gen.Digest = protocol.DigestXXH3
	}
	if s := j.run.p.sealing; s != nil {
		gen.Key = string(s.key.ID())
	}
	return gen
}

// takeUp judges what positions say. What was sent to another topic, or with
// another key, is not gone on with.
func (m *mirror) takeUp() {
	saved := m.positions.gen
	same := m.identity()
	same.Partition, same.Transfer, same.Previous, same.File = saved.Partition, saved.Transfer, saved.Previous, saved.File
	fits := saved == same && saved.Partition < m.job.run.p.topic.partitions
	if pinned := m.job.run.p.cfg.Partition; pinned != nil && saved.Partition != *pinned {
		fits = false
	}
	if m.job.run.p.cfg.NoResume && fits { // in order with what was sent before
		m.partition, fits = saved.Partition, false
	}
	if !fits {
		m.positions.gen, m.last = savedGeneration{}, sentMark{}
		return
	}
	m.partition, m.previous = saved.Partition, saved.Previous
}

// loop mirrors until the run ends.
func (m *mirror) loop() {
	ctx := m.job.run.ctx
	poll := time.NewTicker(m.job.options.Poll)
	defer poll.Stop()
	for ctx.Err() == nil {
		m.again = 0
		err := m.look(ctx)
		m.tell(err)
		if err == nil && m.found && m.file == nil && m.gen == nil && ctx.Err() == nil {
			m.job.stop(m)
			return
		}
		var again <-chan time.Time
		if m.again > 0 {
			again = time.After(m.again)
		}
		select {
		case <-ctx.Done():
		case <-m.wake:
		case <-again:
		case <-poll.C:
			m.keep()
		}
	}
	if m.positions == nil && m.gen != nil { // nobody can go on with it
		m.end(nil, "")
	}
}

// tell logs trouble with the file once.
func (m *mirror) tell(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != m.told && err != nil {
		m.job.run.p.log.Warn().Err(err).Str("file", m.path).Msg("the file cannot be mirrored, trying again until it can")
	}
	m.told = text
}

// keep makes positions durable now and then.
func (m *mirror) keep() {
	if m.gen == nil || time.Since(m.synced) < markInterval {
		return
	}
	m.synced = time.Now()
	m.tell(errors.Join(m.note(m.gen.mark()), m.positions.sync()))
}

// close notes what was acknowledged last, which must not change any more.
func (m *mirror) close() error {
	var err error
	if m.gen != nil && m.positions != nil {
		err = m.note(m.gen.mark())
	}
	if m.file != nil {
		err = errors.Join(err, m.file.Close())
	}
	return errors.Join(err, m.positions.close())
}

// note writes a mark.
func (m *mirror) note(now sentMark) error {
	if now == m.last {
		return nil
	}
	if err := m.positions.mark(now); err != nil {
		return err
	}
	m.last = now
	return nil
}

// mark is the generation's position, everything handed over.
func (g *generation) mark() sentMark {
	return sentMark{Sent: g.hashed, Sum: g.sum(), Acked: g.acked.Load()}
}

// look sends what there is to send, and moves on to the file that has the name
// now if that is another.
func (m *mirror) look(ctx context.Context) error {
	for ctx.Err() == nil {
		if m.file == nil {
			if err := m.open(); err != nil || m.file == nil {
				return err
			}
		}
		if err := m.sendNew(ctx); err != nil {
			return err
		}
		next, err := m.moved()
		if err != nil || !next {
			return err
		}
	}
	return nil
}

// openPath opens a regular file; nil without an error when there is none.
func openPath(path string) (*os.File, fs.FileInfo, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() { // opening a pipe would wait for its writer
		return nil, nil, errors.New("it is no regular file")
	}
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	if info, err = file.Stat(); err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	return file, info, nil
}

// open opens the file that has the name, and begins its transfer, or goes on
// with the one that a former run has left.
func (m *mirror) open() error {
	file, info, err := openPath(m.path)
	if err != nil {
		return err
	}
	if m.positions != nil && m.positions.gen.Transfer != "" {
		if file, info, err = m.resume(file, info); err != nil {
			return err
		}
	}
	if file == nil {
		if !m.missing {
			m.missing = true
			m.job.run.p.log.Warn().Str("file", m.path).Msg("the file does not exist, waiting for it")
		}
		return nil
	}
	if m.gen == nil {
		if err := m.begin(info); err != nil {
			return errors.Join(err, file.Close())
		}
	}
	m.use(file, info)
	return nil
}

// use makes file the one that is read.
func (m *mirror) use(file *os.File, info fs.FileInfo) {
	m.file, m.mtime, m.touched = file, info.ModTime(), time.Time{}
	m.grew, m.left, m.missing = time.Now(), time.Time{}, false
	if info, err := os.Lstat(m.path); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		m.job.notes.addLink(m.path)
	}
}

// resume goes on with the transfer of a former run: in the file if that begins
// with what was sent, else in one of its directory that does and was moved
// away. If there is none, the transfer is given up, and the file begins
// another one. It returns the file to be read, which it may have exchanged.
func (m *mirror) resume(file *os.File, info fs.FileInfo) (*os.File, fs.FileInfo, error) {
	saved := m.positions.gen
	fail := func(err error) (*os.File, fs.FileInfo, error) {
		if file != nil {
			err = errors.Join(err, file.Close())
		}
		return nil, nil, err
	}
	if file != nil {
		gen, err := m.goesOn(file, info)
		if err != nil {
			return fail(err)
		}
		if gen != nil {
			return file, info, m.goOn(gen, file, info, saved)
		}
	}
	rotated, rotatedInfo, gen, err := m.findRotated()
	if err != nil {
		return fail(err)
	}
	if gen != nil {
		if file != nil {
			err = file.Close()
		}
		m.job.run.p.log.Info().Str("file", m.path).Str("moved_to", rotated.Name()).Msg("the file was moved away meanwhile; it is sent to its end first")
		return rotated, rotatedInfo, errors.Join(err, m.goOn(gen, rotated, rotatedInfo, saved))
	}
	if file == nil {
		return nil, nil, nil // it may come back
	}
	t, err := m.openTransfer(m.job.manifest(m.name, info, m.previous), saved.Transfer, saved.Partition, m.last.Acked)
	if err != nil {
		return fail(err)
	}
	t.abort(errors.New("the file was replaced while its sender was away"))
	m.job.run.p.log.Warn().Str("file", m.path).Int64("sent", m.last.Sent).
		Msg("the file does not begin with what was sent of it: it was cut or replaced while nobody watched, and is sent anew")
	m.positions.gen.Transfer = ""
	m.previous = protocol.PreviousKeep
	return file, info, nil
}

// goesOn returns the generation of a former run if the file begins with what
// was sent of it, else nil.
func (m *mirror) goesOn(file *os.File, info fs.FileInfo) (*generation, error) {
	if info.Size() < m.last.Sent {
		return nil, nil
	}
	digest, err := protocol.NewDigest(m.job.run.p.cfg.Digest)
	if err != nil {
		return nil, err
	}
	g := &generation{sent: m.last.Acked, hashed: m.last.Sent, digest: digest}
	n, err := hashFile(digest, file, m.last.Sent)
	if err != nil || n < m.last.Sent || m.last.Sum != "" && g.sum() != m.last.Sum {
		return nil, err
	}
	return g, g.noteEnds(file)
}

// goOn opens the transfer of a former run again.
func (m *mirror) goOn(g *generation, file *os.File, info fs.FileInfo, saved savedGeneration) (err error) {
	if g.transfer, err = m.openTransfer(m.job.manifest(m.name, info, saved.Previous), saved.Transfer, saved.Partition, m.last.Acked); err != nil {
		return errors.Join(err, file.Close())
	}
	m.gen = g
	return nil
}

// findRotated looks for the file that was moved away, among those of its
// directory whose names have to do with its own. Of several that begin with
// what was sent the same inode is preferred, then the latest.
func (m *mirror) findRotated() (*os.File, fs.FileInfo, *generation, error) {
	if m.last.Sent == 0 { // anything would do
		return nil, nil, nil, nil
	}
	dir, base := filepath.Split(m.path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, nil, nil // nor is the file there
	}
	stem := strings.TrimSuffix(base, filepath.Ext(base))
	if stem == "" {
		stem = base
	}
	type candidate struct {
		path   string
		itself bool // not only by its content
		mtime  time.Time
	}
	var found []candidate
	for _, entry := range entries {
		if entry.Name() == base || !entry.Type().IsRegular() || !strings.HasPrefix(entry.Name(), stem) {
			continue
		}
		if info, err := entry.Info(); err == nil && info.Size() >= m.last.Sent {
			id := fileID(info)
			found = append(found, candidate{filepath.Join(dir, entry.Name()), id != "" && id == m.positions.gen.File, info.ModTime()})
		}
	}
	slices.SortFunc(found, func(a, b candidate) int {
		if a.itself != b.itself {
			return map[bool]int{true: -1, false: 1}[a.itself]
		}
		return b.mtime.Compare(a.mtime)
	})
	for _, c := range found[:min(len(found), maxRotated)] {
		file, info, err := openPath(c.path)
		if err != nil || file == nil {
			continue // it cannot be read: it is none of those that could be
		}
		gen, err := m.goesOn(file, info)
		if gen != nil && err == nil {
			return file, info, gen, nil
		}
		if err := errors.Join(err, file.Close()); err != nil {
			return nil, nil, nil, err
		}
	}
	return nil, nil, nil, nil
}

// begin begins a generation.
func (m *mirror) begin(info fs.FileInfo) error {
	digest, err := protocol.NewDigest(m.job.run.p.cfg.Digest)
	if err != nil {
		return err
	}
	g := &generation{digest: digest}
	// The transfer must not be on its way before it can be found again.
	id := protocol.NewTransferID()
	saved := m.identity()
	saved.Partition, saved.Transfer, saved.Previous, saved.File = m.partition, id, m.previous, fileID(info)
	if err := m.positions.begin(saved, sentMark{Sum: g.sum()}); err != nil {
		return err
	}
	m.last = sentMark{Sum: g.sum()}
	if g.transfer, err = m.openTransfer(m.job.manifest(m.name, info, m.previous), id, m.partition, 0); err != nil {
		return err
	}
	m.gen = g
	return nil
}

// end ends the generation; previous is what becomes of its mirror when the next one begins.
func (m *mirror) end(info fs.FileInfo, previous string) {
	// Before its end is acknowledged the next run has to find the generation,
	// whose last bytes may not have arrived.
	if m.positions != nil && m.gen.hashed == m.gen.sent {
		acked := make(chan struct{})
		m.gen.whenAcked = func(string) { close(acked) }
		m.gen.finish(info, m.job.chunk)
		select {
		case <-acked:
		case <-m.job.run.ctx.Done():
			return
		}
	} else {
		m.gen.finish(info, m.job.chunk)
	}
	m.gen, m.previous = nil, previous
	if m.positions != nil {
		saved := m.identity()
		saved.Partition, saved.Previous = m.partition, previous
		m.tell(m.positions.begin(saved, sentMark{}))
	}
}

// sendNew sends what was appended. A file that was cut or rewritten ends its
// generation and begins another one.
func (m *mirror) sendNew(ctx context.Context) error {
	for ctx.Err() == nil {
		info, err := m.file.Stat()
		if err != nil {
			return err
		}
		cut, err := m.gen.differs(m.file, info.Size())
		if err == nil && !cut && info.Size() == m.gen.sent {
			if cut, err = m.rewritten(info); err == nil && !cut {
				return nil
			}
		}
		if err != nil {
			return err
		}
		if cut {
			m.job.run.p.log.Info().Str("file", m.path).Int64("bytes", m.gen.sent).Msg("the file was cut or rewritten: its mirror starts anew")
			m.end(nil, protocol.PreviousCut)
			if ctx.Err() != nil {
				return nil
			}
			if err := m.begin(info); err != nil {
				return errors.Join(err, m.drop())
			}
			m.mtime, m.touched = info.ModTime(), time.Time{}
			continue
		}
		// No further than the size that was seen: a file that has grown since is
		// told from one that was only touched.
		b := m.job.run.p.buffers.get(int(min(int64(m.job.chunk), info.Size()-m.gen.sent)))
		n, err := m.file.ReadAt(b.data, m.gen.sent)
		if n < len(b.data) {
			m.job.run.p.buffers.put(b)
			if err == io.EOF { // cut just now
				continue
			}
			return err
		}
		// The bytes are of this generation only if it is still there.
		now, err := m.file.Stat()
		if err == nil {
			cut, err = m.gen.differs(m.file, now.Size())
		}
		if err != nil || cut || now.Size() < m.gen.sent+int64(n) {
			m.job.run.p.buffers.put(b)
			if err != nil {
				return err
			}
			continue
		}
		if err := m.send(b); err != nil {
			return err
		}
		m.grew, m.mtime, m.touched = time.Now(), info.ModTime(), time.Time{}
	}
	return nil
}

// send notes the position after b and then sends it.
func (m *mirror) send(b *buffer) error {
	g := m.gen
	acked := g.acked.Load()
	if err := g.take(b.data); err != nil {
		m.job.run.p.buffers.put(b)
		return err
	}
	if err := m.note(sentMark{Sent: g.hashed, Sum: g.sum(), Acked: acked}); err != nil {
		// Without the mark the bytes must not go out; the digest has them already.
		m.job.run.p.buffers.put(b)
		return errors.Join(err, m.drop())
	}
	g.sendTaken(b, m.job.chunk)
	return nil
}

// drop closes the file and forgets the generation, to be taken up again from
// positions.
func (m *mirror) drop() error {
	var err error
	if m.file != nil {
		err = m.file.Close()
		m.file = nil
	}
	m.gen = nil
	return err
}

// rewritten tells whether a file that did not grow holds something else now: it
// was written to, and does not have the digest of what was sent.
func (m *mirror) rewritten(info fs.FileInfo) (bool, error) {
	if info.ModTime().Equal(m.mtime) || m.gen.sent == 0 {
		return false, nil
	}
	// A write sets the time before the size: look again before reading it all.
	wait := max(touchWait, 10*m.compare)
	if !info.ModTime().Equal(m.touched) {
		m.touched, m.since = info.ModTime(), time.Now()
	}
	if left := wait - time.Since(m.since); left > 0 {
		m.again = left
		return false, nil
	}
	began := time.Now()
	same, err := m.gen.sameStart(m.file, info.Size())
	m.compare = time.Since(began)
	if err == nil && same {
		m.mtime, m.touched = info.ModTime(), time.Time{}
	}
	return err == nil && !same, err
}

// moved finishes a file that does not have the name any more, and tells
// whether there is another to be opened. While the name belongs to none, or
// to a file that is still empty, the old one may still grow.
func (m *mirror) moved() (next bool, err error) {
	mine, err := m.file.Stat()
	if err != nil {
		return false, err
	}
	info, err := os.Stat(m.path)
	gone := errors.Is(err, fs.ErrNotExist)
	if err != nil && !gone {
		return false, err
	}
	wait := settleTime
	switch {
	case gone && !unlinked(mine):
		return false, nil
	case gone: // it was removed, and only this process can still read it
	case os.SameFile(info, mine):
		m.left = time.Time{}
		return false, nil
	case info.Size() == 0:
		wait = quietTime
	}
	// Its writer may not have noticed yet.
	if m.left.IsZero() {
		m.left = time.Now()
	}
	if left := wait - min(time.Since(m.grew), time.Since(m.left)); left > 0 {
		m.again = min(left, settleTime)
		return false, nil
	}
	if !gone && info.Size() > 0 {
		if same, err := m.replaced(); same || err != nil {
			return same, err
		}
	}
	what := "the file was moved away, going on with the one that has its name"
	if gone {
		what = "the file was removed"
	}
	m.job.run.p.log.Info().Str("file", m.path).Int64("bytes", m.gen.sent).Msg(what)
	m.end(mine, protocol.PreviousKeep)
	err = m.file.Close()
	m.file = nil
	return true, err
}

// replaced goes on with the file that has the name now, if that begins with all
// that was sent: it was put in the place of the other.
func (m *mirror) replaced() (bool, error) {
	file, info, err := openPath(m.path)
	if file == nil || err != nil {
		return false, err
	}
	same, err := m.gen.sameStart(file, info.Size())
	if err != nil || !same {
		return false, errors.Join(err, file.Close())
	}
	err = m.file.Close()
	m.use(file, info)
	if m.positions != nil {
		saved := m.positions.gen
		saved.File = fileID(info)
		err = errors.Join(err, m.positions.begin(saved, m.gen.mark()))
	}
	return true, err
}

// askTopicID asks for the id of the topic, in hex: one that is made anew has
// another. "" of a broker without such ids.
func (p *Producer) askTopicID(ctx context.Context) (string, error) {
	req := kmsg.NewPtrMetadataRequest()
	topic := kmsg.NewMetadataRequestTopic()
	topic.Topic = &p.cfg.Topic
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(ctx, p.streams.clients[0])
	if err != nil {
		return "", err
	}
	for _, t := range resp.Topics {
		if t.Topic == nil || *t.Topic != p.cfg.Topic {
			continue
		}
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
			return "", &TopicError{p.cfg.Topic, err}
		}
		if t.TopicID == [16]byte{} {
			return "", nil
		}
		return fmt.Sprintf("%x", t.TopicID), nil
	}
	return "", nil
}
