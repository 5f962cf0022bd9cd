package postgres

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
	"github.com/vm-runner/drone-runner-aws/store/internal/core"
)

const (
	// maxConns is how many operations of one replica run at the same time: a
	// server has a hundred connections for everybody by default.
	maxConns = 16
	// maxTries is how often a transaction that lost a race is run. Losing that
	// often in a row means that something else is wrong.
	maxTries = 40
	// firstPause and lastPause are the bounds of the pause between, doubled
	// each time, with jitter.
	firstPause = time.Millisecond
	lastPause  = 100 * time.Millisecond
	// stalledAfter, in milliseconds, is when the server gives up a transaction
	// whose process has stopped in its midst: the rows it locked would keep
	// other replicas from taking its pools over.
	stalledAfter = "5000"
)

// raceLost is logged for each transaction that is run again, with the server's
// code of why.
const raceLost = "transaction lost a race, run again"

// errClosed is every operation's answer after Close.
var errClosed = fmt.Errorf("%w: the store is closed", pool.ErrUnavailable)

// Options say which database and how.
type Options struct {
	// DSN is a URL or keyword data source, as libpq takes it. It may hold a
	// password and never reaches an error or a log.
	DSN string
	// Seal seals keys and secrets; replicas must share it. Nil is possible
	// while nothing is sealed.
	Seal *store.Sealer
	// Log may be nil.
	Log *slog.Logger

	// lockWait is shortened by tests.
	lockWait time.Duration
}

// Store is pool.Store on Postgres. Safe for concurrent use, also by several
// replicas.
type Store struct {
	*core.Store
	notes *notifier
}

var _ pool.Store = (*Store)(nil)

// Open connects, brings the schema up to date under a lock, so that replicas
// may start at once, and compares the seal key. Its errors name the database
// without its password, and wrap pool.ErrUnavailable or are a *store.KeyError.
func Open(ctx context.Context, o Options) (*Store, error) {
	b, err := open(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	return &Store{Store: core.New(b, o.Seal), notes: b.notes}, nil
}

func open(ctx context.Context, o Options) (_ *backend, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	db, cfg, name, err := connect(o.DSN)
	if err != nil {
		return nil, err
	}
	b := &backend{db: db, name: name, log: o.Log, text: statements()}
	defer func() {
		if err != nil {
			_ = db.Close() // the first error is the one to tell
		}
	}()
	if err := b.migrate(ctx, cfg, cmp.Or(o.lockWait, lockWait)); err != nil {
		return nil, b.explain(err)
	}
	if err := b.checkSeal(ctx, o.Seal); err != nil {
		return nil, b.explain(err)
	}
	var schema string
	if err := db.QueryRowContext(ctx, `SELECT current_schema()`).Scan(&schema); err != nil {
		return nil, b.explain(err)
	}
	b.channel = channelOf(schema)
	b.notes = newNotifier(ctx, b, cfg)
	return b, nil
}

// connect makes the pool of connections, without connecting yet.
func connect(dsn string) (*sql.DB, *pgx.ConnConfig, string, error) {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		// pgx redacts passwords, but not in every malformed text; ours says
		// nothing of the text at all.
		return nil, nil, "", fmt.Errorf("%w: the Postgres data source cannot be read; see DRONE_DATABASE_DATASOURCE", pool.ErrUnavailable)
	}
	db := stdlib.OpenDB(*cfg, stdlib.OptionAfterConnect(func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "SET idle_in_transaction_session_timeout = "+stalledAfter)
		return err
	}))
	db.SetMaxOpenConns(maxConns)
	db.SetMaxIdleConns(maxConns)
	return db, cfg, fmt.Sprintf("postgres://%s:%d/%s", cfg.Host, cfg.Port, cfg.Database), nil
}

// KeyID returns the id of the key the database's rows are sealed with, "" if
// there is none yet: what store.LoadKey wants to know. Unlike that of a file it
// holds from the first runner's start on, whether or not anything is sealed:
// another replica may be about to.
func KeyID(ctx context.Context, dsn string) (string, error) {
	db, _, name, err := connect(dsn)
	if err != nil {
		return "", fmt.Errorf("read seal key id: %w", err)
	}
	defer db.Close()
	b := &backend{db: db, name: name, text: statements()}
	var tables int
	err = db.QueryRowContext(ctx, `SELECT count(*) FROM information_schema.tables
		WHERE table_schema = current_schema() AND table_name IN ('meta', 'lease_env', 'identities')`).Scan(&tables)
	if err == nil && tables == 3 {
		var key string
		if key, _, err = b.sealState(ctx); err == nil {
			return key, nil
		}
	}
	if err != nil {
		return "", fmt.Errorf("read seal key id: %w", b.explain(err))
	}
	return "", nil
}

// statements are the portable ones, with the locks that several writers need.
func statements() core.Statements {
	s := core.Portable()
	for _, k := range []core.Stmt{core.LockInstance, core.LockInstanceOf, core.LockInstanceCalled, core.LockLease, core.LockLatestLease, core.LockWaitingLease} {
		s[k] += " FOR UPDATE"
	}
	// Several leases at once: what somebody else works on is left for the next
	// time, so that nobody waits in a circle.
	s[core.LockOrphans] += " FOR UPDATE SKIP LOCKED"
	// Of the row locks of a pool only a change of holder conflicts with a fenced
	// write, and with the reference that each new machine's row makes.
	s[core.KeepPoolHolder] += " FOR KEY SHARE"
	s[core.LockPool] += " FOR NO KEY UPDATE"
	s[core.LockPoolOf] += " FOR NO KEY UPDATE"
	s[core.LockPoolHolder] += " FOR UPDATE"
	s[core.LockID] = `SELECT 1 FROM pg_advisory_xact_lock(hashtextextended($1, 0))`
	s[core.SetSealKey] += " AND seal_key = ''"
	// Under the pool's lock: a machine that another transaction is taking is
	// waited for, since that one may yet fail and leave it warm.
	s[core.ClaimFree] = core.Claim(" FOR UPDATE")
	return s
}

// backend runs transactions on one database.
type backend struct {
	db   *sql.DB
	name string
	log  *slog.Logger
	text core.Statements
	// channel is what announcements go through.
	channel string
	notes   *notifier

	// mu is held shared while an operation runs, and alone by Close.
	mu     sync.RWMutex
	closed bool
}

func (b *backend) sealState(ctx context.Context) (key string, sealed int, err error) {
	var controller string
	var born int64
	if err := b.db.QueryRowContext(ctx, b.text[core.SelectMeta]).Scan(&controller, &born, &key); err != nil {
		return "", 0, err
	}
	err = b.db.QueryRowContext(ctx, b.text[core.AnySealed]).Scan(&sealed)
	return key, sealed, err
}

// checkSeal compares the key with the store's, and writes its id into a store
// that has none.
func (b *backend) checkSeal(ctx context.Context, seal *store.Sealer) error {
	want, sealed, err := b.sealState(ctx)
	switch {
	case err != nil:
		return err
	case seal != nil && seal.ID() == want:
		return nil
	case sealed == 0 && seal == nil:
		return nil
	case want == "" && seal != nil:
		// The first of replicas that start at once writes its own.
		if _, err := b.db.ExecContext(ctx, b.text[core.SetSealKey], seal.ID()); err != nil {
			return err
		}
		if want, _, err = b.sealState(ctx); err != nil || want == seal.ID() {
			return err
		}
		return &store.KeyError{Want: want, Have: seal.ID(), From: "use"}
	case seal == nil:
		return &store.KeyError{Want: want, From: "the options given"}
	default:
		return &store.KeyError{Want: want, Have: seal.ID(), From: "use"}
	}
}

// Write runs op in a transaction, again while it loses races.
func (b *backend) Write(ctx context.Context, run func(context.Context, core.Tx) error) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return errClosed
	}
	pause := firstPause
	for try := 1; ; try++ {
		err := b.once(ctx, run)
		if err == nil || try == maxTries || !raced(err) && !errors.Is(err, core.ErrRaced) {
			return b.outcome(ctx, err)
		}
		b.log.DebugContext(ctx, raceLost, "code", codeOf(err), "try", try)
		t := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		case <-t.C:
		}
		pause = min(2*pause, lastPause)
	}
}

// begin begins a transaction, on another connection while those kept open turn
// out to be closed at the other end: nothing has been done then. For single
// statements database/sql does so itself.
func (b *backend) begin(ctx context.Context, o *sql.TxOptions) (*sql.Tx, error) {
	for try := 1; ; try++ {
		t, err := b.db.BeginTx(ctx, o)
		if err == nil || try == maxTries || ctx.Err() != nil || !pgconn.SafeToRetry(err) && codeOf(err) != codeTerminated {
			return t, err
		}
	}
}

// once runs op in one transaction.
func (b *backend) once(ctx context.Context, run func(context.Context, core.Tx) error) error {
	t, err := b.begin(ctx, nil)
	if err != nil {
		return err
	}
	// After a commit it does nothing; after a panic in op it frees the rows.
	defer func() { _ = t.Rollback() }()
	err = run(ctx, tx{b, t})
	commit, out := core.Settle(err)
	if !commit {
		return err
	}
	if err := t.Commit(); err != nil {
		return err
	}
	return out
}

// Trip implements core.Tripper: the server takes statements that are sent
// together for one transaction.
func (b *backend) Trip(ctx context.Context, dest []any, calls ...core.Call) (found bool, err error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return false, errClosed
	}
	batch := &pgx.Batch{}
	var last *pgx.QueuedQuery
	for _, c := range calls {
		text := c.Text
		if text == "" {
			text = b.text[c.Stmt]
		}
		last = batch.Queue(text, c.Args...)
	}
	last.Query(func(rows pgx.Rows) error {
		if found = rows.Next(); found {
			return rows.Scan(dest...)
		}
		return rows.Err()
	})
	conn, err := b.db.Conn(ctx)
	if err != nil {
		return false, b.outcome(ctx, err)
	}
	defer conn.Close()
	err = conn.Raw(func(c any) error { return c.(*stdlib.Conn).Conn().SendBatch(ctx, batch).Close() })
	if raced(err) || pgconn.SafeToRetry(err) {
		return false, core.ErrRaced
	}
	return found && err == nil, b.outcome(ctx, err)
}

// Read runs op on one state of the database.
func (b *backend) Read(ctx context.Context, run func(context.Context, core.Tx) error) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return errClosed
	}
	t, err := b.begin(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return b.outcome(ctx, err)
	}
	defer func() { _ = t.Rollback() }()
	return b.outcome(ctx, run(ctx, tx{b, t}))
}

// Look is Read without a transaction.
func (b *backend) Look(ctx context.Context, run func(context.Context, core.Tx) error) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return errClosed
	}
	return b.outcome(ctx, run(ctx, tx{b, b.db}))
}

// Close waits for running operations and closes the connections. Closing twice
// is no error.
func (b *backend) Close() error {
	// First of all: a listener may be in the middle of an operation.
	b.notes.close()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	if err := b.db.Close(); err != nil {
		return fmt.Errorf("close store: %w", b.explain(err))
	}
	return nil
}

// outcome tells a caller that gave up from a database that failed.
func (b *backend) outcome(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil && !core.Ours(err) {
		return context.Cause(ctx)
	}
	return b.explain(err)
}

// The codes of https://www.postgresql.org/docs/current/errcodes-appendix.html
// that mean something here.
const (
	codeSerialization = "40001"
	codeDeadlock      = "40P01"
	codeStalled       = "25P03"
	codeLockTimeout   = "55P03"
	codeTerminated    = "57P01" // the server ends the connection, at an order or its own end
	codeUnique        = "23505"
	codeBadPassword   = "28P01"
	codeNoDatabase    = "3D000"
)

func codeOf(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// raced says whether a transaction failed because another was quicker. Two
// first setups of one id meet at the unique key of leases: run again, the
// second finds the first's and joins it.
func raced(err error) bool {
	switch codeOf(err) {
	case codeSerialization, codeDeadlock, codeStalled:
		return true
	case codeUnique:
		e, ok := errors.AsType[*pgconn.PgError](err)
		return ok && e.TableName != "instances"
	default:
		return false
	}
}

// explain turns a failure of the database into one that names it.
func (b *backend) explain(err error) error {
	if err == nil || core.Ours(err) || errors.Is(err, pool.ErrUnavailable) {
		return err
	}
	if _, ok := errors.AsType[*store.KeyError](err); ok {
		return fmt.Errorf("%s: %w", b.name, err)
	}
	switch codeOf(err) {
	case codeUnique:
		return fmt.Errorf("%w: %w", pool.ErrConflict, err)
	case codeBadPassword, codeNoDatabase:
		return fmt.Errorf("%w: %s: %w; see DRONE_DATABASE_DATASOURCE", pool.ErrUnavailable, b.name, err)
	}
	return fmt.Errorf("%w: %s: %w", pool.ErrUnavailable, b.name, err)
}

// tx is one transaction, or for Look the connections themselves.
type tx struct {
	b *backend
	t interface {
		ExecContext(ctx context.Context, text string, args ...any) (sql.Result, error)
		QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error)
		QueryRowContext(ctx context.Context, text string, args ...any) *sql.Row
	}
}

// Exec implements core.Tx.
func (t tx) Exec(ctx context.Context, s core.Stmt, args ...any) (int64, error) {
	res, err := t.t.ExecContext(ctx, t.b.text[s], args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// Query implements core.Tx.
func (t tx) Query(ctx context.Context, s core.Stmt, args ...any) (*sql.Rows, error) {
	return t.t.QueryContext(ctx, t.b.text[s], args...)
}

// QueryText implements core.Tx.
func (t tx) QueryText(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	return t.t.QueryContext(ctx, text, args...)
}

// Clock implements core.Tx: the server's clock, now rather than at the
// transaction's begin.
func (t tx) Clock(ctx context.Context) (int64, error) {
	var now int64
	err := t.t.QueryRowContext(ctx, `SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint`).Scan(&now)
	return now, err
}

// Shared implements core.Tx.
func (tx) Shared() bool { return true }
