package core

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/pressly/goose/v3"
)

// Versions is goose's own table.
const Versions = "goose_db_version"

// Newest is the version to which migrations lead: that of a program's schema.
func Newest(migrations fs.FS) (int64, error) {
	files, err := fs.ReadDir(migrations, ".")
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

// Schema is what a store says of its tables.
type Schema struct {
	// Version is the newest migration that has run, 0 if none has.
	Version int64
	// Compat is the version of the oldest program that may work on the tables.
	// It is 0 unless Version is newer than the program that asks.
	Compat int64
}

// ReadSchema reads what the tables of a store are, for a program whose own
// schema is version newest. The table Versions must be there. A newer runner's
// tables on which this program must not work are an error that says so.
func ReadSchema(ctx context.Context, q Querier, newest int64) (Schema, error) {
	var s Schema
	if err := q.QueryRowContext(ctx, `SELECT coalesce(max(version_id), 0) FROM `+Versions).Scan(&s.Version); err != nil {
		return Schema{}, err
	}
	if s.Version <= newest {
		return s, nil
	}
	if err := q.QueryRowContext(ctx, `SELECT compat FROM meta WHERE id = 1`).Scan(&s.Compat); err != nil {
		return Schema{}, fmt.Errorf("its schema has version %d, this program knows up to %d; which programs may work on it: %w", s.Version, newest, err)
	}
	if s.Compat > newest {
		return Schema{}, fmt.Errorf("its schema has version %d and is for programs that know at least %d, this one knows up to %d; it was written by a newer runner and left as it is: use that runner, or restore a copy from before",
			s.Version, s.Compat, newest)
	}
	return s, nil
}

// Warn logs that the tables are newer than the program, if they are: during a
// rolling restart, or after a roll-back.
func (s Schema) Warn(log *slog.Logger, newest int64) {
	if s.Version > newest {
		log.Warn("the database's schema is newer than this program, which may work on it all the same; update this program, or end the roll-back",
			"schema", s.Version, "program", newest, "compat", s.Compat)
	}
}

// Whole refuses to copy or replace tables of a newer runner, of which this
// program does not know all.
func (s Schema) Whole(newest int64) error {
	if s.Version <= newest {
		return nil
	}
	return fmt.Errorf("its schema has version %d, this program knows up to %d and would leave out what is newer; back it up and restore it with the newer runner",
		s.Version, newest)
}
