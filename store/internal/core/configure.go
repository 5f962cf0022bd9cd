package core

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// Configure implements pool.Store.
func (s *Store) Configure(ctx context.Context, pools []pool.PoolRow, now time.Time) error {
	rows := make(map[string]*poolRow, len(pools))
	names := make([]string, 0, len(pools))
	for _, p := range pools {
		if _, twice := rows[p.Name]; twice {
			return fmt.Errorf("configure pools: %w: pool %s is given twice", pool.ErrInvalid, p.Name)
		}
		row, err := checkPool(p)
		if err != nil {
			return fmt.Errorf("configure pools: %w", err)
		}
		rows[p.Name] = row
		names = append(names, p.Name)
	}
	err := s.write(ctx, func(ctx context.Context, t txn) error {
		var stored []string
		r, err := t.Query(ctx, SelectPoolNames)
		if err := each(r, err, scanStrings(&stored)); err != nil {
			return err
		}
		stored = append(stored, names...)
		slices.Sort(stored)
		for _, name := range slices.Compact(stored) {
			if row, stays := rows[name]; stays {
				err = t.putPool(ctx, row, now)
			} else {
				_, err = t.Exec(ctx, RetirePool, ms(now), name)
			}
			if err != nil {
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

// ConfigurePool implements pool.Store.
func (s *Store) ConfigurePool(ctx context.Context, p pool.PoolRow, now time.Time) error {
	row, err := checkPool(p)
	if err == nil {
		err = s.write(ctx, func(ctx context.Context, t txn) error {
			if p.Retired {
				_, err := t.Exec(ctx, RetirePool, ms(now), p.Name)
				return err
			}
			return t.putPool(ctx, row, now)
		})
	}
	if err != nil {
		return fmt.Errorf("configure pool %s: %w", p.Name, err)
	}
	return nil
}

// checkPool refuses what cannot be a pool and returns its row with the texts
// that are stored.
func checkPool(p pool.PoolRow) (*poolRow, error) {
	if err := checkID("pool", p.Name); err != nil {
		return nil, err
	}
	if p.Min < 0 || p.Max < 0 || p.PerMinute < 0 {
		return nil, fmt.Errorf("%w: pool %s has min %d, max %d and %d a minute", pool.ErrInvalid, p.Name, p.Min, p.Max, p.PerMinute)
	}
	if err := checkFlavours(p); err != nil {
		return nil, err
	}
	row := &poolRow{PoolRow: p}
	var err error
	if row.platform, err = encodeJSON(p.Platform, false); err != nil {
		return nil, err
	}
	row.recipe, err = encodeJSON(p.Recipes, len(p.Recipes) == 0)
	return row, err
}

// putPool writes what a pool is configured with; what happened to it stays.
func (t txn) putPool(ctx context.Context, p *poolRow, now time.Time) error {
	if err := t.sealSpec(p); err != nil {
		return err
	}
	if _, err := t.Exec(ctx, UpsertPool, p.Name, clean(p.Driver), clean(p.Scope), int64(p.Min), int64(p.Max),
		clean(p.SpecHash), p.spec, p.platform, ms(now), p.recipe, int64(p.PerMinute),
		int64(len(p.Flavours))); err != nil {
		return err
	}
	return t.setFlavours(ctx, p.PoolRow)
}
