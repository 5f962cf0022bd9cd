package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/pressly/goose/v3"

	"github.com/vm-runner/drone-runner-aws/store/internal/core"
)

//go:embed migrations/*.sql
var migrations embed.FS

// versions is goose's own table.
const versions = "goose_db_version"

// newest is the version this program's schema has.
func newest() (int64, error) {
	files, err := fs.ReadDir(migrations, "migrations")
	if err != nil {
		return 0, err
	}
	var version int64
	for _, f := range files {
		v, err := goose.NumericComponent(f.Name())
		if err != nil {
			return 0, err
		}
		version = max(version, v)
	}
	return version, nil
}

// recognise reads whether the file is ours, without changing it: ours is false
// for an empty one, and another program's or a newer runner's is an error.
func recognise(ctx context.Context, db core.Querier) (ours bool, err error) {
	var mine, others int
	if err := db.QueryRowContext(ctx, `SELECT count(CASE WHEN name = '`+versions+`' THEN 1 END), count(*)
		FROM sqlite_master WHERE type = 'table'`).Scan(&mine, &others); err != nil {
		return false, err
	}
	if mine == 0 {
		if others > 0 {
			return false, fmt.Errorf("it is the database of another program, with %d tables, and was left as it is; move it away, or set DRONE_DATABASE_DATASOURCE to another file", others)
		}
		return false, nil
	}
	var have int64
	if err := db.QueryRowContext(ctx, `SELECT coalesce(max(version_id), 0) FROM `+versions).Scan(&have); err != nil {
		return false, err
	}
	want, err := newest()
	if err != nil {
		return false, err
	}
	if have > want {
		return false, fmt.Errorf("its schema has version %d, this program knows up to %d; it was written by a newer runner and left as it is: use that runner, or restore a copy from before", have, want)
	}
	// Version 0 is goose's table alone: the first migration was interrupted.
	return have > 0, nil
}

// migrate brings the schema up to date, each migration in a transaction. The
// file's lock keeps two runners from doing so at once.
func migrate(ctx context.Context, db *sql.DB, log *slog.Logger) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files, goose.WithDisableGlobalRegistry(true), goose.WithTableName(versions))
	if err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	done, err := p.Up(ctx)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	for _, m := range done {
		log.Info("database schema brought up to date", "version", m.Source.Version)
	}
	return nil
}
