package main

import (
	"cmp"
	"context"
	"errors"
	"path/filepath"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
)

// openStore opens the database with its seal key. Errors come within two
// seconds and name file and remedy; nothing is overwritten.
func (d *delegate) openStore(ctx context.Context) (pool.Store, error) {
	if d.cfg.Distributed || d.cfg.DatabaseDriver == "postgres" {
		return nil, errors.New("store: postgres is not built in yet; leave DRONE_DATABASE_DRIVER and DRONE_DELEGATE_DISTRIBUTED_MODE out to use SQLite in the data directory")
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
