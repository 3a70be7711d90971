package terminal

import (
	"fmt"
	"io"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

const (
	largeFile   = 64 << 20 // bytes; a file of that size has a bar of its own when there are others
	maxFileBars = 4        // at a time
)

// fileBar is the bar of one large file, above the one of all files.
type fileBar struct {
	line *mpb.Bar
	id   string
}

// addFile gives a large file a bar, while there are few. It must be called without
// the Progress's lock, which is taken to draw.
func (b *bar) addFile(p *Progress, id string, it *item) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.files) >= maxFileBars {
		return
	}
	style := mpb.BarStyle().Lbound("").Filler("━").Tip("━").Padding("─").Rbound("").Build()
	filler := mpb.BarFillerFunc(func(w io.Writer, st decor.Statistics) error {
		p.mu.Lock()
		st.Current, st.Total = min(it.moved, it.size), it.size
		p.mu.Unlock()
		st.RequestedWidth = 24
		return style.Fill(w, st)
	})
	line, err := b.container.Add(0, filler,
		mpb.BarRemoveOnComplete(),
		mpb.BarPriority(-1),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return fitName(it.name) })),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string {
			p.mu.Lock()
			defer p.mu.Unlock()
			return fmt.Sprintf(" %s", it.about(time.Now()))
		})),
	)
	if err != nil { // the bars are being taken away
		return
	}
	b.files = append(b.files, fileBar{line, id})
}

// dropFile takes the bar of a file away, if it has one.
func (b *bar) dropFile(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, f := range b.files {
		if f.id == id {
			f.line.Abort(true)
			b.files = append(b.files[:i], b.files[i+1:]...)
			return
		}
	}
}
