package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/vm-runner/drone-runner-aws/store/internal/core"
)

// Newest is the version of the program's schema.
func Newest() (int64, error) { return newest() }

// Channel is what a store's announcements go through.
func Channel(s *Store) string { return s.notes.b.channel }

// Stall locks the holder of a pool as a fenced write does, says so, and commits
// when it is released. It is tried once.
func Stall(ctx context.Context, s *Store, pool string, locked, release chan struct{}) error {
	b := s.notes.b
	return b.once(ctx, func(ctx context.Context, t core.Tx) error {
		rows, err := t.Query(ctx, core.KeepPoolHolder, pool)
		if err != nil {
			return err
		}
		for rows.Next() {
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return err
		}
		close(locked)
		<-release
		return nil
	})
}

// Statements are the texts with their locks.
func Statements() core.Statements { return statements() }

// RaceLost is what is logged for a transaction that is run again.
const RaceLost = raceLost

// MigrationKey is the lock for changes of a schema.
const MigrationKey = migrationKey

// Within has a migration wait less long for a lock.
func (o Options) Within(wait time.Duration) Options {
	o.lockWait = wait
	return o
}
