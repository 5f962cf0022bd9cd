package pool

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"
)

// costEvery is how often what a pool has spent is compared with its cap.
const costEvery = time.Minute

// costMemory is what a pool has spent today, as last measured. The time belongs
// to the planner; the hours are safe for concurrent use.
type costMemory struct {
	measured time.Time
	bits     atomic.Uint64
}

func (c *costMemory) hours() float64      { return math.Float64frombits(c.bits.Load()) }
func (c *costMemory) set(d time.Duration) { c.bits.Store(math.Float64bits(d.Hours())) }

// guardCost measures once a minute what the pool has spent since midnight, and
// closes its gate until the next one when that is as much as it may.
func (m *Manager) guardCost(ctx context.Context, rt *runtime) error {
	now := m.stamp()
	if now.Sub(rt.cost.measured).Abs() < costEvery {
		return nil
	}
	rt.cost.measured = now
	spent, err := m.store.Spent(ctx, rt.cfg.Name, now.Truncate(24*time.Hour), now)
	if errors.Is(err, ErrNotYet) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("what pool %s has spent: %w", rt.cfg.Name, err)
	}
	rt.cost.set(spent.Time)
	rt.breaker.change(func(g Gate) (Gate, []Event) {
		next := g.capped(rt.cfg.Guards.HoursPerDay, spent.Time, now)
		switch {
		case next.Reason == GateCost && next != g:
			return next, []Event{closing(rt.cfg.Name, g, next, now)}
		case g.Reason == GateCost && next.Reason != GateCost:
			return next, []Event{opening(rt.cfg.Name, g, now)}
		default:
			return g, nil
		}
	})
	return nil
}

// capped is the gate after a look at what was spent since midnight UTC, of hours
// a day; 0 is no bound. It is pure.
func (g Gate) capped(hours float64, spent time.Duration, now time.Time) Gate {
	over := hours > 0 && spent.Hours() >= hours
	switch {
	case over && (g.Reason != GateCost || !now.Before(g.Until)):
		// Also once more: the next day, or after the clock was set.
		return Gate{
			Reason: GateCost, Detail: fmt.Sprintf("%.1f of %g machine-hours of this UTC day are spent (hours_per_day)", spent.Hours(), hours),
			Since: now, Until: now.Truncate(24 * time.Hour).Add(24 * time.Hour), Failures: g.Failures, Kept: g.Kept,
		}
	case !over && g.Reason == GateCost:
		return Gate{Failures: g.Failures, Kept: g.Kept}
	default:
		return g
	}
}
