package store

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// The places a seal key comes from, in order.
const (
	// KeyEnv holds the key itself, KeyFileEnv the path of a file with it.
	KeyEnv     = "RUNNER_SEAL_KEY"
	KeyFileEnv = "RUNNER_SEAL_KEY_FILE"
	// KeyFile is the file in the data directory that is used, and at the first
	// start made, when neither variable is set.
	KeyFile = "seal.key"
)

// maxKeyFile bounds what is read of a key file: 64 hexadecimal digits, with
// room for the spaces people leave.
const maxKeyFile = 1 << 10

// KeyError is a seal key that is missing or wrong. It names both keys by id.
type KeyError struct {
	// Want is the id in the store, Have the id of the key that was found, ""
	// if none was.
	Want, Have string
	// From is where the key was found, or looked for.
	From string
}

// Error names both ids and what to do.
func (e *KeyError) Error() string {
	if e.Have == "" {
		return fmt.Sprintf("the store is sealed with key %s, but there is no key in %s; put that key there, or set %s or %s",
			e.Want, e.From, KeyEnv, KeyFileEnv)
	}
	return fmt.Sprintf("the store is sealed with key %s, but the key in %s is %s; use the store's own key (%s, %s or %s)",
		e.Want, e.From, e.Have, KeyEnv, KeyFileEnv, KeyFile)
}

// KeyConfig says where to look for the seal key.
type KeyConfig struct {
	// Getenv reads an environment variable; nil: os.Getenv.
	Getenv func(string) string
	// Dir is the data directory, where seal.key lies.
	Dir string
	// Want is the id of the key the store is sealed with, "" if nothing in it
	// is sealed: only then is a missing key made.
	Want string
}

// LoadKey finds the seal key: RUNNER_SEAL_KEY, else the file that
// RUNNER_SEAL_KEY_FILE names, else seal.key in the data directory, which is
// made (0600, random) if it does not exist and nothing is sealed yet. A key is
// 32 bytes in base64 or hexadecimal. A key that is not the store's, or none
// where the store has sealed rows, is a *KeyError; nothing is written then.
// Errors never contain the key.
func LoadKey(c KeyConfig) (*Sealer, error) {
	getenv := c.Getenv
	if getenv == nil {
		getenv = os.Getenv
	}
	text, file := getenv(KeyEnv), getenv(KeyFileEnv)
	switch {
	case text != "" && file != "":
		return nil, fmt.Errorf("seal key: both %s and %s are set; set one of them", KeyEnv, KeyFileEnv)
	case text != "":
		return parsed(text, KeyEnv, c.Want)
	case file != "":
		text, err := readKey(file, false)
		if err != nil {
			return nil, fmt.Errorf("seal key: %s: %w", KeyFileEnv, err)
		}
		return parsed(text, file, c.Want)
	}

	path := filepath.Join(c.Dir, KeyFile)
	text, err := readKey(path, true)
	if errors.Is(err, fs.ErrNotExist) {
		if c.Want != "" {
			return nil, &KeyError{Want: c.Want, From: path}
		}
		if err := makeKey(path); err != nil {
			return nil, fmt.Errorf("make seal key: %w; the data directory must be writable, or set %s", err, KeyEnv)
		}
		text, err = readKey(path, true)
	}
	if err != nil {
		return nil, fmt.Errorf("seal key: %w", err)
	}
	return parsed(text, path, c.Want)
}

func parsed(text, from, want string) (*Sealer, error) {
	key, err := ParseKey(text)
	if err != nil {
		return nil, fmt.Errorf("seal key in %s: %w", from, err)
	}
	s, err := NewSealer(key)
	if err != nil {
		return nil, err
	}
	if want != "" && s.ID() != want {
		return nil, &KeyError{Want: want, Have: s.ID(), From: from}
	}
	return s, nil
}

// ParseKey decodes 32 bytes in hexadecimal or base64 (standard or URL, padded
// or not), spaces around it ignored. Its error does not contain the text.
func ParseKey(text string) ([]byte, error) {
	text = strings.TrimSpace(text)
	if len(text) == hex.EncodedLen(KeySize) {
		if key, err := hex.DecodeString(text); err == nil {
			return key, nil
		}
	}
	bare := strings.TrimRight(text, "=")
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if key, err := enc.DecodeString(bare); err == nil && len(key) == KeySize {
			return key, nil
		}
	}
	return nil, fmt.Errorf("%d characters are not %d bytes in base64 or hexadecimal; make one with: openssl rand -base64 32",
		len(text), KeySize)
}

// readKey reads a key file. private refuses a file that others may read: the
// one we made ourselves has no reason to be that way.
func readKey(path string, private bool) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() && private {
		return "", fmt.Errorf("%s is not a regular file", path)
	}
	if private && info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("%s may be read by others (mode %04o); run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return string(b), nil
}

// makeKey writes a random key to path, whole or not at all: it is written
// beside it, synced and then linked, which fails if somebody was first. That
// somebody's key is the one to use then.
func makeKey(path string) error {
	key := make([]byte, KeySize)
	// Read never fails; see crypto/rand.
	_, _ = rand.Read(key)
	dir := filepath.Dir(path)
	tmp := path + "." + hex.EncodeToString(key[:4]) + ".tmp"
	if err := writeKey(tmp, key); err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp) }() // nothing but a file too many
	if err := os.Link(tmp, path); err != nil && !errors.Is(err, fs.ErrExist) {
		// File systems without hard links: exclusive all the same.
		if err := writeKey(path, key); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func writeKey(path string, key []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	if _, err := io.WriteString(f, base64.StdEncoding.EncodeToString(key)+"\n"); err != nil {
		return err
	}
	return f.Sync()
}
