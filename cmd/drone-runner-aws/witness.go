package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// witnessFile remembers beside a SQLite database when it was last alive. A
// database that was copied back by hand is older than its witness says, and
// what it takes for free may be in use: see pool.Witness. It is not for
// Postgres, whose copies are restored elsewhere and by others.
type witnessFile string

// witnessOf is the witness of a database file.
func witnessOf(database string) witnessFile { return witnessFile(database + ".alive") }

// Seen implements pool.Witness.
func (w witnessFile) Seen() (time.Time, error) {
	text, err := os.ReadFile(string(w))
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	t, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(string(text)))
	if err != nil {
		return time.Time{}, fmt.Errorf("%s: %w; remove it if the database was not copied back", w, err)
	}
	return t, nil
}

// Saw implements pool.Witness. The file is whole at any moment.
func (w witnessFile) Saw(t time.Time) error {
	f, err := os.CreateTemp(filepath.Dir(string(w)), filepath.Base(string(w))+".*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(t.UTC().Format(time.RFC3339Nano) + "\n")
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), string(w))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
