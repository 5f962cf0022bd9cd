package pool

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// plannerTick is how often a pool is looked at without a reason.
	plannerTick = 10 * time.Second
	// plannerGap is the least time between two passes: under load one pass
	// serves many claims. A claim after a quiet moment is served at once.
	plannerGap = 5 * time.Millisecond
	// planWaiters bounds the waiting leases one pass looks at.
	planWaiters = 64
	// refillBatch bounds how many intents are written side by side.
	refillBatch = 32
)

// runPlanner plans one pool whenever it is woken, and now and then anyway.
func (m *Manager) runPlanner(ctx context.Context, rt *runtime) {
	tick := time.NewTicker(plannerTick)
	defer tick.Stop()
	rt.nudge()
	gap := time.NewTimer(0)
	defer gap.Stop()
	retry := time.NewTimer(plannerTick) // set to the end of a pool's pause
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-retry.C:
		case <-rt.wake:
		}
		select {
		case <-ctx.Done():
			return
		case <-gap.C:
		}
		if err := m.planPool(ctx, rt); err != nil && ctx.Err() == nil {
			m.log.Error("pool not planned", "pool", rt.cfg.Name, "err", err)
		}
		gap.Reset(plannerGap)
		if pause := rt.backoff.wait(m.now()); pause > 0 {
			retry.Reset(pause)
		}
	}
}

// planPool makes one pass: read, decide, act. A failing action does not keep
// the others from being tried.
func (m *Manager) planPool(ctx context.Context, rt *runtime) error {
	snap, err := m.store.Snapshot(ctx, rt.cfg.Name, planWaiters, m.stamp())
	if err != nil {
		return err
	}
	paused := rt.backoff.wait(m.now())
	actions := plan(planConfig{
		Min: rt.cfg.Min, Max: rt.cfg.Max, Retired: rt.retired, Recipe: rt.recipe,
		KeepDrifted: m.keepDrifted, Paused: paused > 0,
	}, snap)
	var errs []error
	for _, a := range actions {
		switch {
		case a.Cold != nil:
			errs = append(errs, m.planCold(ctx, rt, *a.Cold))
		case a.Refill > 0:
			errs = append(errs, m.planRefill(ctx, rt, a.Refill))
		case a.Replace != nil:
			errs = append(errs, m.planReplace(ctx, *a.Replace))
		case a.Surplus > 0:
			errs = append(errs, m.planSurplus(ctx, rt, a.Surplus))
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) planCold(ctx context.Context, rt *runtime, l Lease) error {
	i := slices.IndexFunc(l.Choices, func(c Choice) bool { return c.Pool == rt.cfg.Name })
	if i < 0 || m.calls.asks(l.ID) {
		return nil
	}
	inst, err := m.coldStart(ctx, l, l.Choices[i])
	switch {
	case err == nil:
		m.hub.notify(leaseKey(l.ID))
		m.work.launch(m, inst)
		return nil
	case errors.Is(err, ErrLimit), errors.Is(err, ErrConflict), errors.Is(err, ErrRetired):
		return nil // somebody else was first: the next pass sees what is left
	default:
		return err
	}
}

func (m *Manager) planRefill(ctx context.Context, rt *runtime, n int) error {
	var g errgroup.Group
	g.SetLimit(refillBatch)
	for range n {
		g.Go(func() error {
			inst, err := m.refill(ctx, rt)
			if errors.Is(err, ErrLimit) || errors.Is(err, ErrRetired) {
				return nil
			}
			if err == nil {
				m.work.launch(m, inst)
			}
			return err
		})
	}
	return g.Wait()
}

func (m *Manager) planReplace(ctx context.Context, inst Instance) error {
	next, err := m.condemn(ctx, inst, evidence{Why: ReasonDrifted}, "made from an older recipe of its pool")
	return m.dispatchCondemned(next, err)
}

func (m *Manager) planSurplus(ctx context.Context, rt *runtime, n int) error {
	// Rare (the pool's size was lowered, or a request left its machine), so a
	// listing is fine here; no request waits for it.
	warm, err := m.store.Instances(ctx, InstanceQuery{Pool: rt.cfg.Name, States: []InstanceState{Warm}})
	if err != nil {
		return err
	}
	slices.Reverse(warm) // newest first becomes oldest first
	var errs []error
	for _, inst := range warm[:min(n, len(warm))] {
		next, err := m.condemn(ctx, inst, evidence{Why: ReasonSurplus}, "more warm machines than the pool wants")
		errs = append(errs, m.dispatchCondemned(next, err))
	}
	return errors.Join(errs...)
}

func (m *Manager) dispatchCondemned(next *Instance, err error) error {
	if errors.Is(err, ErrConflict) {
		return nil // claimed meanwhile: the claim was first
	}
	if err == nil && next != nil {
		m.work.dispatch(m, *next)
	}
	return err
}
