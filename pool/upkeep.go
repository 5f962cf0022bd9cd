package pool

import (
	"context"
	"errors"
	"time"
)

// forgetEvery is how often ended leases are looked for among those whose steps
// are remembered here.
const forgetEvery = time.Minute

// forgetEnded drops the steps of leases that have ended without this process
// being asked for it: by age, by death, or at another replica.
func (m *Manager) forgetEnded(ctx context.Context) {
	for _, id := range m.steps.leases() {
		l, err := m.store.Lease(ctx, id)
		if errors.Is(err, ErrNotFound) || err == nil && l.State.Final() {
			m.steps.forget(id)
		}
	}
}

// gatesAfterJump has the gates that would stay closed for as long as the clock
// was set back tried soon.
func (m *Manager) gatesAfterJump(ctx context.Context, now time.Time) error {
	rows, err := m.store.Pools(ctx)
	errs := []error{err}
	for _, row := range rows {
		rt := m.pools[row.Name]
		if rt == nil || !row.Gate.Since.After(now) {
			continue
		}
		g := row.Gate
		g.Since, g.Until = now, now.Add(time.Minute)
		errs = append(errs, m.store.SetGate(ctx, row.Name, g, now))
		rt.kick()
	}
	return errors.Join(errs...)
}

// mending is when due times are put right after a jump of the wall clock: at
// once, and every minute for a while, since what began before the jump is
// written after it with the time it began. It belongs to the keeper's loop;
// the zero value has seen no jump.
type mending struct {
	next, until time.Duration // by the clock that does not jump
}

// mendFor is longer than any call takes from its decision to its write.
const mendFor = 10 * time.Minute

// due says whether it is time, at up. jumped says that the clock has jumped
// since it was last asked.
func (r *mending) due(up time.Duration, jumped bool) bool {
	if jumped {
		r.next, r.until = up, up+mendFor
	}
	if up < r.next || up >= r.until {
		return false
	}
	r.next = up + time.Minute
	return true
}

// afterJump puts right what a jump of the wall clock did to due times: one that
// was set back by a day would else leave every row that is on its way, and
// every request, alone for a day. Rows that are due early lose nothing.
func (m *Manager) afterJump(ctx context.Context, now time.Time) error {
	_, err := m.store.Adopt(ctx, m.order, now)
	errs := []error{err}
	broken, err := m.store.Instances(ctx, InstanceQuery{States: []InstanceState{Failed}})
	errs = append(errs, err)
	for _, inst := range broken {
		// What waits for its owner is due in years by any clock.
		byAge := inst.Due.Before(now.Add(farFuture / 2))
		if !byAge || m.pools[inst.Pool] == nil || !inst.Due.After(now.Add(time.Hour)) {
			continue
		}
		err := m.store.Postpone(ctx, inst.ID, Failed, Postponement{
			Due: now.Add(time.Hour), Attempts: inst.Attempts, Reason: inst.Reason, Detail: inst.Detail, Now: now,
		})
		if !errors.Is(err, ErrConflict) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, m.gatesAfterJump(ctx, now))
	leases, err := m.store.Leases(ctx, LeaseQuery{States: []LeaseState{LeaseWaiting, LeaseStarting}})
	errs = append(errs, err)
	for _, l := range leases {
		latest := now.Add(m.startBudget())
		if l.Waiter == "" {
			latest = now.Add(m.t.Grace)
		}
		if !l.Due.After(latest) {
			continue
		}
		if err := m.store.PostponeLease(ctx, l.Key(), latest, now); !errors.Is(err, ErrConflict) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
