package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/vm-runner/drone-runner-aws/store/internal/core"
)

// Read runs op on a connection of its own, on one state of the database.
func (b *backend) Read(ctx context.Context, run func(context.Context, core.Tx) error) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return errClosed
	}
	tx, err := b.ro.BeginTx(ctx, nil)
	if err != nil {
		return b.readError(ctx, err)
	}
	err = run(ctx, readTx{b, tx})
	// Nothing was written; rolling back is the cheaper end of a read.
	if rerr := tx.Rollback(); err == nil && !errors.Is(rerr, sql.ErrTxDone) {
		err = rerr
	}
	return b.readError(ctx, err)
}

// readError tells a caller that gave up from a database that failed.
func (b *backend) readError(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil && !core.Ours(err) {
		return context.Cause(ctx)
	}
	return explain(b.path, err)
}

// readTx is a transaction of a reader's.
type readTx struct {
	b  *backend
	tx *sql.Tx
}

// Exec implements core.Tx; a reader has none.
func (readTx) Exec(context.Context, core.Stmt, ...any) (int64, error) {
	return 0, fmt.Errorf("a reader cannot write")
}

// Query implements core.Tx.
func (t readTx) Query(ctx context.Context, s core.Stmt, args ...any) (*sql.Rows, error) {
	return t.tx.QueryContext(ctx, t.b.text[s], args...)
}

// QueryText implements core.Tx.
func (t readTx) QueryText(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	return t.tx.QueryContext(ctx, text, args...)
}

// Clock implements core.Tx.
func (t readTx) Clock(context.Context) (int64, error) { return t.b.now().UnixMilli(), nil }

// Shared implements core.Tx.
func (readTx) Shared() bool { return false }

// Close waits for running operations, those handed over included, and closes
// the file. Closing twice is no error.
func (b *backend) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		<-b.done
		return nil
	}
	b.closed = true
	close(b.ops)
	b.mu.Unlock()
	<-b.done

	err := b.ro.Close()
	b.disconnect()
	if derr := b.db.Close(); err == nil {
		err = derr
	}
	b.lock.release()
	if err != nil {
		return fmt.Errorf("close store: %w", explain(b.path, err))
	}
	return nil
}
