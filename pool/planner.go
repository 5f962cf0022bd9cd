package pool

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// plannerTick is how often a pool is looked at without a reason.
	plannerTick = 10 * time.Second
	// plannerGap is the least time between the beginnings of two passes: under
	// load one pass serves many claims. A claim after a quiet moment is served
	// at once.
	plannerGap = 5 * time.Millisecond
	// planWaiters bounds the waiting leases one pass looks at.
	planWaiters = 64
	// intentBatch bounds how many intents are written side by side.
	intentBatch = 32
)

// runPlanner plans one pool whenever it is woken, and now and then anyway.
func (m *Manager) runPlanner(ctx context.Context, rt *runtime) {
	tick := time.NewTicker(plannerTick)
	defer tick.Stop()
	rt.nudge()
	gap := time.NewTimer(0)
	defer gap.Stop()
	retry := time.NewTimer(plannerTick) // set to when something changes by itself
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
		gap.Reset(plannerGap)
		next, err := m.planPool(ctx, rt)
		if err != nil && ctx.Err() == nil {
			m.log.Error("pool not planned", "pool", rt.cfg.Name, "err", err)
		}
		if !next.IsZero() {
			retry.Reset(max(0, next.Sub(m.now())) + time.Millisecond)
		}
	}
}

// planPool makes one pass: read, decide, act. A failing action does not keep
// the others from being tried. next is when the plan changes although nothing
// happens, zero if it does not.
func (m *Manager) planPool(ctx context.Context, rt *runtime) (next time.Time, err error) {
	_, version := rt.breaker.now()
	snap, err := m.store.Snapshot(ctx, rt.cfg.Name, planWaiters, m.stamp())
	if err != nil {
		return next, err
	}
	rt.breaker.adopt(snap.Gate, version)
	errs := []error{m.guardCost(ctx, rt)}
	errs = append(errs, m.saveGate(ctx, rt))
	snap.Gate, _ = rt.breaker.now()
	now := m.stamp()
	want, next := m.planConfig(ctx, rt, snap, now)
	did := func(err error) {
		if closed, ok := errors.AsType[*ClosedError](err); ok {
			// The store keeps the bound; the planner only comes back for it.
			next = sooner(next, closed.Gate.Until, now)
			err = nil
		}
		errs = append(errs, err)
	}
	actions := plan(want, snap, now)
	cold := 0
	for cold < len(actions) && actions[cold].Cold != nil {
		cold++
	}
	width := intentBatch
	if rt.cfg.Guards.PerMinute > 0 {
		width = 1 // whose place in the minute it is goes by who asks first
	}
	for _, err := range sideBySide(cold, width, func(i int) error { return m.planCold(ctx, rt, *actions[i].Cold) }) {
		did(err)
	}
	for _, a := range actions[cold:] {
		did(m.act(ctx, rt, a))
	}
	for _, err := range m.tellWaiting(ctx, rt, snap, now) {
		did(err)
	}
	return next, errors.Join(errs...)
}

// sideBySide writes n intents, width at a time, so that they share commits: one
// after the other they would hold up whatever is planned after them.
func sideBySide(n, width int, write func(i int) error) []error {
	errs := make([]error, n)
	var g errgroup.Group
	g.SetLimit(width)
	for i := range n {
		g.Go(func() error {
			errs[i] = write(i)
			return nil
		})
	}
	_ = g.Wait() // they are in errs
	return errs
}

// tellWaiting has those who wait already told once that the pool's gate has
// closed, or that an operator has stopped it: the refusal of their intent
// becomes the reason of their leases.
func (m *Manager) tellWaiting(ctx context.Context, rt *runtime, snap Snapshot, now time.Time) []error {
	var since time.Time
	switch {
	case snap.Override.Stopped:
		since = snap.Override.Since
	case snap.Gate.Closed(now):
		since = snap.Gate.Since
	}
	if since.IsZero() || since.Equal(rt.told) {
		rt.told = since
		return nil
	}
	rt.told = since
	return sideBySide(len(snap.Waiting), intentBatch, func(i int) error {
		defer m.hub.notify(leaseKey(snap.Waiting[i].ID))
		return m.planCold(ctx, rt, snap.Waiting[i])
	})
}

// planConfig is what is wanted of a pool now, and when that changes by itself.
func (m *Manager) planConfig(ctx context.Context, rt *runtime, snap Snapshot, now time.Time) (want planConfig, next time.Time) {
	mins, next := targets(rt.cfg, rt.flavours, snap.Override, now)
	want = planConfig{
		Max: rt.cfg.Max, Retired: rt.retired, KeepDrifted: m.keepDrifted, Turn: rt.turn, Ramp: rt.ramp.limit(),
	}
	restless := m.restless(ctx, rt, now)
	for i, f := range rt.flavours {
		want.Flavours = append(want.Flavours, flavourTarget{
			Tenant: f.tenant.id, Variant: f.ID, Min: mins[i],
			Hibernate: f.hibernates(), Running: rt.cfg.Running, Restless: restless[f],
		})
	}
	next = sooner(next, snap.Gate.Until, now)
	return want, sooner(next, snap.Gate.refillAfter(), now)
}

// sooner is the earlier of two times after now; a zero one is never.
func sooner(a, b, now time.Time) time.Time {
	if !b.After(now) || (!a.IsZero() && a.Before(b)) {
		return a
	}
	return b
}

// act does one action of a plan that is not about a lease.
func (m *Manager) act(ctx context.Context, rt *runtime, a action) error {
	switch {
	case a.Replace != nil:
		return m.planReplace(ctx, *a.Replace)
	case a.Refill > 0:
		return m.planMore(ctx, rt, a)
	case a.Surplus > 0:
		return m.planSurplus(ctx, rt, a)
	case a.Wake > 0:
		return m.planWake(ctx, rt, a)
	case a.Hibernate > 0:
		return m.planHibernate(ctx, rt, a)
	default:
		return nil
	}
}

func (m *Manager) planCold(ctx context.Context, rt *runtime, l Lease) error {
	i := slices.IndexFunc(l.Choices, func(c Choice) bool { return c.Pool == rt.cfg.Name })
	if i < 0 || m.calls.asks(l.ID) {
		return nil
	}
	if l.Kind == Gitspace {
		// Only its setup has its init script: it asks for the place itself.
		m.hub.notify(leaseKey(l.ID))
		return nil
	}
	inst, err := m.coldStart(ctx, l, l.Choices[i], "")
	switch {
	case err == nil:
		m.hub.notify(leaseKey(l.ID))
		m.work.dispatch(m, inst)
		return nil
	case errors.Is(err, ErrLimit), errors.Is(err, ErrConflict), errors.Is(err, ErrRetired):
		return nil // somebody else was first: the next pass sees what is left
	default:
		return err
	}
}

// planMore writes the intents of a flavour's refill.
func (m *Manager) planMore(ctx context.Context, rt *runtime, a action) error {
	at := slices.IndexFunc(rt.flavours, func(f *flavour) bool { return same(f.tenant.id, a.Tenant) && same(f.ID, a.Variant) })
	if at < 0 {
		return nil
	}
	rt.turn = (at + 1) % len(rt.flavours)
	return errors.Join(sideBySide(a.Refill, intentBatch, func(int) error {
		inst, err := m.refill(ctx, rt, rt.flavours[at])
		if errors.Is(err, ErrLimit) || errors.Is(err, ErrRetired) {
			return nil
		}
		if err == nil {
			m.work.dispatch(m, inst)
		}
		return err
	})...)
}

func (m *Manager) planReplace(ctx context.Context, inst Instance) error {
	next, err := m.condemn(ctx, inst, evidence{Why: ReasonDrifted}, "made from an older recipe of its pool")
	return m.dispatchCondemned(next, err)
}

// planSurplus destroys free machines of a flavour: those on disk first, and
// the oldest first.
func (m *Manager) planSurplus(ctx context.Context, rt *runtime, a action) error {
	free, err := m.freeMachines(ctx, rt, a, Hibernated, Warm)
	if err != nil {
		return err
	}
	slices.SortStableFunc(free, func(x, y Instance) int {
		return cmp.Or(-cmp.Compare(asleep(x), asleep(y)), x.Created.Compare(y.Created))
	})
	var errs []error
	for _, inst := range free[:min(a.Surplus, len(free))] {
		next, err := m.condemn(ctx, inst, evidence{Why: ReasonSurplus}, "more free machines than the pool wants, or than its limit has room for beside waiting requests")
		errs = append(errs, m.dispatchCondemned(next, err))
	}
	return errors.Join(errs...)
}

func asleep(i Instance) int {
	if i.State == Hibernated {
		return 1
	}
	return 0
}

// freeMachines lists a flavour's machines in the given states that no operator
// holds, newest first. That is rare (a pool's size was lowered, a tier is
// filled), and no request waits for it.
func (m *Manager) freeMachines(ctx context.Context, rt *runtime, a action, states ...InstanceState) ([]Instance, error) {
	all, err := m.store.Instances(ctx, InstanceQuery{Pool: rt.cfg.Name, States: states})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(i Instance) bool {
		return i.Held || !same(i.Tenant, a.Tenant) || !same(i.Variant, a.Variant)
	}), nil
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
