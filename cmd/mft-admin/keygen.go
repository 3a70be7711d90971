package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"mft/internal/command"
	"mft/protocol"
)

// newKeygen makes keys. It needs no broker.
func newKeygen() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "keygen",
		Short: "Make a key that files are encrypted with.",
		Long: `keygen makes a key for mft-produce --encrypt-key and mft-consume --decrypt-key,
and prints it, or writes it to a file that only its owner can read. A file that
is there already is left as it is. The key's id, which is no secret, goes to the
standard error.

To change keys, make a new one, join both files into one with the new key first,
give that to the receivers, then the new one to the senders. The first key of a
file encrypts, all of them decrypt.`,
		Example: `  mft-admin keygen -o transfer.key
  cat new.key old.key > both.key`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key := protocol.NewKey()
			text := key.FileText(time.Now())
			if path == "" {
				if _, err := cmd.OutOrStdout().Write(text); err != nil {
					return err
				}
			} else if err := writeNew(path, text); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "key %s\n", key.ID())
			return nil
		},
	}
	cmd.Flags().StringVarP(&path, "output", "o", "", "write the key to `FILE`, which must not exist")
	return cmd
}

// writeNew makes a file that only its owner can read, durable and whole or not
// at all.
func writeNew(path string, text []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return command.Hintf(fmt.Errorf("%s exists, and what is encrypted with it would be lost without it", path), "choose another name, or move it away")
	}
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	if err == nil {
		err = file.Sync()
	}
	err = errors.Join(err, file.Close())
	if err == nil && runtime.GOOS != "windows" { // where directories cannot be synced
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", path, err), os.Remove(path))
	}
	return nil
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
