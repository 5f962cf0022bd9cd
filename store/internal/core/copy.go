package core

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
)

// Tables are all tables of a store in an order in which their references are
// kept, apart from the one in which the migrations are counted.
func Tables() []string {
	return []string{
		"meta", "controllers", "pools", "flavours", "instances", "identities", "leases", "lease_choices", "lease_env",
		"events", "tombstones", "disks", "zone_health", "usage",
	}
}

// Querier is one state of a database.
type Querier interface {
	QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, text string, args ...any) *sql.Row
}

// Execer is one transaction.
type Execer interface {
	Querier
	ExecContext(ctx context.Context, text string, args ...any) (sql.Result, error)
	PrepareContext(ctx context.Context, text string) (*sql.Stmt, error)
}

// Dump writes a copy of the given tables to w. info has what the caller knows:
// dialect, schema and time.
func Dump(ctx context.Context, q Querier, tables []string, w io.Writer, info store.CopyInfo) (store.CopyInfo, error) {
	text := Portable()
	var born int64
	var sealed int
	if err := q.QueryRowContext(ctx, text[SelectMeta]).Scan(&info.Controller, &born, &info.SealKey); err != nil {
		return info, err
	}
	if err := q.QueryRowContext(ctx, text[AnySealed]).Scan(&sealed); err != nil {
		return info, err
	}
	if sealed == 0 {
		info.SealKey = ""
	}
	info.Rows = map[string]int64{}
	for _, table := range tables {
		var n int64
		if err := q.QueryRowContext(ctx, `SELECT count(*) FROM `+table).Scan(&n); err != nil {
			return info, err
		}
		info.Rows[table] = n
	}
	out, err := store.NewCopyWriter(w, info)
	if err != nil {
		return info, err
	}
	for _, table := range tables {
		if err := dumpTable(ctx, q, table, out); err != nil {
			return info, fmt.Errorf("table %s: %w", table, err)
		}
	}
	return out.Info(), out.Close()
}

func dumpTable(ctx context.Context, q Querier, table string, out *store.CopyWriter) error {
	rows, err := q.QueryContext(ctx, `SELECT * FROM `+table)
	if err != nil {
		return err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	if err := out.Table(table, columns); err != nil {
		return err
	}
	values := make([]any, len(columns))
	into := make([]any, len(columns))
	for k := range values {
		into[k] = &values[k]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return err
		}
		if err := out.Row(values); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Load writes the rows of a copy into the empty tables of a new store. The
// copy's schema may be older: what it has no column for takes its default.
// given is what an INSERT needs to set numbers that the database would give
// itself.
func Load(ctx context.Context, tx Execer, in *store.CopyReader, given string) error {
	var insert *sql.Stmt
	defer func() {
		if insert != nil {
			_ = insert.Close() // nothing is pending
		}
	}()
	// What the copy says of programs was true of its own schema.
	var compat int64
	if err := tx.QueryRowContext(ctx, `SELECT compat FROM meta`).Scan(&compat); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM meta`); err != nil {
		return err
	}
	err := in.Rows(func(table string, columns []string) (err error) {
		if !slices.Contains(Tables(), table) {
			return fmt.Errorf("%w: it has an unknown table %q", store.ErrCopy, table)
		}
		marks := make([]string, len(columns))
		for k, c := range columns {
			if c == "" || strings.Trim(c, "abcdefghijklmnopqrstuvwxyz_") != "" {
				return fmt.Errorf("%w: table %s has an unknown column %q", store.ErrCopy, table, c)
			}
			marks[k] = "$" + strconv.Itoa(k+1)
		}
		if insert != nil {
			if err := insert.Close(); err != nil {
				return err
			}
		}
		insert, err = tx.PrepareContext(ctx, `INSERT INTO `+table+` (`+strings.Join(columns, ", ")+`) `+given+
			` VALUES (`+strings.Join(marks, ", ")+`)`)
		return err
	}, func(values []any) error {
		_, err := insert.ExecContext(ctx, values...)
		return err
	})
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `UPDATE meta SET compat = $1`, compat)
	return err
}

// ReasonRestored is the event of a machine that a restore holds.
const ReasonRestored = "restored"

// MarkRestored makes true what pool.Controller says of a store that was loaded
// from a copy.
func MarkRestored(ctx context.Context, tx Execer, made, now time.Time) error {
	const free = `bound = 0 AND held = 0 AND state NOT IN ('destroying', 'gone')`
	if _, err := tx.ExecContext(ctx, `UPDATE meta SET restored = $1, copied = $2`, ms(now), ms(made)); err != nil {
		return err
	}
	// The replicas that held the pools are gone or were stopped.
	if _, err := tx.ExecContext(ctx, `UPDATE pools SET holder = '', held_until = 0`); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO events (at, pool, instance, lease, generation, reason, message)
		SELECT CAST($1 AS BIGINT), pool, id, '', 0, CAST($2 AS TEXT), CAST($3 AS TEXT) FROM instances WHERE `+free,
		ms(now), ReasonRestored, "held: the store was restored from a copy of "+made.UTC().Format(time.RFC3339)+", the machine may have been used since"); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `UPDATE instances SET held = 1 WHERE `+free)
	return err
}

// Empty says whether a store has nothing that a restore would replace: no pool,
// no machine, no lease and no event.
func Empty(ctx context.Context, q Querier) (bool, error) {
	for _, table := range []string{"pools", "instances", "leases", "events"} {
		var n int
		if err := q.QueryRowContext(ctx, `SELECT count(*) FROM (SELECT 1 FROM `+table+` LIMIT 1) AS first`).Scan(&n); err != nil || n > 0 {
			return false, err
		}
	}
	return true, nil
}

// TooNew is the error of a copy whose schema this program does not know.
func TooNew(info store.CopyInfo, newest int64) error {
	if info.Schema <= newest {
		return nil
	}
	return fmt.Errorf("%w: the copy's schema has version %d, this program knows up to %d; it was written by a newer runner: use that one",
		pool.ErrUnavailable, info.Schema, newest)
}
