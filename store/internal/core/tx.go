package core

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
)

// Tx is one transaction of a dialect. It is used by one goroutine.
type Tx interface {
	// Exec runs a statement and returns how many rows it changed.
	Exec(ctx context.Context, s Stmt, args ...any) (int64, error)
	// Query runs a statement that returns rows. The rows must be closed before
	// the next statement.
	Query(ctx context.Context, s Stmt, args ...any) (*sql.Rows, error)
	// QueryText is Query for a listing whose text depends on what is asked.
	QueryText(ctx context.Context, text string, args ...any) (*sql.Rows, error)
	// Clock is the time that holds between replicas, in milliseconds: the
	// database's where there can be several, else the process's.
	Clock(ctx context.Context) (int64, error)
	// Shared says that other writers run at the same time, so that what must
	// not change meanwhile has to be locked.
	Shared() bool
}

// Backend is what a dialect gives to the operations.
type Backend interface {
	// Write runs op in a transaction that is durable when Write returns nil.
	// It may run op several times; only the last run counts. If op fails
	// nothing is changed, unless the error is a [Kept]: then the transaction
	// commits and the error in it is returned.
	Write(ctx context.Context, op func(context.Context, Tx) error) error
	// Read runs op on one consistent state of the database.
	Read(ctx context.Context, op func(context.Context, Tx) error) error
	// Look is Read for an op of one statement, or one whose statements may each
	// see a state of their own: it saves the transaction.
	Look(ctx context.Context, op func(context.Context, Tx) error) error
	// Close waits for running operations and closes the database.
	Close() error
}

// Tripper is implemented by backends that are a network away from their
// database.
type Tripper interface {
	// Trip runs statements as one transaction that costs one trip to the
	// database and back, and is durable when Trip returns nil. Each of them sees
	// what was committed before it begins. The first row of the last goes into
	// dest; found is false if there is none. A transaction that lost a race, or
	// did not reach the database, is ErrRaced and has changed nothing.
	Trip(ctx context.Context, dest []any, calls ...Call) (found bool, err error)
}

// Call is a statement, by its name or if it has none by its text, and its
// parameters.
type Call struct {
	Stmt Stmt
	Text string
	Args []any
}

// Kept is a failure whose transaction is committed all the same: the refusal
// itself is part of the story.
type Kept struct{ Err error }

// Error is the failure's own text.
func (k *Kept) Error() string { return k.Err.Error() }

// Unwrap gives the failure.
func (k *Kept) Unwrap() error { return k.Err }

// Settle splits the result of an operation into whether to commit and what to
// return.
func Settle(err error) (commit bool, out error) {
	if err == nil {
		return true, nil
	}
	if k, ok := errors.AsType[*Kept](err); ok {
		return true, k.Err
	}
	return false, err
}

// Ours says whether an error is an answer of the store's contract rather than
// a failure of the database.
func Ours(err error) bool {
	for _, target := range []error{
		pool.ErrNotFound, pool.ErrConflict, pool.ErrLimit, pool.ErrClosed, pool.ErrRetired, pool.ErrHeld,
		pool.ErrDestroyedFirst, pool.ErrDisk, pool.ErrInvalid, pool.ErrNotYet, store.ErrSeal,
	} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// Store implements pool.Store over a dialect. Safe for concurrent use.
type Store struct {
	b    Backend
	seal *store.Sealer
	// hold, if set, must still be the pool's for a write to commit.
	hold pool.Hold
}

// New returns the operations over b. seal may be nil for a store in which
// nothing is sealed; what needs it then fails with ErrInvalid.
func New(b Backend, seal *store.Sealer) *Store { return &Store{b: b, seal: seal} }

// Close waits for running operations and closes the database.
func (s *Store) Close() error { return s.b.Close() }

// txn is one operation at work: a transaction and what it needs beside it.
type txn struct {
	Tx
	seal *store.Sealer
}

func (s *Store) write(ctx context.Context, op func(context.Context, txn) error) error {
	return s.b.Write(ctx, func(ctx context.Context, tx Tx) error {
		t := txn{tx, s.seal}
		if s.hold != (pool.Hold{}) {
			if err := t.checkHold(ctx, s.hold); err != nil {
				return err
			}
		}
		return op(ctx, t)
	})
}

func (s *Store) read(ctx context.Context, op func(context.Context, txn) error) error {
	return s.b.Read(ctx, func(ctx context.Context, tx Tx) error { return op(ctx, txn{tx, s.seal}) })
}

func (s *Store) look(ctx context.Context, op func(context.Context, txn) error) error {
	return s.b.Look(ctx, func(ctx context.Context, tx Tx) error { return op(ctx, txn{tx, s.seal}) })
}

// one reads the first row of a query into what dest returns. found is false if
// there is no row.
func (t txn) one(ctx context.Context, s Stmt, dest []any, args ...any) (found bool, err error) {
	rows, err := t.Query(ctx, s, args...)
	return first(rows, err, dest)
}

// first reads the first of some rows.
func first(rows *sql.Rows, err error, dest []any) (found bool, _ error) {
	if err != nil {
		return false, err
	}
	if rows.Next() {
		found = true
		if err := rows.Scan(dest...); err != nil {
			_ = rows.Close() // the scan's error is the cause
			return false, err
		}
	}
	if err := rows.Close(); err != nil {
		return false, err
	}
	return found, rows.Err()
}

// each calls scan for every row.
func each(rows *sql.Rows, err error, scan func(*sql.Rows) error) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// must turns an update of no row into ErrNotFound.
func must(n int64, err error) error {
	if err == nil && n == 0 {
		return pool.ErrNotFound
	}
	return err
}

// ms is a time as it is stored: milliseconds, 0 for the zero time.
func ms(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// cut is t as it would be read back.
func cut(t time.Time) time.Time { return at(ms(t)) }

// at is the reverse of ms.
func at(v int64) time.Time {
	if v == 0 {
		return time.Time{}
	}
	return time.UnixMilli(v).UTC()
}

// stamp scans a stored time.
type stamp time.Time

// Scan implements sql.Scanner.
func (s *stamp) Scan(src any) error {
	v, ok := src.(int64)
	if !ok {
		return fmt.Errorf("time is a %T, want an integer", src)
	}
	*s = stamp(at(v))
	return nil
}

// number scans an integer column into an int.
type number int

// Scan implements sql.Scanner.
func (n *number) Scan(src any) error {
	v, ok := src.(int64)
	if !ok {
		return fmt.Errorf("number is a %T, want an integer", src)
	}
	*n = number(v)
	return nil
}

// truth scans 0 and 1.
type truth bool

// Scan implements sql.Scanner.
func (b *truth) Scan(src any) error {
	v, ok := src.(int64)
	if !ok {
		return fmt.Errorf("truth value is a %T, want an integer", src)
	}
	*b = v != 0
	return nil
}

func bit(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
