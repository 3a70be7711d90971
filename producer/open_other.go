//go:build !unix

package producer

import "os"

func openFile(path string) (*os.File, error) { return os.Open(path) }
