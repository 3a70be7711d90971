package kafkatest

import (
	"errors"
	"fmt"
	"io"
	"os/exec"
)

// janitor is a process that cleans up behind a cluster whose test did not: one that ran out of time, panicked or was killed. It
// reads which processes there are, and when its input ends, which it does with the test, kills them and removes the directory.
type janitor struct {
	process *exec.Cmd
	input   io.WriteCloser
}

// It ignores the signals of a terminal, which go to the test too.
const janitorScript = `
trap '' INT TERM HUP
pids=' '
while read -r what pid; do
  case $what in
    mind) pids="$pids$pid " ;;
    forget) pids="${pids%% $pid *} ${pids#* $pid }" ;;
  esac
done
for pid in $pids; do kill -9 "$pid" 2>/dev/null; done
tries=0
while ! rm -rf "$1" 2>/dev/null && [ $tries -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
`

func startJanitor(dir string) (*janitor, error) {
	process := exec.Command("sh", "-c", janitorScript, "janitor", dir)
	input, err := process.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := process.Start(); err != nil {
		return nil, errors.Join(err, input.Close())
	}
	return &janitor{process, input}, nil
}

// mind has the process killed at the end.
func (j *janitor) mind(pid int) error {
	_, err := fmt.Fprintln(j.input, "mind", pid)
	return err
}

// forget tells that the process is gone.
func (j *janitor) forget(pid int) error {
	_, err := fmt.Fprintln(j.input, "forget", pid)
	return err
}

// stop ends the janitor once it has cleaned up.
func (j *janitor) stop() error { return errors.Join(j.input.Close(), j.process.Wait()) }
