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
			if _, err := t.one(ctx, SelectRestored, []any{(*stamp)(&c.Restored), (*stamp)(&c.Copied)}); err != nil {
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

// Pools implements pool.Store.
func (s *Store) Pools(ctx context.Context) ([]pool.PoolRow, error) {
	var out []pool.PoolRow
	err := s.read(ctx, func(ctx context.Context, t txn) error {
		out = nil
		rows, err := t.Query(ctx, SelectPools)
		if err := each(rows, err, func(r *sql.Rows) error {
			var p poolRow
			if err := r.Scan(p.fields()...); err != nil {
				return err
			}
			if err := p.decode(); err != nil {
				return err
			}
			if err := t.openSpec(&p); err != nil {
				return err
			}
			out = append(out, p.PoolRow)
			return nil
		}); err != nil {
			return err
		}
		rows, err = t.Query(ctx, SelectAllFlavours)
		return each(rows, err, func(r *sql.Rows) error {
			var name string
			var f pool.FlavourRow
			if err := r.Scan(&name, &f.Tenant, &f.Variant, (*number)(&f.Max), (*number)(&f.Counted)); err != nil {
				return err
			}
			for k := range out {
				if out[k].Name == name {
					out[k].Flavours = append(out[k].Flavours, f)
				}
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list pools: %w", err)
	}
	return out, nil
}

// Snapshot implements pool.Store.
func (s *Store) Snapshot(ctx context.Context, name string, waiters int, _ time.Time) (pool.Snapshot, error) {
	var out pool.Snapshot
	err := s.read(ctx, func(ctx context.Context, t txn) error {
		p, err := t.pool(ctx, name, SelectPool)
		if err != nil {
			return err
		}
		out = pool.Snapshot{
			Pool: p.Name, Counted: p.Counted, Max: p.Max, Retired: p.Retired, Gate: p.Gate, Override: p.Override,
		}
		if p.flavours > 0 {
			if out.Flavours, err = t.flavours(ctx, name); err != nil {
				return err
			}
		}
		drifted := false
		rows, err := t.Query(ctx, SelectGroups, name)
		if err := each(rows, err, func(r *sql.Rows) error {
			var g pool.Group
			if err := r.Scan((*string)(&g.State), &g.Variant, &g.Tenant, &g.Shape, &g.Recipe, (*truth)(&g.Held), (*number)(&g.Count)); err != nil {
				return err
			}
			out.Groups = append(out.Groups, g)
			drifted = drifted || !g.Held && (g.State == pool.Warm || g.State == pool.Hibernated) && !slices.Contains(p.recipes(), g.Recipe)
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
			out.Drifted, err = t.drifted(ctx, name, p.recipes())
		}
		return err
	})
	if err != nil {
		return pool.Snapshot{}, fmt.Errorf("snapshot of pool %s: %w", name, err)
	}
	return out, nil
}

// drifted are a few of the free machines of a pool that were made of none of
// the given recipes, the oldest first.
func (t txn) drifted(ctx context.Context, name string, recipes []string) ([]pool.Instance, error) {
	f := filter{conds: []string{"state IN ('warm', 'hibernated')", "held = 0"}}
	f.add("pool = %", name)
	for _, r := range recipes {
		f.add("recipe <> %", r)
	}
	return t.instances(t.QueryText(ctx, f.text(`SELECT `+instanceColumns+` FROM instances`, ` ORDER BY created, id`, driftSample), f.args...))
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
