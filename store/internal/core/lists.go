package core

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// DueInstances implements pool.Store.
func (s *Store) DueInstances(ctx context.Context, pools []string, now time.Time, limit int) ([]pool.Instance, error) {
	var out []pool.Instance
	// Each pool's list is right by itself; nothing connects them.
	err := s.look(ctx, func(ctx context.Context, t txn) error {
		out = nil
		names, err := t.poolsOr(ctx, pools)
		if err != nil {
			return err
		}
		// A look into each pool's own index: what other replicas' pools have due
		// costs nothing.
		for _, name := range names {
			rows, err := t.instances(t.Query(ctx, SelectDueInstances, name, ms(now), int64(max(0, limit))))
			if err != nil {
				return err
			}
			out = append(out, rows...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list due instances: %w", err)
	}
	slices.SortStableFunc(out, func(a, b pool.Instance) int {
		return cmp.Or(a.Due.Compare(b.Due), cmp.Compare(a.ID, b.ID))
	})
	return out[:min(len(out), max(0, limit))], nil
}

// poolsOr returns names, sorted and each once, or if nil those of all pools.
func (t txn) poolsOr(ctx context.Context, names []string) ([]string, error) {
	if names != nil {
		names = slices.Clone(names)
		slices.Sort(names)
		return slices.Compact(names), nil
	}
	rows, err := t.Query(ctx, SelectPoolNames)
	err = each(rows, err, scanStrings(&names))
	return names, err
}

// DueLeases implements pool.Store.
func (s *Store) DueLeases(ctx context.Context, now time.Time, limit int) ([]pool.Lease, error) {
	var out []pool.Lease
	err := s.look(ctx, func(ctx context.Context, t txn) (err error) {
		out, err = leases(t.Query(ctx, SelectDueLeases, ms(now), int64(max(0, limit))))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list due leases: %w", err)
	}
	return out, nil
}

// Adopt implements pool.Store.
func (s *Store) Adopt(ctx context.Context, pools []string, now time.Time) (int, error) {
	var adopted int64
	err := s.write(ctx, func(ctx context.Context, t txn) error {
		adopted = 0
		names, err := t.poolsOr(ctx, pools)
		if err != nil {
			return err
		}
		// Whoever works on several machines holds their pools.
		if err := t.lockPools(ctx, names...); err != nil {
			return err
		}
		for _, name := range names {
			n, err := t.Exec(ctx, AdoptInstances, ms(now), name)
			if err != nil {
				return err
			}
			adopted += n
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("adopt instances: %w", err)
	}
	return int(adopted), nil
}

// Position implements pool.Store.
func (s *Store) Position(ctx context.Context, k pool.LeaseKey, name string, limit int) (int, error) {
	place := 0
	err := s.read(ctx, func(ctx context.Context, t txn) error {
		place = 0
		l, err := t.lease(ctx, k, false)
		if err != nil || limit < 1 {
			return err
		}
		var seq int64
		if waits, err := t.one(ctx, SelectPlace, []any{&seq}, name, l.Seq); err != nil || !waits {
			return err
		}
		n, err := t.ahead(ctx, name, l.Seq, limit-1, nil)
		place = n + 1
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("position of lease %q in pool %s: %w", k.ID, name, err)
	}
	return place, nil
}

// Lease implements pool.Store.
func (s *Store) Lease(ctx context.Context, id string) (pool.Lease, error) {
	return s.LeaseAt(ctx, pool.LeaseKey{ID: id})
}

// LeaseAt implements pool.Store.
func (s *Store) LeaseAt(ctx context.Context, k pool.LeaseKey) (pool.Lease, error) {
	var out pool.Lease
	err := s.look(ctx, func(ctx context.Context, t txn) error {
		l, err := t.lease(ctx, k, false)
		if err != nil {
			return err
		}
		err = l.decode()
		out = l.Lease
		return err
	})
	return out, err
}

// Instance implements pool.Store.
func (s *Store) Instance(ctx context.Context, id string) (pool.Instance, error) {
	var out pool.Instance
	err := s.look(ctx, func(ctx context.Context, t txn) error {
		i, err := t.instance(ctx, id, false)
		if err != nil {
			return err
		}
		err = t.open(i)
		out = i.Instance
		return err
	})
	return out, err
}

// filter collects the conditions of a listing with their arguments.
type filter struct {
	conds []string
	args  []any
}

// add appends a condition in which % stands for the argument's parameter.
func (f *filter) add(cond string, arg any) {
	f.args = append(f.args, arg)
	f.conds = append(f.conds, strings.ReplaceAll(cond, "%", "$"+strconv.Itoa(len(f.args))))
}

func addStates[S ~string](f *filter, states []S) {
	if len(states) == 0 {
		return
	}
	marks := make([]string, len(states))
	for k, s := range states {
		f.args = append(f.args, string(s))
		marks[k] = "$" + strconv.Itoa(len(f.args))
	}
	f.conds = append(f.conds, "state IN ("+strings.Join(marks, ", ")+")")
}

// text completes a SELECT. A limit of 0 is none.
func (f *filter) text(head, order string, limit int) string {
	where := ""
	if len(f.conds) > 0 {
		where = " WHERE " + strings.Join(f.conds, " AND ")
	}
	if limit <= 0 {
		limit = math.MaxInt32
	}
	return head + where + order + " LIMIT " + strconv.Itoa(limit)
}

// Instances implements pool.Store.
func (s *Store) Instances(ctx context.Context, q pool.InstanceQuery) ([]pool.Instance, error) {
	var f filter
	if q.Live {
		f.conds = append(f.conds, "state <> 'gone'")
	}
	if q.Pool != "" {
		f.add("pool = %", q.Pool)
	}
	if q.Scope != "" {
		f.add("scope = %", q.Scope)
	}
	if q.Lease != "" {
		f.add("lease_id <> '' AND lease_id = %", q.Lease)
	}
	addStates(&f, q.States)
	text := f.text(`SELECT `+instanceColumns+` FROM instances`, ` ORDER BY created DESC, id DESC`, q.Limit)
	var out []pool.Instance
	err := s.look(ctx, func(ctx context.Context, t txn) (err error) {
		out, err = t.instances(t.QueryText(ctx, text, f.args...))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list instances: %w", err)
	}
	return out, nil
}

// Leases implements pool.Store.
func (s *Store) Leases(ctx context.Context, q pool.LeaseQuery) ([]pool.Lease, error) {
	var f filter
	if q.Live {
		f.conds = append(f.conds, "state NOT IN ('ended', 'lost')")
	}
	if q.Pool != "" {
		// Those it was given from the pool, and those that wait for it.
		f.add("(pool = % OR seq IN (SELECT seq FROM lease_choices WHERE lease_choices.pool = %))", q.Pool)
	}
	addStates(&f, q.States)
	text := f.text(`SELECT `+leaseColumns+` FROM leases`, ` ORDER BY seq DESC`, q.Limit)
	var out []pool.Lease
	err := s.look(ctx, func(ctx context.Context, t txn) (err error) {
		out, err = leases(t.QueryText(ctx, text, f.args...))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	return out, nil
}

// Events implements pool.Store.
func (s *Store) Events(ctx context.Context, q pool.EventQuery) ([]pool.Event, error) {
	var f filter
	if q.After > 0 {
		f.add("id > %", q.After)
	}
	if q.Pool != "" {
		f.add("pool <> '' AND pool = %", q.Pool)
	}
	if q.Instance != "" {
		f.add("instance <> '' AND instance = %", q.Instance)
	}
	if q.Lease != "" {
		f.add("lease <> '' AND lease = %", q.Lease)
	}
	text := f.text(`SELECT id, at, pool, instance, lease, generation, reason, message FROM events`, ` ORDER BY id`, q.Limit)
	var out []pool.Event
	err := s.look(ctx, func(ctx context.Context, t txn) error {
		out = nil
		rows, err := t.QueryText(ctx, text, f.args...)
		return each(rows, err, func(r *sql.Rows) error {
			var e pool.Event
			if err := r.Scan(&e.ID, (*stamp)(&e.At), &e.Pool, &e.Instance, &e.Lease, &e.Generation, &e.Reason, &e.Message); err != nil {
				return err
			}
			out = append(out, e)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list events: %w", err)
	}
	return out, nil
}

// Note implements pool.Store.
func (s *Store) Note(ctx context.Context, events ...pool.Event) error {
	for _, e := range events {
		if e.At.IsZero() {
			return fmt.Errorf("note event %s: %w: it has no time", e.Reason, pool.ErrInvalid)
		}
	}
	err := s.write(ctx, func(ctx context.Context, t txn) error { return t.events(ctx, 0, events) })
	if err != nil {
		return fmt.Errorf("note events: %w", err)
	}
	return nil
}

// Recount implements pool.Store.
func (s *Store) Recount(ctx context.Context) ([]pool.Drift, error) {
	var out []pool.Drift
	err := s.write(ctx, func(ctx context.Context, t txn) error {
		out = nil
		names, err := t.poolsOr(ctx, nil)
		if err != nil {
			return err
		}
		for _, name := range names {
			drift, err := t.recount(ctx, name)
			if err != nil && !errors.Is(err, pool.ErrNotFound) {
				return err
			}
			out = append(out, drift...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("recount machines: %w", err)
	}
	return out, nil
}

// Purge implements pool.Store. A zero time in p removes nothing of its kind.
func (s *Store) Purge(ctx context.Context, p pool.Purge) (int, error) {
	var purged int64
	err := s.write(ctx, func(ctx context.Context, t txn) error {
		purged = 0
		for _, kind := range []struct {
			s      Stmt
			before time.Time
		}{
			// Instances first: a lease stays while its machine's row is live.
			{PurgeInstances, p.Rows}, {PurgeLeases, p.Rows}, {PurgeEvents, p.Events}, {PurgeTombstones, p.Now},
		} {
			if kind.before.IsZero() || p.Limit <= 0 {
				continue
			}
			n, err := t.Exec(ctx, kind.s, ms(kind.before), int64(p.Limit))
			if err != nil {
				return err
			}
			purged += n
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("purge: %w", err)
	}
	return int(purged), nil
}

// Ping implements pool.Store.
func (s *Store) Ping(ctx context.Context) error {
	err := s.write(ctx, func(ctx context.Context, t txn) error { return must(t.Exec(ctx, Probe)) })
	if err != nil {
		return fmt.Errorf("ping store: %w", err)
	}
	return nil
}

var _ pool.Store = (*Store)(nil)
