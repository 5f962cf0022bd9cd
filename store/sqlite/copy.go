package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
	"github.com/vm-runner/drone-runner-aws/store/internal/core"
)

// Dialect is what copies of a SQLite store say they were made of.
const Dialect = "sqlite"

// Backup writes a copy of the file's present state to w: all that was answered
// before the call is in it. A runner may be at work on the file; it is not held
// up.
func Backup(ctx context.Context, path string, w io.Writer, now time.Time) (store.CopyInfo, error) {
	path, err := checkPath(path)
	if err != nil {
		return store.CopyInfo{}, fmt.Errorf("back up store: %w", err)
	}
	if _, err := os.Stat(path); err != nil {
		return store.CopyInfo{}, fmt.Errorf("back up store: %w: %w; name the data directory with --data-dir", pool.ErrUnavailable, err)
	}
	info, err := backup(ctx, path, w, now)
	if err != nil {
		return store.CopyInfo{}, fmt.Errorf("back up store: %w", explain(path, err))
	}
	return info, nil
}

func backup(ctx context.Context, path string, w io.Writer, now time.Time) (store.CopyInfo, error) {
	info := store.CopyInfo{Dialect: Dialect, Made: now.UTC().Truncate(time.Millisecond)}
	db, err := sql.Open(driverName, dsn(path, true, SyncFull))
	if err != nil {
		return info, err
	}
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		return info, err
	}
	defer conn.Close()
	version, err := newest()
	if err != nil {
		return info, err
	}
	// From its first statement on the transaction sees one state.
	if _, err := conn.ExecContext(ctx, "BEGIN"); err != nil {
		return info, err
	}
	defer func() { _, _ = conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK") }()
	have, err := recognise(ctx, conn)
	if err == nil {
		err = have.Whole(version)
	}
	if err != nil {
		return info, err
	}
	if have.Version == 0 {
		return info, fmt.Errorf("%w: %s is empty: there is nothing to back up", pool.ErrUnavailable, path)
	}
	info.Schema = have.Version
	var there []string
	rows, err := conn.QueryContext(ctx, `SELECT name FROM sqlite_master WHERE type = 'table'`)
	if err := collect(rows, err, &there); err != nil {
		return info, err
	}
	tables := slices.DeleteFunc(core.Tables(), func(t string) bool { return !slices.Contains(there, t) })
	return core.Dump(ctx, conn, tables, w, info)
}

func collect(rows *sql.Rows, err error, into *[]string) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var v string
		if err := rows.Scan(&v); err != nil {
			return err
		}
		*into = append(*into, v)
	}
	return rows.Err()
}

// RestoreOptions say what is restored where.
type RestoreOptions struct {
	// Path is the database file, From the copy.
	Path string
	From io.Reader
	// Force replaces a store that has rows; it is kept beside the new one.
	Force bool
	// Now is when, for the mark and the name of what is kept.
	Now time.Time
	// Log may be nil.
	Log *slog.Logger
}

// Restore makes the file a store of a copy, whole or not at all, and returns
// where the store that was there is kept, "" if there was none or it was empty.
// It fails while a runner has the file open, without Force if the store has
// rows, and if the copy is damaged or of a newer schema; then nothing has
// changed. The seal key is the caller's to check.
func Restore(ctx context.Context, o RestoreOptions) (kept string, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	path, err := checkPath(o.Path)
	if err == nil {
		kept, err = restore(ctx, path, o)
	}
	if err != nil {
		return "", fmt.Errorf("restore store: %w", explain(path, err))
	}
	return kept, nil
}

func restore(ctx context.Context, path string, o RestoreOptions) (kept string, err error) {
	waiting, cancel := context.WithTimeout(ctx, openWait)
	defer cancel()
	lock, err := lockFile(waiting, path)
	if err != nil {
		return "", err
	}
	defer lock.release()
	in, err := store.ReadCopy(o.From)
	if err != nil {
		return "", err
	}
	version, err := newest()
	if err == nil {
		err = core.TooNew(in.Info, version)
	}
	if err != nil {
		return "", err
	}
	keep, err := settle(ctx, path, o.Force)
	if err != nil {
		return "", err
	}

	made := path + ".restoring"
	if err := os.Remove(made); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(made) // the first error is the one to tell
		}
	}()
	if err := build(ctx, made, in, o); err != nil {
		return "", err
	}
	if keep {
		kept = fmt.Sprintf("%s.before-%s", path, o.Now.UTC().Format("20060102T150405.000Z"))
		// A second name rather than another one: there is a store under the
		// first name at every moment.
		if err := os.Link(path, kept); err != nil {
			return "", fmt.Errorf("keep the store that was there: %w", err)
		}
	}
	if err := os.Rename(made, path); err != nil {
		return "", err
	}
	return kept, syncDir(filepath.Dir(path))
}

// settle says whether there is a store to be kept, and brings what it has
// beside the file into it.
func settle(ctx context.Context, path string, force bool) (keep bool, err error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	db, err := sql.Open(driverName, dsn(path, false, SyncFull))
	if err != nil {
		return false, err
	}
	empty := false
	have, err := recognise(ctx, db)
	if err == nil && have.Version > 0 {
		empty, err = core.Empty(ctx, db)
	}
	if err == nil {
		var busy, pages, moved int
		err = db.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &pages, &moved)
		if err == nil && busy != 0 {
			err = fmt.Errorf("%w: %s is open in another process; stop that process", pool.ErrUnavailable, path)
		}
	}
	// The last connection to close takes the log away.
	if cerr := db.Close(); err == nil {
		err = cerr
	}
	switch {
	case err != nil:
		return false, fmt.Errorf("the store that is there cannot be kept: %w; move %s away (and %[2]s-wal, if there is one) and restore again", err, path)
	case empty:
		return false, nil
	case !force:
		return false, fmt.Errorf("%w: %s has rows; say --force to replace it (it is kept under another name), or restore into another --data-dir",
			pool.ErrConflict, path)
	}
	return true, nil
}

// build makes the file of a new store, durable and checked.
func build(ctx context.Context, path string, in *store.CopyReader, o RestoreOptions) (err error) {
	// Made by us first: SQLite would let others read it.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	db, err := sql.Open(driverName, dsn(path, false, SyncFull))
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	defer func() {
		if cerr := db.Close(); err == nil {
			err = cerr
		}
	}()
	if err := migrate(ctx, db, o.Log); err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	// After a commit it does nothing.
	defer func() { _ = tx.Rollback() }()
	if err := core.Load(ctx, tx, in, ""); err != nil {
		return err
	}
	if err := core.MarkRestored(ctx, tx, in.Info.Made, o.Now); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	var finding string
	if err := db.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&finding); err != nil {
		return err
	}
	if finding != "ok" {
		return &damage{finding}
	}
	return f.Sync()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
