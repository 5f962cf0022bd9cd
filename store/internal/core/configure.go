package core

import (
	"context"
	"fmt"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// ConfigurePool implements pool.Store.
func (s *Store) ConfigurePool(ctx context.Context, p pool.PoolRow, now time.Time) error {
	platform, err := checkPool(p)
	if err == nil {
		err = s.write(ctx, func(ctx context.Context, t txn) error {
			if p.Retired {
				_, err := t.Exec(ctx, RetirePool, ms(now), p.Name)
				return err
			}
			return t.putPool(ctx, p, platform, now)
		})
	}
	if err != nil {
		return fmt.Errorf("configure pool %s: %w", p.Name, err)
	}
	return nil
}

// checkPool refuses what cannot be a pool and returns its platform as stored.
func checkPool(p pool.PoolRow) (platform string, err error) {
	if err := checkID("pool", p.Name); err != nil {
		return "", err
	}
	if p.Min < 0 || p.Max < 0 {
		return "", fmt.Errorf("%w: pool %s has min %d and max %d", pool.ErrInvalid, p.Name, p.Min, p.Max)
	}
	return encodeJSON(p.Platform, false)
}

func (t txn) putPool(ctx context.Context, p pool.PoolRow, platform string, now time.Time) error {
	_, err := t.Exec(ctx, UpsertPool, p.Name, clean(p.Driver), clean(p.Scope), int64(p.Min), int64(p.Max),
		clean(p.SpecHash), clean(string(p.LastSpec)), platform, ms(now))
	return err
}
