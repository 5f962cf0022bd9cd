package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"sync/atomic"
)

// When the log is copied into the file: after so many commits, or so many
// operations, whichever comes first.
const (
	copyGroups = 128
	copyOps    = 1024
	// backstopPages is how long the log may grow before a commit copies it
	// after all, if the copier cannot: 64 MiB.
	backstopPages = 16000
)

// checkpoint copies what it can of the log into the file without waiting for
// anybody. It answers whether a writer or reader was in the way, and how many
// pages the log has and how many of them are copied.
const checkpoint = "PRAGMA wal_checkpoint(PASSIVE)"

// copier copies the log into the file on a connection of its own, beside the
// writer: SQLite's own way is to have the commit do it that makes the log too
// long, and that one's callers wait for thousands of pages and two more syncs.
// What the writer adds meanwhile is left, and while anything is left the log
// goes on growing; so the writer copies that little rest itself, between two
// groups, and its next transaction begins the log anew.
type copier struct {
	db   *sql.DB
	log  *slog.Logger
	wake chan struct{}
	// rest says that the writer is to copy what is left.
	rest atomic.Bool
	done chan struct{}

	// commits and operations since the last copy, the writer's.
	groups, ops int
}

func newCopier(path string, sync Sync, log *slog.Logger) (*copier, error) {
	db, err := sql.Open(driverName, dsn(path, false, sync))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	return &copier{db: db, log: log, wake: make(chan struct{}, 1), done: make(chan struct{})}, nil
}

// run copies when it is asked, until wake is closed.
func (c *copier) run(ctx context.Context) {
	defer close(c.done)
	for range c.wake {
		var busy, pages, moved int
		if err := c.db.QueryRowContext(ctx, checkpoint).Scan(&busy, &pages, &moved); err != nil {
			// A full disk, say: the commits that fail for it are answered so.
			c.log.Debug("log not copied into the database", "err", err)
			continue
		}
		c.rest.Store(true)
	}
}

// close waits for a copy that is under way. Nobody may call count after it.
func (c *copier) close() error {
	close(c.wake)
	<-c.done
	if err := c.db.Close(); err != nil {
		return fmt.Errorf("close copier: %w", err)
	}
	return nil
}

// count tells of a group's commit, and asks for a copy if it is time for one.
func (c *copier) count(ops int) {
	c.groups++
	c.ops += ops
	if c.groups < copyGroups && c.ops < copyOps {
		return
	}
	c.groups, c.ops = 0, 0
	select {
	case c.wake <- struct{}{}:
	default: // it is still at the last one
	}
}

// copyRest copies what was added to the log while the copier was at it. The
// writer calls it between two groups.
func (b *backend) copyRest(ctx context.Context) {
	if b.conn == nil || !b.copier.rest.Swap(false) {
		return
	}
	var busy, pages, moved int
	if err := b.conn.QueryRowContext(ctx, checkpoint).Scan(&busy, &pages, &moved); err != nil {
		b.log.Debug("end of the log not copied into the database", "err", err)
	}
}
