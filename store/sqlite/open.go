package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
	"github.com/vm-runner/drone-runner-aws/store/internal/core"
)

// Sync is how hard a commit is pressed onto the disk.
type Sync string

const (
	// SyncFull is durable: an answered operation survives a power cut. It is
	// what the empty Sync means.
	SyncFull Sync = "FULL"
	// SyncOff survives a crash of the process, not of the machine. It is for
	// simulations.
	SyncOff Sync = "OFF"
)

const (
	// openWait is how long Open waits for another process to let go of the
	// file: enough for a restart to overlap, well under the two seconds within
	// which a wrong set-up has to say so.
	openWait = 1300 * time.Millisecond
	// lockPause is how often it looks.
	lockPause = 20 * time.Millisecond
	// lockPatience is how long the writer tries to have a file's lock before it
	// says that another program has it, and lockRetry how often. Connections of this
	// program have it for microseconds, more where they are not given a processor.
	lockPatience = time.Second
	lockRetry    = time.Millisecond
	// checkWait bounds the look through the file for damage; a file too large
	// for it is opened all the same.
	checkWait = 500 * time.Millisecond
	// writerCacheKiB is what the writer keeps of the file in memory, at most: a
	// thousand machines and what is written beside them.
	writerCacheKiB = 8 << 10
	// readers is how many connections read at the same time.
	readers = 4
	// readerBusyMS is how long a reader waits where WAL makes it wait at all:
	// while another process recovers the log.
	readerBusyMS = "2000"
)

// Options say which file and how.
type Options struct {
	// Path is the database file. It is made if it does not exist; its
	// directory is not.
	Path string
	// Seal seals keys and secrets. Nil is possible while nothing is sealed.
	Seal *store.Sealer
	// Log may be nil.
	Log *slog.Logger
	// Sync is SyncFull if empty.
	Sync Sync
	// Now is the clock of Hold; nil: time.Now.
	Now func() time.Time
}

// Store is pool.Store on a SQLite file. Safe for concurrent use.
type Store struct {
	*core.Store
}

var _ pool.Store = (*Store)(nil)

// Open opens the file, brings its schema up to date, and proves that it can be
// read and written. Whatever is wrong is an error in under two seconds that
// names the file and what to do, wraps pool.ErrUnavailable (or is a
// *store.KeyError), and leaves the file as it was. While another process has
// the file, Open waits up to 1.3 s, or until ctx ends.
func Open(ctx context.Context, o Options) (*Store, error) {
	b, err := open(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	return &Store{core.New(b, o.Seal)}, nil
}

func open(ctx context.Context, o Options) (_ *backend, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Sync == "" {
		o.Sync = SyncFull
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	path, err := checkPath(o.Path)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, openWait)
	defer cancel()

	lock, err := lockFile(ctx, path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			lock.release()
		}
	}()

	db, err := sql.Open(driverName, dsn(path, false, o.Sync))
	if err != nil {
		return nil, explain(path, err)
	}
	// The one connection of the writer.
	db.SetMaxOpenConns(1)
	defer func() {
		if err != nil {
			_ = db.Close() // the first error is the one to tell
		}
	}()
	if err := prepare(ctx, db, path, o); err != nil {
		return nil, err
	}

	ro, err := sql.Open(driverName, dsn(path, true, o.Sync))
	if err != nil {
		return nil, explain(path, err)
	}
	ro.SetMaxOpenConns(readers)
	ro.SetMaxIdleConns(readers)
	copier, err := newCopier(path, o.Sync, o.Log)
	if err != nil {
		_ = ro.Close() // the first error is the one to tell
		return nil, explain(path, err)
	}
	b := &backend{copier: copier, path: path, log: o.Log, now: o.Now, lock: lock, db: db, ro: ro, text: core.Portable(), readers: make(chan *reader, readers)}
	for range readers {
		b.readers <- &reader{}
	}
	for k, text := range b.text {
		b.reads[k] = strings.HasPrefix(text, "SELECT ")
	}
	if err := b.start(context.WithoutCancel(ctx)); err != nil {
		_ = ro.Close() // the first error is the one to tell
		_ = copier.db.Close()
		return nil, explain(path, err)
	}
	o.Log.Debug("database open", "file", path, "library", library, "sync", string(o.Sync))
	return b, nil
}

// prepare checks the file and makes it ready for the writer.
func prepare(ctx context.Context, db *sql.DB, path string, o Options) error {
	// Everything here may find the file locked by another program. What may
	// refuse the file comes before what changes it.
	steps := []func(context.Context) error{
		func(ctx context.Context) error { return checkPages(ctx, db, o.Log) },
		func(ctx context.Context) error {
			have, err := recognise(ctx, db)
			if err != nil || have.Version == 0 {
				return err
			}
			_, err = checkSeal(ctx, db, o.Seal)
			return err
		},
		func(ctx context.Context) error { return useWAL(ctx, db) },
		func(ctx context.Context) error { return migrate(ctx, db, o.Log) },
		func(ctx context.Context) error { return writable(ctx, db) },
		func(ctx context.Context) error { return recordSeal(ctx, db, o.Seal) },
	}
	for _, step := range steps {
		if err := patiently(ctx, step); err != nil {
			return explain(path, err)
		}
	}
	return nil
}

// patiently repeats a step while the file is locked and ctx lasts.
func patiently(ctx context.Context, step func(context.Context) error) error {
	for {
		// The step itself is not cut short: half of one tells nothing.
		err := step(context.WithoutCancel(ctx))
		if code := codeOf(err); code != codeBusy && code != codeLocked {
			return err
		}
		t := time.NewTimer(lockPause)
		select {
		case <-ctx.Done():
			t.Stop()
			return err
		case <-t.C:
		}
	}
}

// checkPath returns the absolute path, or what is wrong with it before SQLite
// is asked, whose own message is the same for everything.
func checkPath(path string) (string, error) {
	if path == "" {
		return "", fmt.Errorf("%w: no path is given for the database file", pool.ErrUnavailable)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("%w: %s: %w", pool.ErrUnavailable, path, err)
	}
	dir := filepath.Dir(path)
	switch info, err := os.Stat(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("%w: %s: the directory %s does not exist; make it, or set DRONE_DATABASE_DATASOURCE", pool.ErrUnavailable, path, dir)
	case err != nil:
		return "", fmt.Errorf("%w: %s: %w; let this user (uid %d) read the directory", pool.ErrUnavailable, path, err, os.Getuid())
	case !info.IsDir():
		return "", fmt.Errorf("%w: %s: %s is not a directory; set DRONE_DATABASE_DATASOURCE to a file in one", pool.ErrUnavailable, path, dir)
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return "", fmt.Errorf("%w: %s is a directory; set DRONE_DATABASE_DATASOURCE to a file in it, such as %s",
			pool.ErrUnavailable, path, filepath.Join(path, "database.sqlite3"))
	}
	return path, nil
}

// fileURI names a file to SQLite whatever characters are in its path.
func fileURI(path string) string {
	return "file:" + (&url.URL{Path: path}).EscapedPath()
}

// checkPages looks for damaged pages. A pass over a file of ordinary size takes
// milliseconds.
func checkPages(ctx context.Context, db *sql.DB, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, checkWait)
	defer cancel()
	var finding string
	err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&finding)
	switch {
	case ctx.Err() != nil:
		log.Debug("database too large to be checked at start", "limit", checkWait)
		return nil
	case err != nil:
		return err
	case finding != "ok":
		return &damage{finding}
	}
	return nil
}

// damage is what quick_check found.
type damage struct{ finding string }

// Error is SQLite's description.
func (d *damage) Error() string { return d.finding }

func useWAL(ctx context.Context, db *sql.DB) error {
	var mode string
	if err := db.QueryRowContext(ctx, "PRAGMA journal_mode = WAL").Scan(&mode); err != nil {
		return err
	}
	if mode != "wal" {
		return fmt.Errorf("this file system does not allow write-ahead logging (journal mode is %s); use a local disk", mode)
	}
	return nil
}

// writable writes something small for real: a file or disk that is read-only
// says so only then.
func writable(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, core.Portable()[core.Probe])
	return err
}

// checkSeal compares the key with the store's. recorded says that the store
// has this key's id already, or needs none.
func checkSeal(ctx context.Context, db *sql.DB, seal *store.Sealer) (recorded bool, err error) {
	text := core.Portable()
	var controller, want string
	var born int64
	if err := db.QueryRowContext(ctx, text[core.SelectMeta]).Scan(&controller, &born, &want); err != nil {
		return false, err
	}
	if seal != nil && seal.ID() == want {
		return true, nil
	}
	var sealed int
	if err := db.QueryRowContext(ctx, text[core.AnySealed]).Scan(&sealed); err != nil {
		return false, err
	}
	switch {
	case sealed == 0:
		return seal == nil, nil
	case seal == nil:
		return false, &store.KeyError{Want: want, From: "the options given"}
	default:
		return false, &store.KeyError{Want: want, Have: seal.ID(), From: "use"}
	}
}

// recordSeal writes the key's id into a store in which nothing is sealed yet.
func recordSeal(ctx context.Context, db *sql.DB, seal *store.Sealer) error {
	recorded, err := checkSeal(ctx, db, seal)
	if err != nil || recorded {
		return err
	}
	_, err = db.ExecContext(ctx, core.Portable()[core.SetSealKey], seal.ID())
	return err
}

// KeyID returns the id of the key the file's rows are sealed with, "" if there
// is no file or nothing in it is sealed: what store.LoadKey wants to know. It
// changes nothing and does not need the lock.
func KeyID(ctx context.Context, path string) (string, error) {
	path, err := checkPath(path)
	if err != nil {
		return "", fmt.Errorf("read seal key id: %w", err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return "", nil
		}
		return "", fmt.Errorf("read seal key id: %w", explain(path, err))
	}
	ctx, cancel := context.WithTimeout(ctx, openWait)
	defer cancel()
	// A writer's settings: it does not wait inside SQLite, where a wait is not
	// cut off by ctx; patiently asks again.
	db, err := sql.Open(driverName, dsn(path, false, SyncFull))
	if err != nil {
		return "", fmt.Errorf("read seal key id: %w", explain(path, err))
	}
	defer db.Close()
	var id string
	err = patiently(ctx, func(ctx context.Context) error {
		id = ""
		var tables, sealed, born int
		if err := db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master WHERE name IN ('meta', 'lease_env')").Scan(&tables); err != nil || tables < 2 {
			return err
		}
		text := core.Portable()
		if err := db.QueryRowContext(ctx, text[core.AnySealed]).Scan(&sealed); err != nil || sealed == 0 {
			return err
		}
		var controller string
		return db.QueryRowContext(ctx, text[core.SelectMeta]).Scan(&controller, &born, &id)
	})
	if err != nil {
		return "", fmt.Errorf("read seal key id: %w", explain(path, err))
	}
	return id, nil
}
