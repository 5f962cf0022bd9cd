package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store/internal/core"
)

// groupLimit is how many operations share a commit at most.
const groupLimit = 256

// errClosed is every operation's answer after Close.
var errClosed = fmt.Errorf("%w: the store is closed", pool.ErrUnavailable)

// backend runs transactions on one file.
type backend struct {
	path string
	log  *slog.Logger
	now  func() time.Time
	lock *lock
	text core.Statements

	// mu is held shared while an operation is handed over or a read runs, and
	// alone by Close, which so waits for them.
	mu     sync.RWMutex
	closed bool
	ops    chan *op
	done   chan struct{}

	// db has the one connection of the writer; conn and stmts belong to the
	// writer's goroutine.
	db    *sql.DB
	conn  *sql.Conn
	stmts [core.NumStmts]*sql.Stmt
	marks [numMarks]*sql.Stmt
	// beforeCommit is for tests of failing commits.
	beforeCommit func() error

	// tainted says that an operation left something open on conn.
	tainted bool

	ro *sql.DB
}

// The statements around operations.
const (
	begin = iota
	commit
	rollback
	save
	release
	undo
	numMarks
)

var markTexts = [numMarks]string{
	begin:    "BEGIN IMMEDIATE",
	commit:   "COMMIT",
	rollback: "ROLLBACK",
	save:     "SAVEPOINT op",
	release:  "RELEASE op",
	undo:     "ROLLBACK TO op",
}

// The states of an operation.
const (
	waiting = iota
	taken
	abandoned
)

// op is one operation on its way through the writer. err is the writer's until
// done is closed.
type op struct {
	ctx   context.Context
	run   func(context.Context, core.Tx) error
	state atomic.Int32
	err   error
	done  chan struct{}
}

// start opens the writer's connection and begins to write.
func (b *backend) start(ctx context.Context) error {
	if err := b.connect(ctx); err != nil {
		return err
	}
	b.ops = make(chan *op, groupLimit)
	b.done = make(chan struct{})
	go b.loop(ctx)
	return nil
}

func (b *backend) connect(ctx context.Context) error {
	conn, err := b.db.Conn(ctx)
	if err != nil {
		return err
	}
	b.conn = conn
	for _, pragma := range []string{
		fmt.Sprintf("PRAGMA cache_size = -%d", writerCacheKiB),
		fmt.Sprintf("PRAGMA wal_autocheckpoint = %d", checkpointPages),
	} {
		// The second answers with a row, which Exec passes over.
		if _, err := conn.ExecContext(ctx, pragma); err != nil {
			return err
		}
	}
	for k, text := range markTexts {
		if b.marks[k], err = conn.PrepareContext(ctx, text); err != nil {
			return err
		}
	}
	return nil
}

// disconnect drops the writer's connection and whatever was open on it.
func (b *backend) disconnect() {
	if b.conn == nil {
		return
	}
	for k, s := range b.stmts {
		if s != nil {
			_ = s.Close() // goes with the connection in any case
			b.stmts[k] = nil
		}
	}
	for _, s := range b.marks {
		if s != nil {
			_ = s.Close() // goes with the connection in any case
		}
	}
	// ErrBadConn makes database/sql close the connection, not keep it.
	_ = b.conn.Raw(func(any) error { return driver.ErrBadConn })
	b.conn = nil
}

// Write hands op to the writer and waits for its commit. If ctx ends before the
// writer has begun with it, nothing is done; afterwards its outcome is awaited.
func (b *backend) Write(ctx context.Context, run func(context.Context, core.Tx) error) error {
	o := &op{ctx: ctx, run: run, done: make(chan struct{})}
	if err := b.hand(ctx, o); err != nil {
		return err
	}
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done():
		if o.state.CompareAndSwap(waiting, abandoned) {
			return context.Cause(ctx)
		}
		<-o.done
		return o.err
	}
}

func (b *backend) hand(ctx context.Context, o *op) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return errClosed
	}
	select {
	case b.ops <- o:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// loop is the writer. ctx is never done: what has begun is finished.
func (b *backend) loop(ctx context.Context) {
	defer close(b.done)
	group := make([]*op, 0, groupLimit)
	for o := range b.ops {
		group = b.group(ctx, o, group[:0])
		for k, o := range group {
			close(o.done)
			group[k] = nil
		}
	}
}

// group commits first and whatever waits behind it together, and returns the
// operations with their outcomes. It never waits for more to come.
func (b *backend) group(ctx context.Context, first *op, group []*op) []*op {
	broken := b.begin(ctx)
	undone := false
	for o := first; o != nil; {
		switch {
		case !o.state.CompareAndSwap(waiting, taken):
			// Its caller has gone; nobody reads the outcome.
		case o.ctx.Err() != nil:
			o.err = context.Cause(o.ctx)
			group = append(group, o)
		case broken != nil:
			o.err = explain(b.path, broken)
			group = append(group, o)
		default:
			group = append(group, o)
			o.err, broken = b.runOp(o)
			undone = broken != nil
		}
		o = nil
		if broken == nil && len(group) < groupLimit {
			select {
			case o = <-b.ops:
			default:
			}
		}
	}
	if broken == nil {
		broken = b.commit(ctx)
		undone = broken != nil
	}
	if undone {
		// Nothing of this group is in the database: none may be told it is.
		// What failed for a reason of its own keeps that.
		failure := explain(b.path, broken)
		for _, o := range group {
			if kept, _ := core.Settle(o.err); kept {
				o.err = failure
			}
		}
	}
	if b.tainted {
		b.tainted = false
		b.disconnect()
	}
	for _, o := range group {
		_, o.err = core.Settle(o.err)
		o.err = explain(b.path, o.err)
	}
	return group
}

// begin opens the transaction of a group, on a new connection if the last one
// was given up.
func (b *backend) begin(ctx context.Context) error {
	if b.conn == nil {
		if err := b.connect(ctx); err != nil {
			b.disconnect()
			return err
		}
	}
	_, err := b.marks[begin].ExecContext(ctx)
	if err != nil && codeOf(err) != codeBusy {
		b.disconnect()
	}
	return err
}

func (b *backend) commit(ctx context.Context) error {
	var err error
	if b.beforeCommit != nil {
		err = b.beforeCommit()
	}
	if err == nil {
		_, err = b.marks[commit].ExecContext(ctx)
	}
	if err != nil {
		b.abort(ctx)
	}
	return err
}

// abort takes back the transaction. A connection that cannot even do that is
// given up, which takes it back too.
func (b *backend) abort(ctx context.Context) {
	if _, err := b.marks[rollback].ExecContext(ctx); err != nil {
		b.disconnect()
	}
}

// runOp runs one operation in its savepoint. err is the operation's own
// outcome; broken is set if the whole group is lost by it.
func (b *backend) runOp(o *op) (err, broken error) { //nolint:revive // two errors, of two owners
	ctx := context.WithoutCancel(o.ctx)
	if _, err := b.marks[save].ExecContext(ctx); err != nil {
		b.abort(ctx)
		return nil, err
	}
	err = b.guarded(ctx, o)
	if keep, _ := core.Settle(err); keep {
		if _, rerr := b.marks[release].ExecContext(ctx); rerr != nil {
			b.abort(ctx)
			return nil, rerr
		}
		return err, nil
	}
	if _, uerr := b.marks[undo].ExecContext(ctx); uerr != nil {
		// SQLite takes back the whole transaction by itself when the disk is
		// full or failing; the savepoint is gone then.
		b.abort(ctx)
		return err, errors.Join(err, uerr)
	}
	if _, rerr := b.marks[release].ExecContext(ctx); rerr != nil {
		b.abort(ctx)
		return err, rerr
	}
	return err, nil
}

// guarded keeps a panic in an operation from ending the writer, and with it
// everybody's store.
func (b *backend) guarded(ctx context.Context, o *op) (err error) {
	defer func() {
		if r := recover(); r != nil {
			b.log.Error("panic in a store operation", "panic", r, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic in a store operation: %v", r)
			b.tainted = true
		}
	}()
	return o.run(ctx, writeTx{b})
}

// writeTx is a transaction of the writer's.
type writeTx struct{ b *backend }

func (t writeTx) stmt(ctx context.Context, s core.Stmt) (*sql.Stmt, error) {
	if st := t.b.stmts[s]; st != nil {
		return st, nil
	}
	st, err := t.b.conn.PrepareContext(ctx, t.b.text[s])
	if err != nil {
		return nil, err
	}
	t.b.stmts[s] = st
	return st, nil
}

// Exec implements core.Tx.
func (t writeTx) Exec(ctx context.Context, s core.Stmt, args ...any) (int64, error) {
	st, err := t.stmt(ctx, s)
	if err != nil {
		return 0, err
	}
	res, err := st.ExecContext(ctx, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// Query implements core.Tx.
func (t writeTx) Query(ctx context.Context, s core.Stmt, args ...any) (*sql.Rows, error) {
	st, err := t.stmt(ctx, s)
	if err != nil {
		return nil, err
	}
	return st.QueryContext(ctx, args...)
}

// QueryText implements core.Tx.
func (t writeTx) QueryText(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	return t.b.conn.QueryContext(ctx, text, args...)
}

// Clock implements core.Tx: one process, one clock.
func (t writeTx) Clock(context.Context) (int64, error) { return t.b.now().UnixMilli(), nil }

// Shared implements core.Tx: nobody else writes.
func (writeTx) Shared() bool { return false }
