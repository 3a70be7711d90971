package consumer

import (
	"errors"
	"os"
	"time"
)

// Users and groups of Windows have no numbers.
func lookupUser(string) int  { return -1 }
func lookupGroup(string) int { return -1 }

// setLinkTime does nothing: the time of a link cannot be set without following
// it.
func setLinkTime(*os.Root, string, time.Time) error { return nil }

func localXattr(name string) (string, bool) { return name, true }

func setXattr(*os.File, string, []byte) error { return errors.ErrUnsupported }

func isUnsupported(err error) bool { return errors.Is(err, errors.ErrUnsupported) }
