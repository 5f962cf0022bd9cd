package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
	"github.com/vm-runner/drone-runner-aws/store/internal/core"
)

const (
	// Dialect is what copies of a Postgres store say they were made of.
	Dialect = "postgres"
	// youngerThan is how old a runner's sign of life may be for it to be taken
	// for a living one: two of its heartbeats are missed.
	youngerThan = 30 * time.Second
	// swapWait bounds the wait for the tables, in milliseconds.
	swapWait = "10000"
)

// Backup writes a copy of the database's present state to w: all that was
// answered before the call is in it. Runners may be at work on it; they are not
// held up.
func Backup(ctx context.Context, dsn string, w io.Writer, now time.Time) (store.CopyInfo, error) {
	db, _, name, err := connect(dsn)
	if err != nil {
		return store.CopyInfo{}, fmt.Errorf("back up store: %w", err)
	}
	defer db.Close()
	b := &backend{db: db, name: name}
	info, err := b.backup(ctx, w, now)
	if err != nil {
		return store.CopyInfo{}, fmt.Errorf("back up store: %w", b.explain(err))
	}
	return info, nil
}

func (b *backend) backup(ctx context.Context, w io.Writer, now time.Time) (store.CopyInfo, error) {
	info := store.CopyInfo{Dialect: Dialect, Made: now.UTC().Truncate(time.Millisecond)}
	tx, err := b.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return info, err
	}
	defer func() { _ = tx.Rollback() }()
	// A slow disk for the copy is no stalled process.
	if _, err := tx.ExecContext(ctx, `SET LOCAL idle_in_transaction_session_timeout = 0`); err != nil {
		return info, err
	}
	have, err := tables(ctx, tx)
	if err != nil {
		return info, err
	}
	if !slices.Contains(have, core.Versions) || !slices.Contains(have, "meta") {
		return info, fmt.Errorf("%w: %s has no store: there is nothing to back up", pool.ErrUnavailable, b.name)
	}
	schema, err := known(ctx, tx)
	if err != nil {
		return info, err
	}
	info.Schema = schema.Version
	ours := slices.DeleteFunc(core.Tables(), func(t string) bool { return !slices.Contains(have, t) })
	return core.Dump(ctx, tx, ours, w, info)
}

// newest is the version this program's schema has.
func newest() (int64, error) {
	files, err := migrationFiles()
	if err != nil {
		return 0, err
	}
	return core.Newest(files)
}

// known is what the tables are, none of which may be newer than the program.
func known(ctx context.Context, q core.Querier) (core.Schema, error) {
	version, err := newest()
	if err != nil {
		return core.Schema{}, err
	}
	schema, err := core.ReadSchema(ctx, q, version)
	if err != nil {
		return schema, err
	}
	return schema, schema.Whole(version)
}

// tables are those of the connection's schema.
func tables(ctx context.Context, q core.Querier) ([]string, error) {
	rows, err := q.QueryContext(ctx, `SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema()`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var names []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, rows.Err()
}

// RestoreOptions say what is restored where.
type RestoreOptions struct {
	DSN  string
	From io.Reader
	// Force replaces a store that has rows; it is kept in a schema of its own.
	Force bool
	// Now is when, for the mark and the name of what is kept.
	Now time.Time
	// Log may be nil.
	Log *slog.Logger
}

// Restore makes the database a store of a copy, whole or not at all, and
// returns the schema in which the store that was there is kept, "" if there was
// none or it was empty. It fails while a runner gives signs of life in it,
// without Force if the store has rows, and if the copy is damaged or of a newer
// schema; then nothing has changed. The seal key is the caller's to check.
func Restore(ctx context.Context, o RestoreOptions) (kept string, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	db, cfg, name, err := connect(o.DSN)
	if err != nil {
		return "", fmt.Errorf("restore store: %w", err)
	}
	defer db.Close()
	b := &backend{db: db, name: name, log: o.Log}
	if kept, err = b.restore(ctx, cfg, o); err != nil {
		return "", fmt.Errorf("restore store: %w", b.explain(err))
	}
	return kept, nil
}

func (b *backend) restore(ctx context.Context, cfg *pgx.ConnConfig, o RestoreOptions) (kept string, err error) {
	in, err := store.ReadCopy(o.From)
	if err != nil {
		return "", err
	}
	version, err := newest()
	if err == nil {
		err = core.TooNew(in.Info, version)
	}
	if err != nil {
		return "", err
	}
	var schema string
	if err := b.db.QueryRowContext(ctx, `SELECT current_schema()`).Scan(&schema); err != nil {
		return "", err
	}
	// Before the work, and again when the tables are locked.
	if _, err := b.replaceable(ctx, b.db, o); err != nil {
		return "", err
	}
	stamp := o.Now.UTC().Format("20060102t150405.000")
	made := pgx.Identifier{schema + "_restoring_" + stamp}
	if _, err := b.db.ExecContext(ctx, `CREATE SCHEMA `+made.Sanitize()); err != nil {
		return "", err
	}
	defer func() {
		_, derr := b.db.ExecContext(context.WithoutCancel(ctx), `DROP SCHEMA `+made.Sanitize()+` CASCADE`)
		if err == nil && derr != nil {
			o.Log.Warn("a schema is left over and can be dropped", "schema", made[0], "err", b.explain(derr))
		}
	}()
	if err := b.build(ctx, cfg, made, in, o); err != nil {
		return "", err
	}
	return b.swap(ctx, schema, made, pgx.Identifier{schema + "_before_" + stamp}, o)
}

// replaceable refuses a store at which a runner works, or which has rows that
// nobody wants replaced. keep says that it has any.
func (b *backend) replaceable(ctx context.Context, q core.Querier, o RestoreOptions) (keep bool, err error) {
	have, err := tables(ctx, q)
	if err != nil || !slices.Contains(have, "controllers") {
		return false, err
	}
	// Tables that this program does not know would stay behind.
	if _, err := known(ctx, q); err != nil {
		return false, err
	}
	var incarnation string
	var seen int64
	err = q.QueryRowContext(ctx, `SELECT incarnation, seen FROM controllers ORDER BY seen DESC LIMIT 1`).Scan(&incarnation, &seen)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return false, err
	}
	if age := o.Now.Sub(time.UnixMilli(seen)); err == nil && age < youngerThan {
		return false, fmt.Errorf("%w: a runner (incarnation %s) gave a sign of life in %s %s ago; stop it, and restore %s later",
			pool.ErrConflict, incarnation, b.name, age.Round(time.Second), youngerThan)
	}
	empty, err := core.Empty(ctx, q)
	if err != nil || empty {
		return false, err
	}
	if !o.Force {
		return false, fmt.Errorf("%w: the store in %s has rows; say --force to replace it (it is kept in another schema), or restore into another database",
			pool.ErrConflict, b.name)
	}
	return true, nil
}

// build makes a new store in a schema of its own.
func (b *backend) build(ctx context.Context, cfg *pgx.ConnConfig, schema pgx.Identifier, in *store.CopyReader, o RestoreOptions) error {
	cfg = cfg.Copy()
	cfg.RuntimeParams["search_path"] = schema.Sanitize()
	db := stdlib.OpenDB(*cfg)
	defer db.Close()
	there := &backend{db: db, name: b.name, log: o.Log}
	if err := there.migrate(ctx, cfg, lockWait); err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	// After a commit it does nothing.
	defer func() { _ = tx.Rollback() }()
	if err := core.Load(ctx, tx, in, "OVERRIDING SYSTEM VALUE"); err != nil {
		return err
	}
	for _, column := range [][2]string{{"leases", "seq"}, {"events", "id"}, {"tombstones", "seq"}} {
		table, name := column[0], column[1]
		// The next number follows the last one.
		if _, err := tx.ExecContext(ctx, `SELECT setval(pg_get_serial_sequence($1, $2), (SELECT coalesce(max(`+name+`), 0) + 1 FROM `+table+`), false)`,
			table, name); err != nil {
			return err
		}
	}
	if err := core.MarkRestored(ctx, tx, in.Info.Made, o.Now); err != nil {
		return err
	}
	return tx.Commit()
}

// swap puts the tables of a new store in the place of the old ones, which it
// moves away, in one transaction.
func (b *backend) swap(ctx context.Context, schema string, made, before pgx.Identifier, o RestoreOptions) (kept string, err error) {
	tx, err := b.db.BeginTx(ctx, nil)
	if err != nil {
		return "", err
	}
	// After a commit it does nothing.
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(ctx, `SET LOCAL lock_timeout = `+swapWait); err != nil {
		return "", err
	}
	if _, err := tx.ExecContext(ctx, `SELECT pg_advisory_xact_lock(`+migrationKey+`)`); err != nil {
		return "", err
	}
	have, err := tables(ctx, tx)
	if err != nil {
		return "", err
	}
	keep := false
	if slices.Contains(have, "controllers") {
		if _, err := tx.ExecContext(ctx, `LOCK TABLE controllers IN ACCESS EXCLUSIVE MODE`); err != nil {
			return "", err
		}
		if keep, err = b.replaceable(ctx, tx, o); err != nil {
			return "", err
		}
	}
	home := pgx.Identifier{schema}
	if keep {
		if _, err := tx.ExecContext(ctx, `CREATE SCHEMA `+before.Sanitize()); err != nil {
			return "", err
		}
		kept = before[0]
	}
	for _, table := range append(core.Tables(), core.Versions) {
		if slices.Contains(have, table) {
			text := `DROP TABLE ` + home.Sanitize() + `.` + table + ` CASCADE`
			if keep {
				text = `ALTER TABLE ` + home.Sanitize() + `.` + table + ` SET SCHEMA ` + before.Sanitize()
			}
			if _, err := tx.ExecContext(ctx, text); err != nil {
				return "", err
			}
		}
	}
	for _, table := range append(core.Tables(), core.Versions) {
		if _, err := tx.ExecContext(ctx, `ALTER TABLE `+made.Sanitize()+`.`+table+` SET SCHEMA `+home.Sanitize()); err != nil {
			return "", err
		}
	}
	return kept, tx.Commit()
}
