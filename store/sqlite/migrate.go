package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/pressly/goose/v3"

	"github.com/vm-runner/drone-runner-aws/pool"
)

//go:embed migrations/*.sql
var migrations embed.FS

// versions is goose's own table.
const versions = "goose_db_version"

// migrate brings the schema up to date, each migration in a transaction. The
// file's lock keeps two runners from doing so at once.
func migrate(ctx context.Context, db *sql.DB, log *slog.Logger) error {
	var ours, others int
	if err := db.QueryRowContext(ctx, `SELECT count(CASE WHEN name = '`+versions+`' THEN 1 END), count(*)
		FROM sqlite_master WHERE type = 'table'`).Scan(&ours, &others); err != nil {
		return err
	}
	if ours == 0 && others > 0 {
		return fmt.Errorf("%w: it is the database of another program, with %d tables, and was left as it is; move it away, or set DRONE_DATABASE_DATASOURCE to another file",
			pool.ErrUnavailable, others)
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files, goose.WithDisableGlobalRegistry(true), goose.WithTableName(versions))
	if err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	have, want, err := p.GetVersions(ctx)
	if err != nil {
		return err
	}
	if have > want {
		return fmt.Errorf("%w: its schema has version %d, this program knows up to %d; it was written by a newer runner: use that one, or restore a copy from before",
			pool.ErrUnavailable, have, want)
	}
	done, err := p.Up(ctx)
	if err != nil {
		return fmt.Errorf("migrate from version %d: %w", have, err)
	}
	if len(done) > 0 {
		log.Info("database schema brought up to date", "from", have, "to", want)
	}
	return nil
}
