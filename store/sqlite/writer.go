package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
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

	// copier keeps the log short.
	copier *copier

	// reads says of each statement that it changes nothing.
	reads [core.NumStmts]bool
	// wrote says that the operation at work has changed something.
	wrote bool
	// tainted says that an operation may have left something open on conn.
	tainted bool
	// refused is since when the file's lock is not had; zero while it is.
	refused time.Time

	// ro has the readers' connections; readers are those that are free.
	ro      *sql.DB
	readers chan *reader
}

// The statements around groups.
const (
	begin = iota
	commit
	rollback
	numMarks
)

var markTexts = [numMarks]string{
	begin:    "BEGIN IMMEDIATE",
	commit:   "COMMIT",
	rollback: "ROLLBACK",
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
	go b.copier.run(ctx)
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
		fmt.Sprintf("PRAGMA wal_autocheckpoint = %d", backstopPages),
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
		b.copier.count(len(group))
		b.copyRest(ctx)
	}
}

// group commits first and whatever waits behind it together, and returns the
// operations with their outcomes. It never waits for more to come.
//
// No savepoint guards the operations from each other: nearly all that fail do so
// before they have changed anything, and then there is nothing to take back. One
// that fails half way takes the transaction with it; the others are done again
// without it, and the group ends there.
func (b *backend) group(ctx context.Context, first *op, group []*op) []*op {
	broken := b.begin(ctx)
	undone, spoilt := false, false
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
			if spoilt = b.runOp(o); spoilt {
				broken = b.again(ctx, group)
				undone = broken != nil
			}
		}
		o = nil
		if broken == nil && !spoilt && len(group) < groupLimit {
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
	for _, o := range group {
		_, o.err = core.Settle(o.err)
		o.err = explain(b.path, o.err)
	}
	return group
}

// begin opens the transaction of a group, on a new connection if the last one
// was given up. Where the file is locked it tries again for a while: not only
// another program can have the lock. A connection of this one that reads the
// log's index just as a commit writes it takes the writers' lock for a moment,
// to read it again.
func (b *backend) begin(ctx context.Context) error {
	for {
		err := b.tryBegin(ctx)
		if codeOf(err) != codeBusy {
			b.refused = time.Time{}
			return err
		}
		if b.refused.IsZero() {
			b.refused = time.Now()
		}
		// Counted from the first refusal, so that of many operations that find the
		// file locked by another program only the first ones are kept waiting.
		if time.Since(b.refused) > lockPatience {
			return err
		}
		<-time.After(lockRetry)
	}
}

func (b *backend) tryBegin(ctx context.Context) error {
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
	if !b.tainted {
		if _, err := b.marks[rollback].ExecContext(ctx); err == nil {
			return
		}
	}
	b.tainted = false
	b.disconnect()
}

// again takes back a transaction that the last operation of group has spoilt,
// and does what had succeeded before it once more. What failed keeps its answer.
func (b *backend) again(ctx context.Context, group []*op) error {
	for spoilt := true; spoilt; {
		b.abort(ctx)
		if err := b.begin(ctx); err != nil {
			return err
		}
		spoilt = false
		for _, o := range group {
			if kept, _ := core.Settle(o.err); kept && !spoilt {
				spoilt = b.runOp(o)
			}
		}
	}
	return nil
}

// runOp runs one operation. spoilt says that it failed and may have left
// something behind in the transaction, or that this may be gone: what the
// disk's failures do to it SQLite does not promise. A statement that a
// constraint refused has taken itself back.
func (b *backend) runOp(o *op) (spoilt bool) {
	b.wrote = false
	o.err = b.guarded(context.WithoutCancel(o.ctx), o)
	kept, _ := core.Settle(o.err)
	return !kept && (b.wrote || b.tainted || !core.Ours(o.err) && codeOf(o.err) != codeConstraint)
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
	n, err := res.RowsAffected()
	t.b.wrote = t.b.wrote || n != 0 || err != nil
	return n, err
}

// Query implements core.Tx.
func (t writeTx) Query(ctx context.Context, s core.Stmt, args ...any) (*sql.Rows, error) {
	st, err := t.stmt(ctx, s)
	if err != nil {
		return nil, err
	}
	t.b.wrote = t.b.wrote || !t.b.reads[s]
	return st.QueryContext(ctx, args...)
}

// QueryText implements core.Tx.
func (t writeTx) QueryText(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	t.b.wrote = true
	return t.b.conn.QueryContext(ctx, text, args...)
}

// Clock implements core.Tx: one process, one clock.
func (t writeTx) Clock(context.Context) (int64, error) { return t.b.now().UnixMilli(), nil }

// Shared implements core.Tx: nobody else writes.
func (writeTx) Shared() bool { return false }
