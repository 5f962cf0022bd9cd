package pool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Owns implements Service.
func (m *Manager) Owns(ctx context.Context, pool, lease string) (bool, error) {
	rt := m.pools[pool]
	if rt == nil || rt.retired {
		return false, nil
	}
	if lease == "" {
		return true, nil
	}
	l, err := m.store.Lease(ctx, lease)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if l.State == LeaseWaiting {
		return slices.ContainsFunc(l.Choices, func(c Choice) bool { return c.Pool == pool }), nil
	}
	return l.State != LeaseEnded && l.Pool == pool, nil
}

// Pending implements Service.
func (m *Manager) Pending(ctx context.Context) []string {
	var out []string
	if err := m.store.Ping(ctx); err != nil {
		out = append(out, "store: "+err.Error())
	}
	for _, name := range m.order {
		rt := m.pools[name]
		if rt.retired || rt.known.Load() && rt.tenured() == nil {
			continue // its machines are another replica's to make
		}
		if !rt.known.Load() {
			out = append(out, "pool "+name+": which replica holds it is not known yet")
			continue
		}
		tenants := m.pools[name].tenants
		for _, id := range slices.Sorted(maps.Keys(tenants)) {
			label := tenants[id].label()
			v, ok := m.pinged.Load(label)
			switch {
			case !ok:
				out = append(out, "pool "+label+": its driver has not answered yet")
			case v != "":
				out = append(out, fmt.Sprintf("pool %s: %s", label, v))
			}
		}
	}
	return out
}

// PoolStatus implements Service.
func (m *Manager) PoolStatus(ctx context.Context) ([]PoolStatus, error) {
	rows, err := m.store.Pools(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]PoolStatus, 0, len(rows))
	for _, row := range rows {
		st := PoolStatus{PoolRow: row, Counts: map[InstanceState]int{}}
		snap, err := m.store.Snapshot(ctx, row.Name, planWaiters, m.stamp())
		if err != nil {
			return nil, err
		}
		free := 0
		for _, g := range snap.Groups {
			st.Counts[g.State] += g.Count
			free += g.Count
		}
		// What the counter has beyond the free machines belongs to leases: most
		// are in use, the few others are looked at one by one.
		others, err := m.store.Instances(ctx, InstanceQuery{Pool: row.Name, States: []InstanceState{
			Creating, Booting, Resuming, Suspending, Suspended, Failed, Destroying,
		}})
		if err != nil {
			return nil, err
		}
		leased := snap.Counted - free
		for _, inst := range others {
			if inst.LeaseID != "" {
				st.Counts[inst.State]++
				leased--
			}
			if inst.State == Destroying && inst.Attempts > 0 {
				st.Failing++
				if st.FailingSince.IsZero() || inst.Since.Before(st.FailingSince) {
					st.FailingSince = inst.Since
				}
			}
		}
		if leased > 0 {
			st.Counts[Leased] += leased
		}
		st.Waiting = len(snap.Waiting)
		if rt := m.pools[row.Name]; rt != nil {
			st.Default = rt.cfg.Default
			st.SpentHours = rt.cost.hours()
			st.Problem = m.problem(rt, row)
			st.Here = rt.tenured() != nil
		} else if row.Retired && row.Counted > 0 {
			st.Problem = "the pool has left the pool file and its driver could not be opened; its machines are left alone"
		}
		out = append(out, st)
	}
	return out, nil
}

// problem says why a pool is not as it should be, "" if it is.
func (m *Manager) problem(rt *runtime, row PoolRow) string {
	now := m.stamp()
	switch {
	case row.Override.Stopped:
		return row.Override.String()
	case row.Gate.Closed(now):
		return (&ClosedError{Pool: row.Name, Gate: row.Gate}).Error()
	case row.Gate.Reason == GateBreaker:
		return "one machine is tried after failures: " + row.Gate.Detail
	}
	for _, id := range slices.Sorted(maps.Keys(rt.tenants)) {
		if v, ok := m.pinged.Load(rt.tenants[id].label()); ok && v != "" {
			return fmt.Sprint(v)
		}
	}
	if after := row.Gate.refillAfter(); now.Before(after) {
		return "machines could not be made lately, refill goes on at " + after.Format(time.RFC3339) + ": " + row.Gate.Detail
	}
	return ""
}

// Instances implements Service.
func (m *Manager) Instances(ctx context.Context, q InstanceQuery) ([]Instance, error) {
	return m.store.Instances(ctx, q)
}

// Leases implements Service.
func (m *Manager) Leases(ctx context.Context, q LeaseQuery) ([]Lease, error) {
	return m.store.Leases(ctx, q)
}

// Lease implements Service.
func (m *Manager) Lease(ctx context.Context, id string) (Lease, error) { return m.store.Lease(ctx, id) }

// Instance implements Service.
func (m *Manager) Instance(ctx context.Context, id string) (Instance, error) {
	return m.store.Instance(ctx, id)
}

// Events implements Service.
func (m *Manager) Events(ctx context.Context, q EventQuery) ([]Event, error) {
	return m.store.Events(ctx, q)
}

var _ Service = (*Manager)(nil)
