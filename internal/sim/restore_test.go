package sim

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
)

// A store is put back to a copy of some minutes ago, while callers use machines
// of which that copy knows nothing, or which it takes for free. Nothing that is
// in use may be destroyed or given away, what callers were told before the copy
// was made still holds, and whatever the store has lost is in the report from
// which an operator clears up in the end.

// restore is how a store is put back.
type restore string

const (
	// fromBackup: by the program's own backup and restore.
	fromBackup restore = "backup"
	// byHand: the file is copied and copied back, which only the witness beside
	// the store tells of.
	byHand restore = "by hand"
)

// vault has the store, which may be another one later, and what is remembered
// beside it.
type vault struct {
	mu    sync.Mutex
	store pool.Store
	seen  time.Time
}

var _ pool.Witness = (*vault)(nil)

func (v *vault) fill(st pool.Store) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.store = st
}

// Seen implements pool.Witness.
func (v *vault) Seen() (time.Time, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.seen, nil
}

// Saw implements pool.Witness.
func (v *vault) Saw(t time.Time) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.seen = t
	return nil
}

// store is the store as it is now.
func (s *sim) store() pool.Store {
	s.vault.mu.Lock()
	defer s.vault.mu.Unlock()
	return s.vault.store
}

func (s *sim) database() string { return filepath.Join(s.dir, "database.sqlite3") }

// travel takes a copy of the store and puts it back later.
func (s *sim) travel(ctx context.Context) {
	if s.plan.restore == "" || nap(ctx, s.d.span(s.plan.load/2, "copy-at")) != nil {
		return
	}
	var backup bytes.Buffer
	made := time.Now()
	if err := s.copyStore(ctx, &backup); err != nil {
		if ctx.Err() == nil {
			s.log.wrong(ruleError, "", "copy of the store: %v", err)
		}
		return
	}
	s.log.tell("sim", "", "", "a copy of the store is made (%s)", s.plan.restore)
	// What is copied back by hand within a minute nobody notices.
	if nap(ctx, 150*time.Second+s.d.span(s.plan.load/3, "copy-age")) != nil {
		return
	}
	s.putBack(ctx, &backup, made)
}

// copyStore copies the store between two writes.
func (s *sim) copyStore(ctx context.Context, w *bytes.Buffer) error {
	s.witness.stepMu.Lock()
	defer s.witness.stepMu.Unlock()
	if s.plan.restore == byHand {
		_, err := s.witness.db.ExecContext(ctx, `VACUUM INTO $1`, s.database()+".copy")
		return err
	}
	_, err := sqlite.Backup(ctx, s.database(), w, s.host.Now())
	return err
}

// putBack stops every runner, puts the copy in place, and lets them start.
func (s *sim) putBack(ctx context.Context, backup *bytes.Buffer, made time.Time) {
	ctx = context.WithoutCancel(ctx)
	for _, r := range s.replicas {
		r.power <- struct{}{}
		defer func() { <-r.power }()
		if in := r.runner(); in != nil {
			in.p.kill()
			<-in.done
		}
	}
	if len(s.replicas) > 1 {
		// The store of several refuses to be restored sooner after a sign of life,
		// which is more than their clocks differ.
		_ = nap(ctx, 30*time.Second)
	}
	err := s.swap(ctx, backup)
	if err == nil {
		err = s.witness.begin(ctx)
	}
	if err != nil {
		s.log.wrong(ruleError, "", "the copy of the store is not put back: %v", err)
		return
	}
	s.log.putBack(made)
	s.log.tell("sim", "", "", "the store is put back to the copy of %s", stampOf(made))
}

func (s *sim) swap(ctx context.Context, backup *bytes.Buffer) error {
	if err := errors.Join(s.witness.close(), s.store().Close()); err != nil {
		return err
	}
	path := s.database()
	if s.plan.restore == byHand {
		for _, beside := range []string{"-wal", "-shm"} {
			if err := os.Remove(path + beside); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if err := os.Rename(path+".copy", path); err != nil {
			return err
		}
	} else if _, err := sqlite.Restore(ctx, sqlite.RestoreOptions{Path: path, From: backup, Force: true, Now: s.host.Now()}); err != nil {
		return err
	}
	st, db, err := storeSQLite(ctx, s.dir)
	if err != nil {
		return err
	}
	s.vault.fill(s.wrapped(st))
	return s.witness.open(ctx, db)
}

// begin takes the rows as they are now for what was seen last.
func (w *witness) begin(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	now, err := w.read(ctx)
	if err != nil {
		return err
	}
	rows, err := w.db.QueryContext(ctx, `SELECT name FROM instances`)
	if err != nil {
		return err
	}
	defer rows.Close()
	past := map[string]bool{}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return err
		}
		past[name] = true
	}
	w.leases, w.pools, w.taken = now.leases, now.pools, map[string]pool.LeaseKey{}
	l := w.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rows, l.past, l.byName = now.rows, past, map[string]string{}
	for id, r := range now.rows {
		l.byName[r.name] = id
	}
	return rows.Err()
}

// putBack records that the store knows nothing of what came after the copy.
func (l *ledger) putBack(made time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.restored = true
	clear(l.holding)
	clear(l.gripped)
	for _, a := range l.answers {
		if !a.told.Before(made) {
			a.unknown = true
			l.forgotten[a.lease] = true
		}
	}
}

// forgot says whether the store may know nothing of what a lease was told.
func (l *ledger) forgot(lease string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.forgotten[lease]
}

func (l *ledger) wasRestored() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.restored
}

// clearUp is an operator's work after a restore: by what the runner reports,
// and by nothing else, whatever nobody uses is ended.
func (s *sim) clearUp(ctx context.Context) {
	if !s.log.wasRestored() {
		return
	}
	by := pool.Order{By: "ann", Why: "the store was restored"}
	for _, host := range s.replicas {
		for key, l := range s.witness.snapshot().leases {
			// A build that starts ends by itself; a gitspace whose wake the restore
			// has cut off is kept for whoever asks for it.
			kept := l.state != pool.LeaseWaiting && (l.state != pool.LeaseStarting || l.kind == pool.Gitspace && l.waiter == "")
			if kept && !s.log.isLeft(key.ID) {
				s.orderEnd(ctx, host, key.ID, by)
			}
		}
		report, err := once(ctx, s, host, operatorPatience, func(ctx context.Context, m *pool.Manager) (pool.OrphanReport, error) { return m.Orphans(ctx) })
		if err != nil {
			continue
		}
		for _, inst := range report.Held {
			if _, used := s.log.holds(inst.Name); used || s.plan.orders > 0 && s.keeps(inst.Name) {
				continue
			}
			r := row{id: inst.ID, name: inst.Name}
			if s.orderHold(ctx, host, r, false, by) == nil {
				s.orderDestroy(ctx, host, r, pool.DestroyOrder{Order: by, Force: true})
			}
		}
		for _, o := range report.Machines {
			// A copy of before the store had its controller makes another one of it.
			if _, used := s.log.holds(o.Name); !used && o.Tags.Controller != neighbour {
				s.remove(ctx, host, o.Name, pool.OrphanOrder{Order: by, Gitspace: true, Foreign: o.Foreign})
			}
		}
	}
}
