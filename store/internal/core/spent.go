package core

import (
	"context"
	"fmt"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// Spent implements pool.Store.
func (s *Store) Spent(ctx context.Context, name string, from, to time.Time) (pool.Spent, error) {
	var out pool.Spent
	// In one state of the database: a machine that goes between the two
	// statements would count twice or not at all.
	err := s.read(ctx, func(ctx context.Context, t txn) error {
		out = pool.Spent{}
		if _, err := t.pool(ctx, name, SelectPool); err != nil {
			return err
		}
		for _, stmt := range []Stmt{SpentGone, SpentLive} {
			var took, begun int64
			if _, err := t.one(ctx, stmt, []any{&took, &begun}, ms(from), ms(to), name); err != nil {
				return err
			}
			out.Time += time.Duration(took) * time.Millisecond
			out.Begun += int(begun)
		}
		return nil
	})
	if err != nil {
		return pool.Spent{}, fmt.Errorf("reckon what pool %s has spent: %w", name, err)
	}
	return out, nil
}
