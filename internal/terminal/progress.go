package terminal

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// LineInterval is the least time between two plain lines of progress.
const LineInterval = 3 * time.Second

// Options say how a Progress shows itself.
type Options struct {
	Err      io.Writer     // where a person looks: bar, lines, summary; nil: os.Stderr
	JSON     io.Writer     // where events go as JSON, one object a line; nil: nowhere
	Mode     Mode          // Auto when empty
	Verb     string        // what happens to the files, in the past: "sent", "received"
	Interval time.Duration // between two plain lines, and two JSON progress events; 0: LineInterval
}

// Progress follows a number of files on their way. Files are told apart by an
// id of the caller's choice, such as the transfer id. All methods may be called
// from several goroutines. A Progress must be closed.
type Progress struct {
	err   io.Writer
	json  *json.Encoder
	lines io.Writer // what json writes to
	line  []byte    // scratch of emitFile
	verb  string
	show  bool // lines or a bar, besides failures and the summary

	mu       sync.Mutex
	bar      *bar // nil unless on a terminal
	items    map[string]*item
	last     string // name of the file that moved last
	start    time.Time
	told     time.Time
	interval time.Duration

	wantFiles int
	wantBytes int64 // 0: not known
	moved     int64 // bytes moved so far, of any file, finished or not
	earlier   int64 // of those, what an earlier run has moved
	pace      pace
	total     Summary
	closed    bool
	sent      time.Duration // how long that took, once only receivers are waited for
}

type item struct {
	name  string
	size  int64 // -1 not known
	moved int64
	dir   bool
	began time.Time

	earlier int64 // of moved, what an earlier run has
}

// Summary is what was done.
type Summary struct {
	Files   int   // regular files in place
	Dirs    int   // directories in place
	Bytes   int64 // content of those files
	Earlier int64 // of Bytes, what an earlier run has moved
	Failed  int   // files and directories that failed
	Skipped int   // files that Skip told of

	Confirmed, Unconfirmed int // files and directories that Confirm and Unconfirmed told of

	Elapsed time.Duration // since New
}

// New starts to show progress.
func New(o Options) *Progress {
	if o.Err == nil {
		o.Err = os.Stderr
	}
	if o.Interval == 0 {
		o.Interval = LineInterval
	}
	now := time.Now()
	p := &Progress{
		err: o.Err, verb: o.Verb, interval: o.Interval,
		items: make(map[string]*item), start: now, told: now,
		show: o.Mode == Always || o.Mode != Never && o.JSON == nil,
	}
	if o.JSON != nil {
		p.lines, p.json = o.JSON, json.NewEncoder(o.JSON)
		p.json.SetEscapeHTML(false)
	}
	if p.show && Is(o.Err) {
		p.bar = newBar(o.Err, p)
	}
	return p
}

// Event is one JSON event. Fields that do not apply are left out.
type Event struct {
	Event   string  `json:"event"` // docs/configuration.md lists them
	ID      string  `json:"id,omitempty"`
	Name    string  `json:"name,omitempty"`
	Type    string  `json:"type,omitempty"` // file or dir
	Size    *int64  `json:"size,omitempty"` // bytes, where known
	Bytes   *int64  `json:"bytes,omitempty"`
	Digest  string  `json:"digest,omitempty"`
	Message string  `json:"message,omitempty"`
	Files   *int    `json:"files,omitempty"`
	Dirs    *int    `json:"dirs,omitempty"`
	Failed  *int    `json:"failed,omitempty"`
	OfFiles *int    `json:"of_files,omitempty"` // that many are to come in all, as far as is known
	OfBytes *int64  `json:"of_bytes,omitempty"`
	Rate    *int64  `json:"rate,omitempty"` // bytes per second, of late
	Left    float64 `json:"left,omitempty"` // seconds until the rest is done, at that rate
	Seconds float64 `json:"seconds,omitempty"`

	Group       string `json:"group,omitempty"` // of the receiver that confirms
	Host        string `json:"host,omitempty"`  // its machine
	Path        string `json:"path,omitempty"`  // where it has the file
	Confirmed   *int   `json:"confirmed,omitempty"`
	Unconfirmed *int   `json:"unconfirmed,omitempty"`
}

// Expect adds to what is to come, which gives the bar its length.
func (p *Progress) Expect(files int, bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wantFiles += files
	p.wantBytes += bytes
}

// Begin tells that a file (or a directory) starts; size is in bytes, -1 when
// not known.
func (p *Progress) Begin(id, name string, size int64, dir bool) {
	it := &item{name: name, size: size, dir: dir, began: time.Now()}
	if p.begin(id, it) && p.bar != nil && size >= largeFile {
		p.bar.addFile(p, id, it)
	}
}

// begin tells whether the file is one of several.
func (p *Progress) begin(id string, it *item) bool {
	name, size, dir := it.name, it.size, it.dir
	p.mu.Lock()
	defer p.mu.Unlock()
	p.items[id] = it
	p.last = name
	event := Event{Event: "begin", ID: id, Name: name, Type: kind(dir)}
	if size >= 0 && !dir {
		event.Size = &size
	}
	p.emitFile(event)
	return p.wantFiles != 1
}

// Advance tells that n more bytes of the file have moved; a negative n takes
// bytes back, when a file starts anew.
func (p *Progress) Advance(id string, n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	it, ok := p.items[id]
	if !ok {
		return
	}
	it.moved += n
	p.moved += n
	p.last = it.name
	p.tell()
}

// Resume tells that the first n bytes of the file, which has begun, were moved by
// an earlier run.
func (p *Progress) Resume(id string, n int64) {
	p.mu.Lock()
	it, ok := p.items[id]
	if !ok {
		p.mu.Unlock()
		return
	}
	it.moved, it.earlier = it.moved+n, it.earlier+n
	p.moved, p.earlier = p.moved+n, p.earlier+n
	p.emit(Event{Event: "resumed", ID: id, Name: it.name, Bytes: &n})
	text := fmt.Sprintf("resumed: %s: %s", it.name, Size(n))
	if it.size >= 0 {
		text += " of " + Size(it.size)
	}
	p.mu.Unlock()
	if p.show {
		p.print(text + " were " + p.verb + " before")
	}
}

// Done tells that the file is where it should be, with the digest ("" when
// there is none to show).
func (p *Progress) Done(id, digest string) {
	defer p.dropBar(id)
	p.mu.Lock()
	defer p.mu.Unlock()
	it, ok := p.items[id]
	if !ok {
		return
	}
	delete(p.items, id)
	if it.dir {
		p.total.Dirs++
		p.emit(Event{Event: "done", ID: id, Name: it.name, Type: "dir"})
		p.tell()
		return
	}
	if it.size < 0 {
		it.size = it.moved
	}
	p.moved += it.size - it.moved // a caller may tell of whole files only
	p.total.Files++
	p.total.Bytes += it.size
	p.total.Earlier += it.earlier
	p.emitFile(Event{Event: "done", ID: id, Name: it.name, Type: "file", Bytes: &it.size, Digest: digest})
	p.tell()
}

// Fail tells that the file failed and why. It is printed whatever the mode.
// The id need not have begun.
func (p *Progress) Fail(id, name string, why error) {
	defer p.dropBar(id)
	p.mu.Lock()
	if it, ok := p.items[id]; ok {
		p.moved, p.earlier = p.moved-it.moved, p.earlier-it.earlier
		delete(p.items, id)
	}
	p.total.Failed++
	p.emit(Event{Event: "failed", ID: id, Name: name, Message: why.Error()})
	p.mu.Unlock()
	p.print(fmt.Sprintf("failed: %s: %v", name, why))
}

// Drop tells that the file will not come, which is no failure: its sender gave
// it up, or another receiver has it.
func (p *Progress) Drop(id, name string, why error) {
	defer p.dropBar(id)
	p.mu.Lock()
	if it, ok := p.items[id]; ok {
		p.moved, p.earlier = p.moved-it.moved, p.earlier-it.earlier
		delete(p.items, id)
	}
	p.emit(Event{Event: "dropped", ID: id, Name: name, Message: why.Error()})
	p.mu.Unlock()
	p.print(fmt.Sprintf("dropped: %s: %v", name, why))
}

// Skip tells that the file was left out, which is no failure.
func (p *Progress) Skip(id, name, reason string) {
	defer p.dropBar(id)
	p.mu.Lock()
	if it, ok := p.items[id]; ok {
		p.moved, p.earlier = p.moved-it.moved, p.earlier-it.earlier
		delete(p.items, id)
	}
	p.total.Skipped++
	p.emit(Event{Event: "skipped", ID: id, Name: name, Message: reason})
	p.mu.Unlock()
	p.print(fmt.Sprintf("skipped: %s: %s", name, reason))
}

// dropBar takes away the bar of a file. It must be called without the lock.
func (p *Progress) dropBar(id string) {
	if p.bar != nil {
		p.bar.dropFile(id)
	}
}

// Warn tells of something that does not stop the work, such as a symlink that
// was left out.
func (p *Progress) Warn(name, message string) {
	p.mu.Lock()
	p.emit(Event{Event: "warning", Name: name, Message: message})
	p.mu.Unlock()
	if name != "" {
		message = name + ": " + message
	}
	p.print(message)
}

// Summary returns what was done so far.
func (p *Progress) Summary() Summary {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.summary()
}

func (p *Progress) summary() Summary {
	s := p.total
	s.Elapsed = time.Since(p.start)
	if p.sent > 0 {
		s.Elapsed = p.sent
	}
	return s
}

// Writer is where a log goes while progress is shown: above the bar.
func (p *Progress) Writer() io.Writer {
	if p.bar != nil {
		return aboveBar{p}
	}
	return p.err
}

// aboveBar writes lines to the terminal above the bar.
type aboveBar struct{ p *Progress }

func (w aboveBar) Write(b []byte) (int, error) { return w.p.bar.Write(b) }

// Close removes the bar and prints the summary, or sends it as JSON.
// Closing twice does nothing.
func (p *Progress) Close() Summary {
	p.mu.Lock()
	s := p.summary()
	if p.closed {
		p.mu.Unlock()
		return s
	}
	p.closed = true
	p.mu.Unlock()
	if p.bar != nil {
		p.bar.close() // it reads the state, so not under the lock
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.emit(Event{
		Event: "summary", Files: &s.Files, Dirs: &s.Dirs, Failed: &s.Failed, Bytes: &s.Bytes,
		Seconds: s.Elapsed.Seconds(), Confirmed: s.confirmed(s.Confirmed), Unconfirmed: s.confirmed(s.Unconfirmed),
	})
	if p.json == nil || p.show {
		fmt.Fprintln(p.err, p.verb+" "+s.String())
	}
	return s
}

// String is the summary in a sentence: "12 files, 1 directory, 1.2 GB in 3.2 s
// (375 MB/s), 1 failed".
func (s Summary) String() string {
	text := Count(s.Files, "file")
	if s.Dirs == 1 {
		text += ", 1 directory"
	} else if s.Dirs > 1 {
		text += fmt.Sprintf(", %d directories", s.Dirs)
	}
	text += fmt.Sprintf(", %s in %s (%s)", Size(s.Bytes), Seconds(s.Elapsed), Rate(s.Bytes-s.Earlier, s.Elapsed))
	if s.Earlier > 0 {
		text += fmt.Sprintf(", %s of it earlier", Size(s.Earlier))
	}
	if s.Failed > 0 {
		text += fmt.Sprintf(", %d failed", s.Failed)
	}
	if s.Skipped > 0 {
		text += fmt.Sprintf(", %d skipped", s.Skipped)
	}
	if s.Confirmed+s.Unconfirmed > 0 {
		text += fmt.Sprintf(", %d confirmed", s.Confirmed)
	}
	if s.Unconfirmed > 0 {
		text += fmt.Sprintf(", %d not confirmed", s.Unconfirmed)
	}
	return text
}

// tell prints a line, or sends an event, when the last is long enough ago.
func (p *Progress) tell() {
	now := time.Now()
	p.pace.note(now, p.moved-p.earlier)
	if now.Sub(p.told) < p.interval {
		return
	}
	p.told = now
	files, bytes, rate := p.total.Files, p.moved, int64(p.rate(now))
	event := Event{Event: "progress", Files: &files, Bytes: &bytes, Rate: &rate, Seconds: now.Sub(p.start).Seconds()}
	if p.wantFiles > 0 {
		event.OfFiles, event.OfBytes = &p.wantFiles, &p.wantBytes
		event.Left = left(p.wantBytes-p.moved, p.rate(now)).Seconds()
	}
	event.Confirmed = p.total.confirmed(p.total.Confirmed)
	p.emit(event)
	if p.show && p.bar == nil {
		fmt.Fprintln(p.err, p.verb+" "+p.status(now))
	}
}

// rate is how fast bytes move of late, in bytes per second; over the whole time
// before that is known.
func (p *Progress) rate(now time.Time) float64 {
	if p.pace.n > 1 {
		return p.pace.rate(now, p.moved-p.earlier)
	}
	return float64(p.moved-p.earlier) / max(now.Sub(p.start).Seconds(), 1e-9)
}

// status is how far it is: "12 of 40 files, 1.2 GB of 3 GB (40 %), 375 MB/s, 5s left".
func (p *Progress) status(now time.Time) string {
	files := Count(p.total.Files, "file")
	if p.wantFiles > 0 {
		files = fmt.Sprintf("%d of %s", p.total.Files, Count(p.wantFiles, "file"))
	}
	bytes := Size(p.moved)
	if p.wantBytes > 0 {
		bytes += fmt.Sprintf(" of %s (%d %%)", Size(p.wantBytes), p.percent())
	}
	rate := p.rate(now)
	text := files + ", " + bytes + ", " + Size(int64(rate)) + "/s"
	if p.total.Confirmed > 0 {
		text += fmt.Sprintf(", %d confirmed", p.total.Confirmed)
	}
	if p.wantBytes > 0 {
		text += eta(p.wantBytes-p.moved, rate)
	}
	return text
}

// percent is how much of a known total has moved.
func (p *Progress) percent() int64 {
	return min(100, int64(float64(p.moved)*100/float64(p.wantBytes)))
}

func (p *Progress) emit(e Event) {
	if p.json != nil {
		// A reader that went away takes the process with it (SIGPIPE); there is
		// nobody left to tell of another failure.
		_ = p.json.Encode(e)
	}
}

// emitFile is emit for what Event.appendFile can write.
func (p *Progress) emitFile(e Event) {
	if p.json == nil {
		return
	}
	line, ok := e.appendFile(p.line[:0])
	if !ok {
		p.emit(e)
		return
	}
	p.line = line
	_, _ = p.lines.Write(line) // as of emit
}

// print writes a line that is shown whatever the mode. It must be called
// without the lock: the bar takes it to draw.
func (p *Progress) print(line string) {
	w := p.Writer()
	if p.bar == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
	}
	fmt.Fprintln(w, line)
}

func kind(dir bool) string {
	if dir {
		return "dir"
	}
	return "file"
}
