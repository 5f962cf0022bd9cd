package sqlite_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
	"github.com/vm-runner/drone-runner-aws/store/storetest"
)

// file is a place for the tests of copies.
type file string

func (f file) Open(t testing.TB) pool.Store { return opened(t, sqlite.Options{Path: string(f)}) }

func (f file) Backup(ctx context.Context, w io.Writer, now time.Time) (store.CopyInfo, error) {
	return sqlite.Backup(ctx, string(f), w, now)
}

func (f file) Restore(ctx context.Context, r io.Reader, force bool, now time.Time) (string, error) {
	return sqlite.Restore(ctx, sqlite.RestoreOptions{Path: string(f), From: r, Force: force, Now: now})
}

func TestCopies(t *testing.T) {
	t.Parallel()
	storetest.Copies(t, func(t testing.TB) storetest.Place { return file(filepath.Join(t.TempDir(), "database.sqlite3")) })
}

func TestRestoreIsRefusedWhileTheFileIsOpen(t *testing.T) {
	t.Parallel()
	from, to := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	filled(t, from)
	var b bytes.Buffer
	if _, err := sqlite.Backup(t.Context(), from, &b, begin); err != nil {
		t.Fatal(err)
	}
	opened(t, sqlite.Options{Path: to})
	_, err := sqlite.Restore(t.Context(), sqlite.RestoreOptions{Path: to, From: &b, Force: true, Now: begin})
	if !errors.Is(err, pool.ErrUnavailable) || !strings.Contains(err.Error(), "in use by another runner") {
		t.Errorf("error is %v", err)
	}
}

// TestRestoreKeepsTheOldFileWhole: what was only in its log is kept too, and
// nothing else is left over.
func TestRestoreKeepsTheOldFileWhole(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "database.sqlite3")
	filled(t, path)
	var b bytes.Buffer
	if _, err := sqlite.Backup(t.Context(), path, &b, begin); err != nil {
		t.Fatal(err)
	}
	kept, err := sqlite.Restore(t.Context(), sqlite.RestoreOptions{Path: path, From: &b, Force: true, Now: begin})
	if err != nil {
		t.Fatal(err)
	}
	if want := path + ".before-" + begin.Format("20060102T150405.000Z"); kept != want {
		t.Errorf("kept as %s, want %s", kept, want)
	}
	for _, p := range []string{path, kept} {
		s := opened(t, sqlite.Options{Path: p})
		if _, err := s.Instance(t.Context(), "i7"); err != nil {
			t.Errorf("%s: %v", p, err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*restoring*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

// TestBackupOfWhatIsNoStore names the place.
func TestBackupOfWhatIsNoStore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	garbage, empty, newer := filepath.Join(dir, "garbage"), filepath.Join(dir, "empty"), filepath.Join(dir, "newer")
	if err := errors.Join(os.WriteFile(garbage, bytes.Repeat([]byte("text"), 2000), 0o600), os.WriteFile(empty, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	filled(t, newer)
	execute(t, newer, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)")
	for path, want := range map[string]string{
		filepath.Join(dir, "nosuch"): "no such file", garbage: "not a SQLite database", empty: "nothing to back up", newer: "version 999",
	} {
		var b bytes.Buffer
		_, err := sqlite.Backup(t.Context(), path, &b, begin)
		if !errors.Is(err, pool.ErrUnavailable) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("error is %v, want %q", err, want)
		}
	}
}

// full is a disk that takes so many bytes.
type full struct{ left int }

var errFull = errors.New("no space left")

func (f *full) Write(b []byte) (int, error) {
	if f.left -= len(b); f.left < 0 {
		return 0, errFull
	}
	return len(b), nil
}

func TestBackupToAFullDiskSaysSo(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a")
	filled(t, path)
	for _, room := range []int{0, 10, 400} {
		if _, err := sqlite.Backup(t.Context(), path, &full{room}, begin); !errors.Is(err, errFull) {
			t.Errorf("with room for %d bytes: %v", room, err)
		}
	}
}
