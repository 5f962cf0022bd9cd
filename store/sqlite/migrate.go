package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"log/slog"

	"github.com/pressly/goose/v3"

	"github.com/vm-runner/drone-runner-aws/store/internal/core"
)

//go:embed migrations/*.sql
var migrations embed.FS

// newest is the version this program's schema has.
func newest() (int64, error) {
	files, err := migrationFiles()
	if err != nil {
		return 0, err
	}
	return core.Newest(files)
}

// recognise reads what the file is, without changing it: version 0 is an empty
// one, and another program's, or a newer runner's on which this program must
// not work, is an error.
func recognise(ctx context.Context, db core.Querier) (core.Schema, error) {
	var mine, others int
	if err := db.QueryRowContext(ctx, `SELECT count(CASE WHEN name = '`+core.Versions+`' THEN 1 END), count(*)
		FROM sqlite_master WHERE type = 'table'`).Scan(&mine, &others); err != nil {
		return core.Schema{}, err
	}
	if mine == 0 {
		if others > 0 {
			return core.Schema{}, fmt.Errorf("it is the database of another program, with %d tables, and was left as it is; move it away, or set DRONE_DATABASE_DATASOURCE to another file", others)
		}
		return core.Schema{}, nil
	}
	want, err := newest()
	if err != nil {
		return core.Schema{}, err
	}
	// Version 0 is goose's table alone: the first migration was interrupted.
	return core.ReadSchema(ctx, db, want)
}

// migrate brings the schema up to date, each migration in a transaction, and
// leaves a newer one as it is. The file's lock keeps two runners from doing so
// at once.
func migrate(ctx context.Context, db *sql.DB, log *slog.Logger) error {
	files, err := migrationFiles()
	if err != nil {
		return err
	}
	want, err := core.Newest(files)
	if err != nil {
		return err
	}
	have, err := recognise(ctx, db)
	if err != nil {
		return err
	}
	if have.Version > want {
		have.Warn(log, want)
		return nil
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files, goose.WithDisableGlobalRegistry(true), goose.WithTableName(core.Versions))
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
