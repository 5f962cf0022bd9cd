package postgres

import (
	"cmp"
	"context"
	"database/sql"
	"embed"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/vm-runner/drone-runner-aws/store/internal/core"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrationKey is the database's lock for changes of a schema.
const migrationKey = `hashtextextended('drone-runner-aws migrations ' || current_schema(), 0)`

const (
	// lockWait is how long a migration waits for a lock at a time. Whoever wants
	// the same rows waits behind it, so the requests of runners at work do.
	lockWait = 5 * time.Second
	// lockPause lets them go on before the next try.
	lockPause = time.Second
	// lockTries is how often tables are tried, turnTries the lock that lets one
	// runner at a time change them: that takes its time where there is much.
	lockTries = 3
	turnTries = 12
	// migrating is the application's name while it changes tables.
	migrating = "drone-runner-aws migration"
)

// migrate brings the schema up to date, each migration in a transaction, and
// leaves a newer one as it is. The lock is the database's, per schema,
// and ends with the connection if the process dies. A lock that is not to be
// had is an error that names who has it.
func (b *backend) migrate(ctx context.Context, cfg *pgx.ConnConfig, wait time.Duration) error {
	conn, err := b.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	unlock, err := b.takeTurn(ctx, conn, wait)
	if err != nil {
		return err
	}
	defer unlock()
	files, err := migrationFiles()
	if err != nil {
		return err
	}
	// One connection, which is the one that waits for locks.
	var pid atomic.Uint32
	own := cfg.Copy()
	own.RuntimeParams["application_name"] = migrating
	db := stdlib.OpenDB(*own, stdlib.OptionAfterConnect(func(ctx context.Context, c *pgx.Conn) error {
		pid.Store(c.PgConn().PID())
		_, err := c.Exec(ctx, fmt.Sprintf("SET idle_in_transaction_session_timeout = %s; SET lock_timeout = %d", stalledAfter, wait.Milliseconds()))
		return err
	}))
	db.SetMaxOpenConns(1)
	defer db.Close()
	p, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithDisableGlobalRegistry(true), goose.WithTableName(core.Versions))
	if err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	var have, want int64
	err = b.patiently(ctx, lockTries, wait, &pid, "the tables", func() (err error) {
		have, want, err = p.GetVersions(ctx)
		return err
	})
	if err != nil {
		return err
	}
	if have > want {
		schema, err := core.ReadSchema(ctx, conn, want)
		if err == nil {
			schema.Warn(b.log, want)
		}
		return err
	}
	for try := 1; ; try++ {
		err := b.patiently(ctx, lockTries, wait, &pid, "the tables", func() error {
			_, err := p.Up(ctx)
			return err
		})
		if err == nil {
			break
		}
		// Runners at work lock the same tables in another order. What was locked
		// is free again, and the migration as if it had not been tried.
		if codeOf(err) != codeDeadlock || try == maxTries {
			return fmt.Errorf("migrate from version %d: %w", have, err)
		}
	}
	if have < want {
		b.log.Info("database schema brought up to date", "from", have, "to", want)
	}
	return nil
}

// takeTurn waits until no other runner changes the schema. unlock gives the
// turn back.
func (b *backend) takeTurn(ctx context.Context, conn *sql.Conn, wait time.Duration) (unlock func(), err error) {
	var pid atomic.Uint32
	var backend uint32
	if err := conn.QueryRowContext(ctx, `SELECT pg_backend_pid()`).Scan(&backend); err != nil {
		return nil, err
	}
	pid.Store(backend)
	if _, err := conn.ExecContext(ctx, fmt.Sprintf("SET lock_timeout = %d", wait.Milliseconds())); err != nil {
		return nil, err
	}
	unlock = func() {
		// Closing the connection would do it too; this keeps it for the pool.
		_, _ = conn.ExecContext(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock(`+migrationKey+`); RESET lock_timeout`)
	}
	err = b.patiently(ctx, turnTries, wait, &pid, "the turn to change tables", func() error {
		_, err := conn.ExecContext(ctx, `SELECT pg_advisory_lock(`+migrationKey+`)`)
		return err
	})
	if err != nil {
		return nil, err
	}
	return unlock, nil
}

// patiently tries what may wait for locks, on the connection pid, a few times,
// and says who has them.
func (b *backend) patiently(ctx context.Context, tries int, wait time.Duration, pid *atomic.Uint32, what string, try func() error) error {
	for n := 1; ; n++ {
		blockers := b.watch(ctx, pid, wait/4)
		err := try()
		who := cmp.Or(blockers(), "a process that cannot be seen any more")
		if codeOf(err) != codeLockTimeout {
			return err
		}
		if n == tries {
			return fmt.Errorf("%s could not be locked in %d tries of %s: %s has the lock; let it finish or end it, then start again: %w", what, tries, wait, who, err)
		}
		b.log.WarnContext(ctx, "the schema cannot be brought up to date yet", "waits_for", what, "blocked_by", who, "try", n, "of", tries)
		t := time.NewTimer(min(wait, lockPause))
		select {
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		case <-t.C:
		}
	}
}

// watch looks again and again who keeps the connection pid waiting. The
// function it returns ends that and says who it was last, "" for nobody.
func (b *backend) watch(ctx context.Context, pid *atomic.Uint32, every time.Duration) func() string {
	ctx, cancel := context.WithCancel(ctx)
	var last string
	var g sync.WaitGroup
	g.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			// Not to know who it is is no reason not to try.
			if who, err := b.blockers(ctx, pid.Load()); err == nil && who != "" {
				last = who
			}
		}
	})
	return func() string {
		cancel()
		g.Wait()
		return last
	}
}

// blockers names who has the locks that a connection waits for. What it runs is
// not told: it may have secrets in it.
func (b *backend) blockers(ctx context.Context, pid uint32) (string, error) {
	rows, err := b.db.QueryContext(ctx, `
		SELECT a.pid, coalesce(a.usename::text, ''), coalesce(a.application_name, ''), coalesce(host(a.client_addr), 'this host'),
			coalesce(a.state, 'in a state that is not shown'), coalesce(extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, a.state_change))::bigint, 0)
		FROM unnest(pg_blocking_pids($1)) AS blocker (pid) JOIN pg_stat_activity AS a ON a.pid = blocker.pid ORDER BY a.pid`, int64(pid))
	if err != nil {
		return "", err
	}
	defer rows.Close()
	var who []string
	for rows.Next() {
		var blocker, seconds int64
		var user, application, host, state string
		if err := rows.Scan(&blocker, &user, &application, &host, &state, &seconds); err != nil {
			return "", err
		}
		if application != "" {
			application = ", " + application
		}
		who = append(who, fmt.Sprintf("process %d (user %s%s, from %s, %s for %s)", blocker, user, application, host, state, time.Duration(seconds)*time.Second))
	}
	return strings.Join(who, " and "), rows.Err()
}
