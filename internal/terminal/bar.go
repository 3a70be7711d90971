package terminal

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// bar is one line at the foot of the terminal, over all files: a bar when the
// total is known, only figures otherwise. It reads the Progress it shows when
// it draws, so moving bytes costs it nothing.
type bar struct {
	container *mpb.Progress
	line      *mpb.Bar
	out       io.Writer

	mu    sync.Mutex // of files; never taken while drawing
	files []fileBar
}

const nameWidth = 18 // columns for the name of the file that moves

func newBar(w io.Writer, p *Progress) *bar {
	container := mpb.New(mpb.WithOutput(w), mpb.WithAutoRefresh(), mpb.WithRefreshRate(120*time.Millisecond))
	style := mpb.BarStyle().Lbound("").Filler("━").Tip("━").Padding("─").Rbound("").Build()
	filler := mpb.BarFillerFunc(func(w io.Writer, st decor.Statistics) error {
		moved, want := p.share()
		if want <= 0 {
			return nil
		}
		st.Current, st.Total = min(moved, want), want
		st.RequestedWidth = 24
		return style.Fill(w, st)
	})
	line := container.MustAdd(0, filler,
		mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return p.nameColumn() })),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return p.figures(time.Now()) })),
	)
	return &bar{container: container, line: line, out: w}
}

// Write prints whole lines above the bar, or where it was once it is closed.
func (b *bar) Write(line []byte) (int, error) {
	n, err := b.container.Write(line)
	if errors.Is(err, mpb.ErrDone) {
		return b.out.Write(line)
	}
	return n, err
}

func (b *bar) close() {
	b.mu.Lock()
	for _, f := range b.files {
		f.line.Abort(true)
	}
	b.files = nil
	b.mu.Unlock()
	b.line.Abort(true)
	b.container.Wait()
}

// share is how much has moved, of how much; the latter is 0 when not known.
func (p *Progress) share() (moved, want int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.moved, p.wantBytes
}

// nameColumn is the name of the file that moved last, cut at its front to fit.
func (p *Progress) nameColumn() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fitName(p.last)
}

func fitName(text string) string {
	name := []rune(text)
	if len(name) > nameWidth {
		name = append([]rune("…"), name[len(name)-nameWidth+1:]...)
	}
	return fmt.Sprintf("%-*s ", nameWidth, string(name))
}

// figures are how far it is, short enough to leave room for a bar in 80
// columns: " 22 %  200 MB/900 MB  375 MB/s  3/40 files  2s left".
func (p *Progress) figures(now time.Time) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wantBytes <= 0 {
		return p.status(now)
	}
	rate := p.rate(now)
	text := fmt.Sprintf(" %d %%  %s/%s  %s/s", p.percent(), Size(p.moved), Size(p.wantBytes), Size(int64(rate)))
	if p.wantFiles > 1 {
		text += fmt.Sprintf("  %d/%s", p.total.Files, Count(p.wantFiles, "file"))
	}
	if p.total.Confirmed > 0 {
		text += fmt.Sprintf("  %d confirmed", p.total.Confirmed)
	}
	if d := left(p.wantBytes-p.moved, rate); d > 0 {
		text += "  " + d.Round(time.Second).String() + " left"
	}
	return text
}
