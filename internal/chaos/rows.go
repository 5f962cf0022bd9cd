package chaos

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // reads the tables of a Postgres
	_ "modernc.org/sqlite"             // reads the tables of a SQLite file
)

// The states an audit knows, as the tables spell them.
const (
	stateWarm   = "warm"
	stateLeased = "leased"
	stateFailed = "failed"
	stateGone   = "gone"

	leaseActive = "active"
	leaseEnded  = "ended"
	leaseLost   = "lost"
)

// Row is a machine as the store has it, as far as an audit looks.
type Row struct {
	ID, Name, Pool, State, Lease, Reason string
	Generation                           int64
	Since, Due                           time.Time
}

func (r Row) String() string { return "row " + r.Name }

// LeaseRow is a lease as the store has it.
type LeaseRow struct {
	ID, State, Instance, Reason string
	Generation                  int64
	Arrived, Due                time.Time
}

func (l LeaseRow) final() bool { return l.State == leaseEnded || l.State == leaseLost }

// PoolRow is a pool as the store has it.
type PoolRow struct {
	Name              string
	Min, Max, Counted int
}

// Rows is the store at one moment.
type Rows struct {
	// At is a moment before they were read.
	At time.Time
	// Since is how far back final rows are in it; zero: all.
	Since     time.Time
	Instances []Row
	Leases    []LeaseRow
	Pools     []PoolRow
}

// Tables reads a store's tables without the runner's code. It is safe for
// concurrent use.
type Tables struct {
	db *sql.DB
	tx sql.TxOptions
}

// SQLiteTables reads the tables of a database file, whether or not a runner
// has it open.
func SQLiteTables(path string) (*Tables, error) {
	q := url.Values{"mode": {"ro"}, "_pragma": {"busy_timeout(5000)", "query_only(1)"}}
	db, err := sql.Open("sqlite", "file:"+path+"?"+q.Encode())
	if err != nil {
		return nil, fmt.Errorf("tables of %s: %w", path, err)
	}
	// No connection is kept: it would hold on to a file that a mode replaces.
	db.SetMaxIdleConns(-1)
	return &Tables{db: db}, nil
}

// PostgresTables reads the tables of a database; dsn names the schema too.
func PostgresTables(dsn string) (*Tables, error) {
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		return nil, fmt.Errorf("tables of Postgres: %w", err)
	}
	db.SetMaxOpenConns(2)
	return &Tables{db: db, tx: sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}}, nil
}

// Close drops the connections.
func (t *Tables) Close() error { return t.db.Close() }

// Read reads all live rows and the final ones since a time, in one snapshot.
func (t *Tables) Read(ctx context.Context, since time.Time) (_ Rows, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("read the store: %w", err)
		}
	}()
	rows := Rows{At: time.Now(), Since: since}
	tx, err := t.db.BeginTx(ctx, &t.tx)
	if err != nil {
		return rows, err
	}
	defer func() { err = errors.Join(err, ignoreDone(tx.Rollback())) }()
	cut := int64(0)
	if !since.IsZero() {
		cut = since.UnixMilli()
	}
	err = each(ctx, tx, `SELECT id, name, pool, state, lease_id, reason, lease_generation, since, due FROM instances WHERE state <> 'gone' OR since >= $1`, cut,
		func(scan func(...any) error) error {
			var r Row
			var from, due int64
			err := scan(&r.ID, &r.Name, &r.Pool, &r.State, &r.Lease, &r.Reason, &r.Generation, &from, &due)
			r.Since, r.Due = instant(from), instant(due)
			rows.Instances = append(rows.Instances, r)
			return err
		})
	if err != nil {
		return rows, err
	}
	err = each(ctx, tx, `SELECT id, state, instance_id, reason, generation, arrived, due FROM leases WHERE state NOT IN ('ended', 'lost') OR ended >= $1`, cut,
		func(scan func(...any) error) error {
			var l LeaseRow
			var arrived, due int64
			err := scan(&l.ID, &l.State, &l.Instance, &l.Reason, &l.Generation, &arrived, &due)
			l.Arrived, l.Due = instant(arrived), instant(due)
			rows.Leases = append(rows.Leases, l)
			return err
		})
	if err != nil {
		return rows, err
	}
	err = each(ctx, tx, `SELECT name, min, max, counted FROM pools WHERE retired = $1`, 0,
		func(scan func(...any) error) error {
			var p PoolRow
			err := scan(&p.Name, &p.Min, &p.Max, &p.Counted)
			rows.Pools = append(rows.Pools, p)
			return err
		})
	return rows, err
}

func each(ctx context.Context, tx *sql.Tx, query string, arg any, row func(scan func(...any) error) error) (err error) {
	rows, err := tx.QueryContext(ctx, query, arg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

func instant(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}

// newSchema makes an empty schema and returns the data source that uses it and
// what removes it.
func newSchema(ctx context.Context, dsn, name string) (string, func() error, error) {
	u, err := url.Parse(dsn)
	if err != nil {
		return "", nil, errors.New("the data source of Postgres is no URL")
	}
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		return "", nil, fmt.Errorf("schema %s: %w", name, err)
	}
	drop := func() error {
		_, err := db.ExecContext(context.WithoutCancel(ctx), "DROP SCHEMA "+name+" CASCADE")
		return errors.Join(err, db.Close())
	}
	if _, err := db.ExecContext(ctx, "CREATE SCHEMA "+name); err != nil {
		return "", nil, errors.Join(fmt.Errorf("schema %s: %w", name, err), db.Close())
	}
	q := u.Query()
	q.Set("search_path", name)
	u.RawQuery = q.Encode()
	return u.String(), drop, nil
}

// copyDatabase makes a whole copy of a SQLite database in use.
func copyDatabase(ctx context.Context, from, to string) (err error) {
	db, err := sql.Open("sqlite", "file:"+from+"?mode=rw&_pragma=busy_timeout(5000)")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := db.ExecContext(ctx, "VACUUM INTO $1", to); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return nil
}
