package command

import "os"

var stateSignals []os.Signal

func ignoreBackgroundRead() bool { return true }
