package producer

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"mft/protocol"
)

// positions keeps on disk how far a mirrored file was sent, so that the next
// run goes on there. It is a file of JSON lines: the generation, then a mark
// for each batch of chunks, written before they are handed to the client. So
// also after kill -9 the last sentMark is no less than what the topic can have.
// After a power loss it may be older; then the topic is told where the file
// goes on (Manifest.From), and what it has beyond is void.
type positions struct {
	path   string
	lock   *os.File
	file   *os.File
	bytes  int64 // of file
	gen    savedGeneration
	synced bool // nothing was written since the last sync
}

// savedGeneration is the first line.
type savedGeneration struct {
	Version   int                 `json:"v"`
	Path      string              `json:"path"`
	Name      string              `json:"name"`
	Topic     string              `json:"topic"`
	TopicID   string              `json:"topic_id,omitempty"`
	Partition int32               `json:"partition"`
	Transfer  protocol.TransferID `json:"transfer,omitempty"` // "": there is none, the last one has ended
	Digest    string              `json:"digest,omitempty"`
	Key       string              `json:"key,omitempty"`      // id; "": not encrypted
	File      string              `json:"file,omitempty"`     // what tells the file from others of the same beginning: device and inode
	Previous  string              `json:"previous,omitempty"` // of the next generation, when there is none now
}

// sentMark is each further line.
type sentMark struct {
	Sent  int64  `json:"sent"`  // bytes handed to the client, or about to be
	Sum   string `json:"sum"`   // digest of those bytes of the file, hex
	Acked int64  `json:"acked"` // bytes acknowledged
}

const (
	positionsVersion  = 1
	maxPositionsBytes = 256 << 10 // then it is written anew
)

// openPositions locks and reads the positions of a file. The mark is the last
// one, the zero value when there is none.
func openPositions(st state, topic, path, name string) (*positions, sentMark, error) {
	dir, err := st.dir("mirrors")
	if err != nil {
		return nil, sentMark{}, err
	}
	sum := sha256.Sum256([]byte(topic + "\x00" + path + "\x00" + name))
	p := &positions{path: filepath.Join(dir, hex.EncodeToString(sum[:12]))}
	if p.lock, err = os.OpenFile(p.path+".lock", os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, sentMark{}, fmt.Errorf("state directory: %w", err)
	}
	ok, err := lockFile(p.lock)
	if err == nil && !ok {
		err = fmt.Errorf("%s is being mirrored to topic %s by another mft-produce with this state directory: stop that one first", path, topic)
	}
	if err != nil {
		return nil, sentMark{}, errors.Join(err, p.lock.Close())
	}
	last, err := p.read()
	if err != nil {
		return nil, sentMark{}, errors.Join(err, p.lock.Close())
	}
	return p, last, nil
}

// read takes the whole lines. What follows a damaged one is left out: the file
// is then sent again from an earlier position.
func (p *positions) read() (last sentMark, err error) {
	text, err := os.ReadFile(p.path)
	if errors.Is(err, fs.ErrNotExist) {
		return sentMark{}, nil
	}
	if err != nil {
		return sentMark{}, fmt.Errorf("state directory: %w", err)
	}
	for i, line := range bytes.SplitAfter(text, []byte("\n")) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break
		}
		if i == 0 {
			var gen savedGeneration
			if json.Unmarshal(line, &gen) != nil {
				return sentMark{}, nil
			}
			if gen.Version > positionsVersion {
				return sentMark{}, fmt.Errorf("state directory: %s was written by a newer mft: update this one, or remove the file to send %s anew", p.path, gen.Path)
			}
			p.gen = gen
			continue
		}
		var m sentMark
		if json.Unmarshal(line, &m) != nil || m.Sent < m.Acked || m.Acked < 0 {
			break
		}
		last = m
	}
	return last, nil
}

// begin replaces everything by a generation and a mark, durably.
func (p *positions) begin(gen savedGeneration, m sentMark) error {
	if p == nil {
		return nil
	}
	gen.Version = positionsVersion
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	if err := errors.Join(enc.Encode(gen), enc.Encode(m)); err != nil {
		return err
	}
	temp := p.path + ".new"
	file, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	_, err = file.Write(text.Bytes())
	err = errors.Join(err, file.Sync())
	if p.file != nil {
		err = errors.Join(err, p.file.Close())
		p.file = nil
	}
	if err == nil && renameOpen {
		err = os.Rename(temp, p.path)
	} else if err == nil {
		if err = errors.Join(file.Close(), os.Rename(temp, p.path)); err == nil {
			file, err = os.OpenFile(p.path, os.O_RDWR, 0)
		}
		if err == nil {
			_, err = file.Seek(0, 2)
		}
	}
	if err == nil {
		err = syncDirectory(filepath.Dir(p.path))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("state directory: %w", err), file.Close())
	}
	p.file, p.bytes, p.gen, p.synced = file, int64(text.Len()), gen, true
	return nil
}

// mark notes a position.
func (p *positions) mark(m sentMark) error {
	if p == nil {
		return nil
	}
	if p.file == nil || p.bytes > maxPositionsBytes {
		return p.begin(p.gen, m)
	}
	line, err := json.Marshal(m)
	if err != nil {
		return err
	}
	n, err := p.file.Write(append(line, '\n'))
	p.bytes += int64(n)
	p.synced = false
	if err != nil { // a part of a line may be there: write it anew next time
		p.bytes = maxPositionsBytes + 1
		return fmt.Errorf("state directory: %w", err)
	}
	return nil
}

// sync makes the last sentMark durable.
func (p *positions) sync() error {
	if p == nil || p.synced || p.file == nil {
		return nil
	}
	if err := p.file.Sync(); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	p.synced = true
	return nil
}

func (p *positions) close() error {
	if p == nil {
		return nil
	}
	err := p.sync()
	if p.file != nil {
		err = errors.Join(err, p.file.Close())
		p.file = nil
	}
	return errors.Join(err, p.lock.Close())
}
