package main

import (
	"errors"
	"fmt"
	"sync"

	"github.com/rs/zerolog"

	"mft/internal/command"
	"mft/internal/config"
	"mft/producer"
	"mft/protocol"
)

// encryptFlags say what files are encrypted with.
var encryptFlags = []string{"encrypt-key", "encrypt-passphrase-file", "encrypt-passphrase"}

// keysOf is where the key comes from: the flags, then the transfer.
func (o *options) keysOf(t config.Transfer) (command.Keys, error) {
	given := command.Keys{Ask: o.encryptAsk}
	ways := 0
	if o.encryptKey != "" {
		given.Files = []string{o.encryptKey}
		ways++
	}
	if o.encryptPassphrase != "" {
		given.PassphraseFiles = []string{o.encryptPassphrase}
		ways++
	}
	if o.encryptAsk {
		ways++
	}
	if ways > 1 {
		return given, command.Usagef("--encrypt-key, --encrypt-passphrase-file and --encrypt-passphrase exclude each other")
	}
	if ways == 0 && t.Encryption != nil {
		// One is enough to encrypt: the first.
		if given.Files = t.Encryption.Keys; len(given.Files) > 0 {
			given.Files = given.Files[:1]
		} else {
			given.PassphraseFiles = t.Encryption.PassphraseFiles[:1]
		}
	}
	return given, nil
}

// sourceKey is the key that one source of keys gave.
type sourceKey struct {
	*protocol.Key
	passphrase []byte // nil: it is of a key file

	mu    sync.Mutex
	again map[string]*protocol.Key // made of the passphrase for interrupted runs, by KDF
}

// rekey makes the key that an interrupted run made of the same passphrase.
func (k *sourceKey) rekey(kdf protocol.KDF) (*protocol.Key, error) {
	if k.passphrase == nil {
		return nil, errors.New("it was made of a passphrase")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	name := fmt.Sprintf("%+v", kdf)
	if key := k.again[name]; key != nil {
		return key, nil
	}
	key, err := protocol.PassphraseKey(k.passphrase, kdf)
	if err == nil {
		k.again[name] = key
	}
	return key, err
}

// encrypt puts the key into cfg. A key is made of a passphrase once for all
// that is sent with it.
func (r *runner) encrypt(cfg *producer.Config, t config.Transfer, log zerolog.Logger) error {
	from, err := r.keysOf(t)
	if err != nil || from.None() {
		return err
	}
	source := "" // of the key: a file, or the terminal
	switch {
	case len(from.Files) > 0:
		source = "key " + from.Files[0]
	case len(from.PassphraseFiles) > 0:
		source = "passphrase " + from.PassphraseFiles[0]
	}
	if key, ok := r.keys[source]; ok {
		cfg.Key, cfg.Rekey = key.Key, key.rekey
		return nil
	}
	keys, passphrases, notes, err := from.Load(r.in, r.err, true)
	if err != nil {
		return err
	}
	for _, note := range notes {
		log.Warn().Msg(note)
	}
	made := new(sourceKey)
	if len(keys) > 0 {
		made.Key = keys[0]
	} else {
		if made.Key, err = protocol.PassphraseKey(passphrases[0], protocol.NewKDF()); err != nil {
			return err
		}
		made.passphrase, made.again = passphrases[0], make(map[string]*protocol.Key)
	}
	if r.keys == nil {
		r.keys = make(map[string]*sourceKey)
	}
	r.keys[source] = made
	cfg.Key, cfg.Rekey = made.Key, made.rekey
	return nil
}
