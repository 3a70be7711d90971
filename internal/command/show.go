package command

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"sync"

	"mft/internal/terminal"
)

// shown is what a running command tells of itself when it is asked: by SIGUSR1,
// by SIGINFO where there is that (Ctrl-T), or by Enter on a terminal.
type shown struct {
	name   string
	stderr io.Writer

	mu     sync.Mutex
	states []*func() string
}

type shownKey struct{}

// Show has state printed whenever the command is asked how far it is, until
// stop is called. keys says that Enter on the standard input asks, too, when
// that is a terminal which nothing else is read from.
func Show(ctx context.Context, keys bool, state func() string) (stop func()) {
	s, ok := ctx.Value(shownKey{}).(*shown)
	if !ok {
		return func() {}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.states = append(s.states, &state)
	if keys {
		s.listen(os.Stdin)
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.states = slices.DeleteFunc(s.states, func(f *func() string) bool { return f == &state })
	}
}

// answer prints all states.
func (s *shown) answer() {
	s.mu.Lock()
	states := slices.Clone(s.states)
	s.mu.Unlock()
	if len(states) == 0 {
		fmt.Fprintln(s.stderr, s.name+": at work")
	}
	for _, state := range states {
		fmt.Fprintln(s.stderr, s.name+": "+(*state)())
	}
}

// onSignal answers when the process is asked, until stop is called.
func (s *shown) onSignal() (stop func()) {
	if len(stateSignals) == 0 {
		return func() {}
	}
	asked := make(chan os.Signal, 1)
	done := make(chan struct{})
	signal.Notify(asked, stateSignals...)
	go func() {
		for {
			select {
			case <-asked:
				s.answer()
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(asked)
		close(done)
	}
}

// listen answers each Enter on a terminal for as long as the process lives. A
// process in the background must not read from it: it would be stopped.
func (s *shown) listen(in *os.File) {
	if !terminal.Is(in) || !ignoreBackgroundRead() {
		return
	}
	go func() {
		b := make([]byte, 256)
		for {
			n, err := in.Read(b)
			if err != nil { // no terminal any more, or in the background: signals remain
				return
			}
			if slices.Contains(b[:n], '\n') {
				s.answer()
			}
		}
	}()
}
