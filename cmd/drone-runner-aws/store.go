package main

import (
	"cmp"
	"context"
	"path/filepath"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
	"github.com/vm-runner/drone-runner-aws/store/postgres"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
)

// shared says whether other runners may work on the same database.
func (d *delegate) shared() bool { return d.cfg.Distributed || d.cfg.DatabaseDriver == "postgres" }

// openStore opens the database with its seal key. A SQLite file is locked while
// it is open, so that there is no other runner on it; a Postgres is shared by
// replicas. Errors come within two seconds and name database and remedy;
// nothing is overwritten.
func (d *delegate) openStore(ctx context.Context) (pool.Store, error) {
	if d.shared() {
		return d.openPostgres(ctx)
	}
	path := cmp.Or(d.cfg.DatabaseSource.Reveal(), filepath.Join(d.dir, databaseFile))
	id, err := sqlite.KeyID(ctx, path)
	if err != nil {
		return nil, err
	}
	seal, err := store.LoadKey(store.KeyConfig{Dir: d.dir, Want: id})
	if err != nil {
		return nil, err
	}
	st, err := sqlite.Open(ctx, sqlite.Options{Path: path, Seal: seal, Log: d.log})
	if err != nil {
		return nil, err
	}
	return st, nil
}

func (d *delegate) openPostgres(ctx context.Context) (pool.Store, error) {
	dsn := d.cfg.DatabaseSource.Reveal()
	if d.cfg.Distributed {
		dsn = d.cfg.DistributedSource.Reveal()
	}
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
