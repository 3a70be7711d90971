package commandtest

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// NotStored looks through all files of a directory for texts that should be in
// none of them.
func NotStored(dir string, texts ...string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, text := range texts {
			if bytes.Contains(content, []byte(text)) {
				return fmt.Errorf("%q is in %s", text, path)
			}
		}
		return nil
	})
}
