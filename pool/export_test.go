package pool

import "context"

// Pass makes one pass of a pool's planner. dear makes it the one of a minute
// that measures what the pool has spent as well. The engine must not run.
func (m *Manager) Pass(ctx context.Context, name string, dear bool) error {
	rt := m.pools[name]
	if dear {
		rt.cost.measured = m.now().Add(-costEvery)
	}
	_, err := m.planPool(ctx, rt)
	return err
}

// Sweep compares every scope with the store once. The engine must run, and
// sweep seldom by itself.
func (m *Manager) Sweep(ctx context.Context) error {
	for _, sc := range m.scopes {
		if err := m.sweep(ctx, sc); err != nil {
			return err
		}
	}
	return nil
}
