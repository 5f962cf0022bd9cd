package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"

	"github.com/vm-runner/drone-runner-aws/store/internal/core"
)

// reader is a connection that reads, with its prepared statements. One
// goroutine at a time has it. It connects when it is first used.
type reader struct {
	conn  *sql.Conn
	stmts [core.NumStmts]*sql.Stmt
	marks [numMarks]*sql.Stmt
}

func (r *reader) connect(ctx context.Context, db *sql.DB) error {
	if r.conn != nil {
		return nil
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	r.conn = conn
	for k, text := range [...]string{begin: "BEGIN", rollback: markTexts[rollback]} {
		if text == "" {
			continue
		}
		if r.marks[k], err = conn.PrepareContext(ctx, text); err != nil {
			return err
		}
	}
	return nil
}

// disconnect drops the connection and whatever is open on it.
func (r *reader) disconnect() {
	if r.conn == nil {
		return
	}
	for _, stmts := range [][]*sql.Stmt{r.stmts[:], r.marks[:]} {
		for k, s := range stmts {
			if s != nil {
				_ = s.Close() // goes with the connection in any case
				stmts[k] = nil
			}
		}
	}
	// ErrBadConn makes database/sql close the connection, not keep it.
	_ = r.conn.Raw(func(any) error { return driver.ErrBadConn })
	r.conn = nil
}

// Look runs op on a connection of its own, without a transaction: each of its
// statements sees the state of the database at its begin.
func (b *backend) Look(ctx context.Context, run func(context.Context, core.Tx) error) error {
	return b.withReader(ctx, func(r *reader) error { return run(ctx, readTx{b, r}) })
}

// Read runs op on a connection of its own, on one state of the database.
func (b *backend) Read(ctx context.Context, run func(context.Context, core.Tx) error) error {
	return b.withReader(ctx, func(r *reader) error {
		brief := context.WithoutCancel(ctx)
		if _, err := r.marks[begin].ExecContext(brief); err != nil {
			return err
		}
		err := run(ctx, readTx{b, r})
		// Nothing was written; rolling back is the cheaper end of a read.
		if _, rerr := r.marks[rollback].ExecContext(brief); rerr != nil {
			r.disconnect()
		}
		return err
	})
}

// withReader waits for a free reader, or until ctx ends.
func (b *backend) withReader(ctx context.Context, read func(*reader) error) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return errClosed
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var r *reader
	select {
	case r = <-b.readers:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	sound := false
	defer func() {
		if !sound {
			r.disconnect()
		}
		b.readers <- r
	}()
	err := r.connect(context.WithoutCancel(ctx), b.ro)
	if err == nil {
		err = read(r)
	}
	// After a failure of the database, or a panic, nobody knows what is open.
	sound = err == nil || core.Ours(err)
	if !sound && ctx.Err() != nil {
		// The caller gave up; the database did not fail.
		return context.Cause(ctx)
	}
	return explain(b.path, err)
}

// readTx is what a reader's operation sees.
type readTx struct {
	b *backend
	r *reader
}

// Exec implements core.Tx; a reader has none.
func (readTx) Exec(context.Context, core.Stmt, ...any) (int64, error) {
	return 0, fmt.Errorf("a reader cannot write")
}

// Query implements core.Tx. It takes no longer than its few rows do, and a
// context that can end would cost it a goroutine.
func (t readTx) Query(ctx context.Context, s core.Stmt, args ...any) (*sql.Rows, error) {
	ctx = context.WithoutCancel(ctx)
	st := t.r.stmts[s]
	if st == nil {
		var err error
		if st, err = t.r.conn.PrepareContext(ctx, t.b.text[s]); err != nil {
			return nil, err
		}
		t.r.stmts[s] = st
	}
	return st.QueryContext(ctx, args...)
}

// QueryText implements core.Tx. A listing may be long: it ends with ctx.
func (t readTx) QueryText(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	return t.r.conn.QueryContext(ctx, text, args...)
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

	// The lock was had: no reader is in use.
	for range readers {
		(<-b.readers).disconnect()
	}
	err := b.ro.Close()
	if cerr := b.copier.close(); err == nil {
		err = cerr
	}
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
