package sqlite

import (
	"context"
	"database/sql"

	"github.com/vm-runner/drone-runner-aws/store/internal/core"
)

// Newest is the version of the program's schema.
func Newest() (int64, error) { return newest() }

// BackstopPages is how long the log may grow before a commit copies it.
const BackstopPages = backstopPages

// Raw opens a file for reading, beside an open store.
func Raw(path string) (*sql.DB, error) { return sql.Open(driverName, dsn(path, true, SyncFull)) }

// RawWriter opens a file for writing, beside whatever else has it open.
func RawWriter(path string) (*sql.DB, error) { return sql.Open(driverName, dsn(path, false, SyncFull)) }

// Inner is a store with its inside: single transactions, and what they cost.
type Inner struct {
	*Store
	b *backend
	// Statements counts those that were run since it was last set to 0, except
	// the ones around an operation.
	Statements int
}

// OpenInner opens a store whose statements are counted. fail is asked before
// each commit.
func OpenInner(ctx context.Context, o Options, fail func() error) (*Inner, error) {
	b, err := open(ctx, o)
	if err != nil {
		return nil, err
	}
	// From the writer itself, which alone reads it.
	if err := b.Write(ctx, func(context.Context, core.Tx) error { b.beforeCommit = fail; return nil }); err != nil {
		return nil, err
	}
	in := &Inner{b: b}
	in.Store = &Store{core.New(counted{b, in}, o.Seal)}
	return in, nil
}

// Write runs one transaction.
func (in *Inner) Write(ctx context.Context, op func(context.Context, core.Tx) error) error {
	return in.b.Write(ctx, op)
}

// Waiting is how many operations wait for the writer.
func (in *Inner) Waiting() int { return len(in.b.ops) }

type counted struct {
	*backend
	in *Inner
}

func (c counted) Write(ctx context.Context, op func(context.Context, core.Tx) error) error {
	return c.backend.Write(ctx, func(ctx context.Context, tx core.Tx) error { return op(ctx, countedTx{tx, c.in}) })
}

type countedTx struct {
	core.Tx
	in *Inner
}

func (t countedTx) Exec(ctx context.Context, s core.Stmt, args ...any) (int64, error) {
	t.in.Statements++
	return t.Tx.Exec(ctx, s, args...)
}

func (t countedTx) Query(ctx context.Context, s core.Stmt, args ...any) (*sql.Rows, error) {
	t.in.Statements++
	return t.Tx.Query(ctx, s, args...)
}
