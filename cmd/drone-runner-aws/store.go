package main

import (
	"cmp"
	"context"
	"path/filepath"

	"github.com/vm-runner/drone-runner-aws/internal/env"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
	"github.com/vm-runner/drone-runner-aws/store/postgres"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
)

// place is where the store is.
type place struct {
	// dir is the data directory, where the seal key lies.
	dir      string
	postgres bool
	// source is the file, or the data source, which holds a password.
	source string
}

// placeOf finds the store of a data directory.
func placeOf(cfg env.Config, dir string) place {
	switch {
	case cfg.Distributed:
		return place{dir: dir, postgres: true, source: cfg.DistributedSource.Reveal()}
	case cfg.DatabaseDriver == "postgres":
		return place{dir: dir, postgres: true, source: cfg.DatabaseSource.Reveal()}
	default:
		return place{dir: dir, source: cmp.Or(cfg.DatabaseSource.Reveal(), filepath.Join(dir, databaseFile))}
	}
}

// shared says whether other runners may work on the same database.
func (d *delegate) shared() bool { return placeOf(d.cfg, d.dir).postgres }

// openStore opens the database with its seal key. A SQLite file is locked while
// it is open, so that there is no other runner on it; a Postgres is shared by
// replicas. Errors come within two seconds, or where somebody has locked tables
// that are to be changed within twenty, and name database and remedy; nothing
// is overwritten.
func (d *delegate) openStore(ctx context.Context) (pool.Store, error) {
	at := placeOf(d.cfg, d.dir)
	if at.postgres {
		return d.openPostgres(ctx, at.source)
	}
	id, err := sqlite.KeyID(ctx, at.source)
	if err != nil {
		return nil, err
	}
	seal, err := store.LoadKey(store.KeyConfig{Dir: d.dir, Want: id})
	if err != nil {
		return nil, err
	}
	st, err := sqlite.Open(ctx, sqlite.Options{Path: at.source, Seal: seal, Log: d.log})
	if err != nil {
		return nil, err
	}
	d.witness = witnessOf(at.source)
	return st, nil
}

func (d *delegate) openPostgres(ctx context.Context, dsn string) (pool.Store, error) {
	id, err := postgres.KeyID(ctx, dsn)
	if err != nil {
		return nil, err
	}
	seal, err := store.LoadKey(store.KeyConfig{Dir: d.dir, Want: id})
	if err != nil {
		return nil, err
	}
	st, err := postgres.Open(ctx, postgres.Options{DSN: dsn, Seal: seal, Log: d.log})
	if err != nil {
		return nil, err
	}
	return st, nil
}
