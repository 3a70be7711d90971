package consumer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"mft/protocol"
)

// Defaults of a Hook.
const (
	DefaultHookTimeout  = time.Hour
	DefaultHookTries    = 4
	DefaultHookParallel = 4
)

const (
	hookRetryWait = time.Second      // before the second try; doubles
	hookRetryMax  = 30 * time.Second // between two tries
	hookKillGrace = 5 * time.Second  // for output that others hold open after a command has ended
	hookOutput    = 4 << 10          // bytes of a command's output that are kept: the last ones
)

// Hook is a command that is run after each file, when that is durable in its
// place. Directories and links have none.
//
// It is run directly, without a shell: {} in an argument stands for the
// absolute path of the file. Its environment is that of this process and
//
//	MFT_FILE              absolute path
//	MFT_FILE_NAME         name below the directory, with slashes
//	MFT_FILE_SENT_NAME    name as it was sent
//	MFT_FILE_SIZE         bytes
//	MFT_FILE_DIGEST       in hex, and MFT_FILE_DIGEST_KIND; empty when there is none
//	MFT_FILE_TRANSFER     transfer id
//	MFT_FILE_TOPIC        topic
//	MFT_FILE_TRY          1, 2, ...
//
// A command that fails or takes too long is run again, with growing pauses
// that hold up no other file. It is run at least once for each file: a receiver
// that is killed meanwhile runs it again.
type Hook struct {
	Command  []string      // program and arguments
	Timeout  time.Duration // of one run; 0: DefaultHookTimeout, negative: none
	Tries    int           // in all; 0: DefaultHookTries
	Parallel int           // commands at a time; 0: DefaultHookParallel
}

// HookError tells that the command of a file that is in place has failed.
type HookError struct {
	Command string // as it was run
	Tries   int
	Err     error
	Output  string // the end of what it printed in the last try
}

func (e *HookError) Error() string {
	text := fmt.Sprintf("its command %s failed: %v", e.Command, e.Err)
	if e.Tries > 1 {
		text = fmt.Sprintf("its command %s failed %d times, last: %v", e.Command, e.Tries, e.Err)
	}
	if e.Output != "" {
		text += ": " + e.Output
	}
	return text
}

func (e *HookError) Unwrap() error { return e.Err }

// ParseCommand cuts a command line into words, as a shell does without looking
// at variables, globs and the like: at blanks, unless they are in quotes. A
// backslash takes the next character as it is, on Windows only a quote.
func ParseCommand(line string) ([]string, error) {
	return splitCommand(line, os.PathSeparator == '\\')
}

func splitCommand(line string, windows bool) ([]string, error) {
	var words []string
	var word strings.Builder
	in, begun := rune(0), false // the quote that is open; a word has begun
	runes := []rune(line)
	for i := 0; i < len(runes); i++ {
		c := runes[i]
		next := rune(0)
		if i+1 < len(runes) {
			next = runes[i+1]
		}
		switch {
		case c == '\\' && in != '\'' && (next == '"' || !windows && (next == '\\' || in == 0 && next != 0)):
			word.WriteRune(next)
			begun = true
			i++
		case in != 0 && c == in:
			in = 0
		case in == 0 && (c == '"' || c == '\''):
			in, begun = c, true
		case in == 0 && (c == ' ' || c == '\t' || c == '\n' || c == '\r'):
			if begun {
				words = append(words, word.String())
				word.Reset()
				begun = false
			}
		default:
			word.WriteRune(c)
			begun = true
		}
	}
	if in != 0 {
		return nil, fmt.Errorf("the command %q has a quote %c that is not closed", line, in)
	}
	if begun {
		words = append(words, word.String())
	}
	if len(words) == 0 {
		return nil, errors.New("the command is empty")
	}
	return words, nil
}

// Check finds the program and refuses what cannot be meant. ReceiveFiles calls
// it, too.
func (h *Hook) Check() error {
	if h == nil {
		return nil
	}
	if len(h.Command) == 0 || h.Command[0] == "" {
		return errors.New("the command to run after each file is empty")
	}
	if h.Tries < 0 || h.Parallel < 0 {
		return fmt.Errorf("a command cannot be tried %d times, %d at a time", h.Tries, h.Parallel)
	}
	if strings.Contains(h.Command[0], "{}") {
		return errors.New("{} stands for a file that has arrived, which is not to be run itself: name a program first")
	}
	if shell(h.Command[0]) {
		for _, arg := range h.Command[1:] {
			if strings.Contains(arg, "{}") && arg != "{}" {
				return fmt.Errorf("%s would take the name of a file in %q for code, and anyone who sends files chooses names: write \"$MFT_FILE\" there", h.Command[0], arg)
			}
		}
	}
	program, err := exec.LookPath(h.Command[0])
	if err != nil {
		return fmt.Errorf("the command to run after each file: %w", err)
	}
	if program, err = filepath.Abs(program); err != nil {
		return fmt.Errorf("the command to run after each file: %w", err)
	}
	h.Command = append([]string{program}, h.Command[1:]...)
	return nil
}

// shell tells whether a program runs its arguments as code.
func shell(program string) bool {
	name := strings.ToLower(strings.TrimSuffix(strings.ToLower(filepath.Base(program)), ".exe"))
	switch name {
	case "sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "fish", "busybox", "cmd", "powershell", "pwsh":
		return true
	}
	return false
}

// hooks runs the commands of files that are in place, a few at a time.
type hooks struct {
	*Hook  // nil: there are none
	placer *placer
	log    zerolog.Logger
	topic  string
	dir    string

	queue chan *placeJob // has room for all that the placer has slots for
	ctx   context.Context
	kill  context.CancelFunc // ends the commands that run
	done  sync.WaitGroup
}

func newHooks(p *placer, cfg *FilesConfig) *hooks {
	h := &hooks{Hook: cfg.Hook, placer: p, log: cfg.Logger, topic: cfg.Topic, dir: p.target.dir}
	if h.Hook == nil {
		return h
	}
	h.queue = make(chan *placeJob, placeQueue)
	h.ctx, h.kill = context.WithCancel(context.Background())
	parallel := h.Parallel
	if parallel == 0 {
		parallel = DefaultHookParallel
	}
	for range parallel {
		h.done.Go(h.worker)
	}
	return h
}

func (h *hooks) wants(job *placeJob) bool { return h.Hook != nil && !job.dir && job.link == "" }

// close ends the commands that run. Nothing is queued any more.
func (h *hooks) close() {
	if h.Hook == nil {
		return
	}
	h.kill()
	h.done.Wait()
	for {
		select {
		case job := <-h.queue:
			h.drop(job)
		default:
			return
		}
	}
}

func (h *hooks) worker() {
	for {
		select {
		case <-h.ctx.Done():
			return
		case job := <-h.queue:
			h.attend(job)
		}
	}
}

// attend runs the command of one file once and says what follows.
func (h *hooks) attend(job *placeJob) {
	if h.placer.stopping.Err() != nil {
		h.drop(job)
		return
	}
	job.tries++
	failed := h.run(job)
	tries := h.Tries
	if tries == 0 {
		tries = DefaultHookTries
	}
	switch {
	case failed == nil:
		h.placer.conclude(job)
	case h.ctx.Err() != nil: // it was ended, the next run begins again
		h.drop(job)
	case job.tries < tries:
		wait := min(hookRetryWait<<(job.tries-1), hookRetryMax)
		h.log.Warn().Str("file", job.as).Stringer("again_in", wait).Err(failed).Msg("the command of a file failed")
		h.done.Go(func() { h.later(job, wait) })
	default:
		h.placer.report.hookFailed(string(job.id), job.as, failed)
		h.placer.conclude(job)
	}
}

// later queues a file again after a pause.
func (h *hooks) later(job *placeJob, wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		h.queue <- job
	case <-h.ctx.Done():
		h.drop(job)
	case <-h.placer.stopping.Done():
		h.drop(job)
	}
}

// drop leaves a file whose command was not run to the end to the next run,
// which knows by its intent that it is in place.
func (h *hooks) drop(job *placeJob) {
	h.log.Debug().Str("file", job.as).Msg("the command of a file is left to the next run")
	h.placer.release(job)
}

// run runs the command for one file.
func (h *hooks) run(job *placeJob) *HookError {
	ctx := h.ctx
	if timeout := h.timeout(); timeout > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, timeout)
		defer stop()
	}
	file := filepath.Join(h.dir, filepath.FromSlash(job.as))
	args := make([]string, len(h.Command)-1)
	for i, arg := range h.Command[1:] {
		args[i] = strings.ReplaceAll(arg, "{}", file)
	}
	var output tail
	cmd := exec.CommandContext(ctx, h.Command[0], args...)
	cmd.Env = append(os.Environ(), hookEnvironment(job, file, h.topic)...)
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.WaitDelay = hookKillGrace
	ownGroup(cmd)
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil && h.ctx.Err() == nil {
		err = fmt.Errorf("it was stopped after %s", h.timeout())
	}
	return &HookError{Command: strings.Join(cmd.Args, " "), Tries: job.tries, Err: err, Output: output.String()}
}

func (h *hooks) timeout() time.Duration {
	if h.Timeout == 0 {
		return DefaultHookTimeout
	}
	return h.Timeout
}

func hookEnvironment(job *placeJob, file, topic string) []string {
	kind := ""
	if job.end.Digest != "" {
		if kind = job.algorithm; kind == "" {
			kind = protocol.DigestXXH3
		}
	}
	return []string{
		"MFT_FILE=" + file,
		"MFT_FILE_NAME=" + job.as,
		"MFT_FILE_SENT_NAME=" + job.sentName,
		"MFT_FILE_SIZE=" + strconv.FormatInt(job.size, 10),
		"MFT_FILE_DIGEST=" + job.end.Digest,
		"MFT_FILE_DIGEST_KIND=" + kind,
		"MFT_FILE_TRANSFER=" + string(job.id),
		"MFT_FILE_TOPIC=" + topic,
		"MFT_FILE_TRY=" + strconv.Itoa(job.tries),
	}
}

// tail keeps the last hookOutput bytes that are written to it.
type tail struct {
	kept []byte
	cut  bool
}

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if n := len(t.kept) - hookOutput; n > 0 {
		t.kept = append(t.kept[:0], t.kept[n:]...)
		t.cut = true
	}
	return len(p), nil
}

func (t *tail) String() string {
	text := strings.TrimSpace(strings.ToValidUTF8(string(t.kept), "?"))
	if t.cut {
		text = "..." + text
	}
	return text
}
