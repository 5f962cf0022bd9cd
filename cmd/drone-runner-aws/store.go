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

// openStore opens the database with its seal key, and says how this runner
// makes sure that it is the only one on it. Errors come within two seconds and
// name database and remedy; nothing is overwritten.
func (d *delegate) openStore(ctx context.Context) (pool.Store, *solitude, error) {
	if d.cfg.Distributed || d.cfg.DatabaseDriver == "postgres" {
		return d.openPostgres(ctx)
	}
	path := cmp.Or(d.cfg.DatabaseSource.Reveal(), filepath.Join(d.dir, databaseFile))
	id, err := sqlite.KeyID(ctx, path)
	if err != nil {
		return nil, nil, err
	}
	seal, err := store.LoadKey(store.KeyConfig{Dir: d.dir, Want: id})
	if err != nil {
		return nil, nil, err
	}
	st, err := sqlite.Open(ctx, sqlite.Options{Path: path, Seal: seal, Log: d.log})
	if err != nil {
		return nil, nil, err
	}
	// The file is locked while it is open: there is no other runner.
	return st, &solitude{incarnation: pool.NewID()}, nil
}

func (d *delegate) openPostgres(ctx context.Context) (pool.Store, *solitude, error) {
	dsn := d.cfg.DatabaseSource.Reveal()
	if d.cfg.Distributed {
		dsn = d.cfg.DistributedSource.Reveal()
	}
	id, err := postgres.KeyID(ctx, dsn)
	if err != nil {
		return nil, nil, err
	}
	seal, err := store.LoadKey(store.KeyConfig{Dir: d.dir, Want: id})
	if err != nil {
		return nil, nil, err
	}
	mark, err := runnerMark(d.dir)
	if err != nil {
		return nil, nil, err
	}
	st, err := postgres.Open(ctx, postgres.Options{DSN: dsn, Seal: seal, Log: d.log})
	if err != nil {
		return nil, nil, err
	}
	only := &solitude{incarnation: mark + "-" + pool.NewID(), mark: mark, store: st, log: d.log}
	return st, only, nil
}
