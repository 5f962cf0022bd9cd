package core

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// driftSample is how many drifted machines a snapshot names: the planner's
// budget is smaller.
const driftSample = 16

// Controller implements pool.Store.
func (s *Store) Controller(ctx context.Context, incarnation string, now time.Time) (pool.Controller, error) {
	var c pool.Controller
	err := checkID("incarnation", incarnation)
	if err == nil {
		var id [16]byte
		// Read never fails; see crypto/rand.
		_, _ = rand.Read(id[:])
		err = s.write(ctx, func(ctx context.Context, t txn) error {
			// The row's guard makes it once, whoever is first.
			if _, err := t.Exec(ctx, SetController, hex.EncodeToString(id[:]), ms(now)); err != nil {
				return err
			}
			var key string
			if _, err := t.one(ctx, SelectMeta, []any{&c.ID, (*stamp)(&c.Born), &key}); err != nil {
				return err
			}
			_, err := t.Exec(ctx, InsertIncarnation, incarnation, ms(now))
			return err
		})
	}
	if err != nil {
		return pool.Controller{}, fmt.Errorf("record incarnation %s: %w", incarnation, err)
	}
	return c, nil
}

// Heartbeat implements pool.Store.
func (s *Store) Heartbeat(ctx context.Context, incarnation string, now time.Time) error {
	err := s.write(ctx, func(ctx context.Context, t txn) error {
		return must(t.Exec(ctx, Beat, ms(now), incarnation))
	})
	if err != nil {
		return fmt.Errorf("heartbeat of incarnation %s: %w", incarnation, err)
	}
	return nil
}

// Lifetimes implements pool.Store.
func (s *Store) Lifetimes(ctx context.Context) ([]pool.Lifetime, error) {
	var out []pool.Lifetime
	err := s.look(ctx, func(ctx context.Context, t txn) error {
		out = nil
		rows, err := t.Query(ctx, SelectIncarnations)
		return each(rows, err, func(r *sql.Rows) error {
			var l pool.Lifetime
			if err := r.Scan(&l.Incarnation, (*stamp)(&l.From), (*stamp)(&l.To)); err != nil {
				return err
			}
			out = append(out, l)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list lifetimes: %w", err)
	}
	return out, nil
}

// Configure implements pool.Store.
func (s *Store) Configure(ctx context.Context, pools []pool.PoolRow, now time.Time) error {
	type given struct {
		pool.PoolRow
		platform string
	}
	rows := make(map[string]given, len(pools))
	names := make([]string, 0, len(pools))
	for _, p := range pools {
		if _, twice := rows[p.Name]; twice {
			return fmt.Errorf("configure pools: %w: pool %s is given twice", pool.ErrInvalid, p.Name)
		}
		platform, err := checkPool(p)
		if err != nil {
			return fmt.Errorf("configure pools: %w", err)
		}
		rows[p.Name] = given{p, platform}
		names = append(names, p.Name)
	}
	slices.Sort(names)
	err := s.write(ctx, func(ctx context.Context, t txn) error {
		var stored []string
		r, err := t.Query(ctx, SelectPoolNames)
		if err := each(r, err, scanStrings(&stored)); err != nil {
			return err
		}
		for _, name := range stored {
			if _, stays := rows[name]; stays {
				continue
			}
			if _, err := t.Exec(ctx, RetirePool, ms(now), name); err != nil {
				return err
			}
		}
		for _, name := range names {
			if err := t.putPool(ctx, rows[name].PoolRow, rows[name].platform, now); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("configure pools: %w", err)
	}
	return nil
}

// Pools implements pool.Store.
func (s *Store) Pools(ctx context.Context) ([]pool.PoolRow, error) {
	var out []pool.PoolRow
	err := s.look(ctx, func(ctx context.Context, t txn) error {
		out = nil
		rows, err := t.Query(ctx, SelectPools)
		return each(rows, err, func(r *sql.Rows) error {
			var p poolRow
			if err := r.Scan(p.fields()...); err != nil {
				return err
			}
			if err := p.decode(); err != nil {
				return err
			}
			out = append(out, p.PoolRow)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list pools: %w", err)
	}
	return out, nil
}

// Hold implements pool.Store.
func (s *Store) Hold(ctx context.Context, name, replica string, ttl time.Duration) (pool.Hold, error) {
	var h pool.Hold
	err := checkID("replica", replica)
	if err == nil && ttl <= 0 {
		err = fmt.Errorf("%w: hold for %s", pool.ErrInvalid, ttl)
	}
	if err == nil {
		err = s.write(ctx, func(ctx context.Context, t txn) error {
			p, err := t.pool(ctx, name, true)
			if err != nil {
				return err
			}
			// The clock is read after the row is locked, or a hold could be
			// taken that was renewed meanwhile.
			now, err := t.Clock(ctx)
			if err != nil {
				return err
			}
			h = p.Hold
			h.Pool = name
			if h.Replica != replica {
				if h.Replica != "" && ms(h.Until) > now {
					return &pool.HeldError{Pool: name, Holder: h.Replica, Until: h.Until, Left: time.Duration(ms(h.Until)-now) * time.Millisecond}
				}
				h.Replica = replica
				h.Generation++
			}
			h.Until = at(now + ttl.Milliseconds())
			return must(t.Exec(ctx, HoldPool, h.Replica, h.Generation, ms(h.Until), name))
		})
	}
	if err != nil {
		return pool.Hold{}, fmt.Errorf("hold pool %s: %w", name, err)
	}
	return h, nil
}

// Snapshot implements pool.Store.
func (s *Store) Snapshot(ctx context.Context, name string, waiters int, _ time.Time) (pool.Snapshot, error) {
	var out pool.Snapshot
	err := s.read(ctx, func(ctx context.Context, t txn) error {
		p, err := t.pool(ctx, name, false)
		if err != nil {
			return err
		}
		out = pool.Snapshot{Pool: p.Name, Counted: p.Counted, Max: p.Max, Retired: p.Retired}
		drifted := false
		rows, err := t.Query(ctx, SelectGroups, name)
		if err := each(rows, err, func(r *sql.Rows) error {
			var g pool.Group
			if err := r.Scan((*string)(&g.State), &g.Variant, &g.Tenant, &g.Shape, &g.Recipe, (*number)(&g.Count)); err != nil {
				return err
			}
			out.Groups = append(out.Groups, g)
			drifted = drifted || g.State == pool.Warm && g.Recipe != p.SpecHash
			return nil
		}); err != nil {
			return err
		}
		if out.Waiting, err = leases(t.Query(ctx, SelectWaiting, name, int64(max(0, waiters)+1))); err != nil {
			return err
		}
		if len(out.Waiting) > waiters {
			out.Waiting, out.WaitingMore = out.Waiting[:max(0, waiters)], true
		}
		if drifted {
			out.Drifted, err = t.instances(t.Query(ctx, SelectDrifted, name, p.SpecHash, int64(driftSample)))
		}
		return err
	})
	if err != nil {
		return pool.Snapshot{}, fmt.Errorf("snapshot of pool %s: %w", name, err)
	}
	return out, nil
}

func scanStrings(into *[]string) func(*sql.Rows) error {
	return func(r *sql.Rows) error {
		var v string
		if err := r.Scan(&v); err != nil {
			return err
		}
		*into = append(*into, v)
		return nil
	}
}
