package command

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"golang.org/x/term"

	"mft/protocol"
)

// Keys says where the keys of encrypted transfers come from.
type Keys struct {
	Files           []string // key files
	PassphraseFiles []string
	Ask             bool // for a passphrase, on the terminal
}

// None tells whether no key is named.
func (k Keys) None() bool { return len(k.Files)+len(k.PassphraseFiles) == 0 && !k.Ask }

// maxKeyFile bounds what is read of a file that is named as a key file.
const maxKeyFile = 1 << 20

// Load reads the keys and passphrases, asking for one where that is wanted.
// notes are what the user should be told.
func (k Keys) Load(in io.Reader, out io.Writer, twice bool) (keys []*protocol.Key, passphrases [][]byte, notes []string, err error) {
	for _, path := range k.Files {
		text, note, err := readSecret(path)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("key file: %w", err)
		}
		list, err := protocol.ParseKeys(text)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("key file %s: %w", path, err)
		}
		keys, notes = append(keys, list...), append(notes, note...)
	}
	for _, path := range k.PassphraseFiles {
		text, note, err := readSecret(path)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("passphrase file: %w", err)
		}
		if len(bytes.TrimSpace(text)) == 0 {
			return nil, nil, nil, fmt.Errorf("passphrase file %s is empty", path)
		}
		passphrases, notes = append(passphrases, text), append(notes, note...)
	}
	if k.Ask {
		passphrase, err := askPassphrase(in, out, twice)
		if err != nil {
			return nil, nil, nil, err
		}
		passphrases = append(passphrases, passphrase)
	}
	return keys, passphrases, notes, nil
}

// readSecret reads a file that should be its owner's only.
func readSecret(path string) (text []byte, notes []string, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return nil, nil, err
	}
	if mode := info.Mode().Perm(); runtime.GOOS != "windows" && info.Mode().IsRegular() && mode&0o077 != 0 {
		notes = append(notes, fmt.Sprintf("%s has mode %04o, so others than its owner can read or replace it: chmod 600 it", path, mode))
	}
	text, err = io.ReadAll(io.LimitReader(file, maxKeyFile+1))
	if err == nil && len(text) > maxKeyFile {
		err = fmt.Errorf("%s is larger than 1 MiB: this is no file of keys", path)
	}
	return text, notes, err
}

// askPassphrase asks on the terminal, without showing what is typed.
func askPassphrase(in io.Reader, out io.Writer, twice bool) ([]byte, error) {
	file, ok := in.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return nil, Usagef("the passphrase is asked for on a terminal, and the standard input is none: name a file that holds it instead")
	}
	ask := func(prompt string) ([]byte, error) {
		fmt.Fprint(out, prompt)
		text, err := term.ReadPassword(int(file.Fd()))
		fmt.Fprintln(out)
		if err != nil {
			return nil, fmt.Errorf("reading the passphrase: %w", err)
		}
		return bytes.TrimSpace(text), nil
	}
	text, err := ask("passphrase: ")
	if err != nil {
		return nil, err
	}
	if len(text) == 0 {
		return nil, Usagef("the passphrase is empty")
	}
	if twice {
		again, err := ask("passphrase once more: ")
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(text, again) {
			return nil, Usagef("the two passphrases differ")
		}
	}
	return text, nil
}
